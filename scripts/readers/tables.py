"""A data file, or one split of a dataset, as a table whose cells are checked.

Errors name the file, the row and the column, never what the cell holds. What the rows mean, and the file formats of
a single training task, belong to scripts/training/tasks.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import regex  # type: ignore[import-untyped]

from handler.archive import sha256
from scripts.cli.console import ScriptError
from scripts.readers.annotations import why_unlabelled
from scripts.readers.formats import Reader, Record, unknown_format

NUMBER = regex.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
INVISIBLE = regex.compile(r"\p{Cf}")


@dataclass(frozen=True)
class ColumnMapping:
    """The columns that hold the text, its pair and the labels.

    `separator` splits one label column into labels; `label_names` names the positions of a multi-hot list.
    """

    text: str
    pair: str | None
    labels: tuple[str, ...]
    separator: str | None = None
    label_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """The records of one file, or of one split of a dataset, each with its row number.

    In a table of several files a row number is an index of `locations`, which holds file and row.
    """

    name: str
    sha256: str
    header: tuple[str, ...]
    rows: tuple[tuple[int, Record], ...]
    locations: tuple[tuple[str, int], ...] = ()

    def error(self, row: int, column: str, reason: str, offset: int = 0) -> ScriptError:
        """Return an error that names file, row and column, not the cell's content; `offset` counts rows from `row`."""
        file, row = self.locations[row] if self.locations else (self.name, row)
        return ScriptError(f"{file} row {row + offset}, column {column}: {reason}")

    def require(self, columns: ColumnMapping) -> None:
        """Refuse a table that has no rows, or lacks a column."""
        if not self.rows:
            raise ScriptError(f"{self.name}: no rows")
        options = ("--text-column", "--pair-column", *("--label-column" for _ in columns.labels))
        for option, column in zip(options, (columns.text, columns.pair, *columns.labels), strict=True):
            if column is not None and column not in self.header:
                header = ", ".join(self.header)
                raise ScriptError(f"{self.name}: no column {column}; its columns are {header}: choose with {option}")

    def has_labels(self, columns: ColumnMapping) -> bool:
        """Return whether any row has a label; published test splits often withhold all of theirs."""
        cells = (record.get(column) for _, record in self.rows for column in columns.labels)
        return any(cell is not None and label_name(cell) for cell in cells)

    def text(self, row: int, record: Record, column: str) -> str:
        """Return the text of one cell; raises ScriptError where there is none."""
        return self.require_text(row, column, record.get(column))

    def require_text(self, row: int, column: str, cell: object, description: str = "the text") -> str:
        """Return a cell, or a part of one, that must be a text; `description` names it in an error."""
        if not isinstance(cell, str):
            state = "missing" if cell is None else f"not a string but {json_type(cell)}"
            raise self.error(row, column, f"{description} is {state}")
        if not cell.strip():
            raise self.error(row, column, f"{description} is empty")
        try:
            cell.encode()
        except UnicodeEncodeError:
            raise self.error(row, column, f"{description} holds half a surrogate pair") from None
        return cell

    def label(self, row: int, record: Record, column: str) -> str:
        """Return the label of one cell as a name; raises ScriptError where there is none."""
        cell = record.get(column)
        name = label_name(cell)
        if not name:
            raise self.error(row, column, f"the label is missing{why_unlabelled(record)}")
        if isinstance(cell, (list, dict)):
            raise self.error(row, column, f"the label is {json_type(cell)}, not one name or number")
        return name


def parse_list_cells(table: Table, columns: Iterable[str]) -> Table:
    """Return a table in which the cells of these columns are lists, where every filled one is written as a list.

    A list is written in JSON or, as pandas writes it into a CSV, in Python.
    """
    parsed: dict[str, list[object]] = {}
    for column in columns:
        cells = [record.get(column) for _, record in table.rows]
        if any(isinstance(cell, str) and cell.strip() for cell in cells):
            lists = [value for cell in cells if (value := parse_list(cell)) is not None]
            if len(lists) == len(cells):
                parsed[column] = list(lists)
    if not parsed:
        return table
    rows = tuple(
        (row, {**record, **{column: values[index] for column, values in parsed.items()}})
        for index, (row, record) in enumerate(table.rows)
    )
    return replace(table, rows=rows)


def parse_list(cell: object) -> list[object] | None:
    """Return the list in a cell, None for any other cell; an empty cell is an empty list.

    >>> parse_list("['a', 'b']"), parse_list('["a"]'), parse_list("[spam]"), parse_list("")
    (['a', 'b'], ['a'], None, [])
    """
    if cell is None or isinstance(cell, list):
        return cell or []
    if not isinstance(cell, str):
        return None
    if not (text := cell.strip()):
        return []
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return value if isinstance(value, list) else None
    return None


def label_name(cell: object) -> str:
    """Return the name of a label as its file writes it; a missing label is empty.

    NaN as a number is a missing value, as pandas writes it; "nan" as text is a name. The number 1.0 is 1: pandas writes
    whole numbers so where a cell of their column is empty.

    >>> [label_name(cell) for cell in (" 007 ", 7, 7.0, "7.0", True, None, float("nan"), "nan")]
    ['007', '7', '7', '7.0', 'true', '', '', 'nan']
    """
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return json.dumps(cell) if isinstance(cell, bool) else str(cell).strip()


def look_of(label: str) -> str | float:
    """Return what labels have in common that a person hardly tells apart: case, blanks, Unicode forms, ends of numbers.

    >>> look_of("Joy ") == look_of("joy"), look_of("1.0") == look_of("1"), look_of("1a") == look_of("1")
    (True, True, False)
    """
    key = " ".join(INVISIBLE.sub("", unicodedata.normalize("NFKC", label)).casefold().split())
    return float(key) if NUMBER.fullmatch(key) else key


def json_type(cell: object) -> str:
    """Return the type of a cell in the words of JSON."""
    if isinstance(cell, bool):
        return "true or false"
    names = {str: "a string", list: "a list", dict: "an object", int: "a number", float: "a number"}
    return names.get(type(cell), f"a {type(cell).__name__}")


def read(path: Path, readers: Mapping[str, Reader]) -> Table:
    """Read a whole file; the suffix of its name chooses the reader."""
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise unknown_format(path, readers)
    return read_stream(path.name, path, reader)


def read_stream(name: str, path: Path, reader: Reader) -> Table:
    """Read a whole file with a reader; errors call the file by `name`."""
    with path.open("rb") as file:
        rows = tuple(reader(name, file))
    header = tuple(dict.fromkeys(column for _, record in rows for column in record))
    return Table(name, sha256(path), header, rows)


def concatenate(name: str, tables: Sequence[Table]) -> Table:
    """Return the rows of several files as one table; errors still name file and row."""
    locations = tuple((table.name, row) for table in tables for row, _ in table.rows)
    rows = tuple(enumerate(record for table in tables for _, record in table.rows))
    header = tuple(dict.fromkeys(column for table in tables for column in table.header))
    digest = hashlib.sha256("".join(table.sha256 for table in tables).encode()).hexdigest()
    return Table(name, tables[0].sha256 if len(tables) == 1 else digest, header, rows, locations)
