"""Data as tables of rows.

Reads CSV, TSV, JSONL, lines of text and hub datasets, and refuses the first bad row by file, row and column, never by
its text. Rows are counted as a spreadsheet shows them: the header of a CSV or TSV is row 1, the first line of a JSONL
is row 1, the first row of a hub dataset is row 0 (as its viewer counts). What the rows mean, and the forms of file
that only one kind of problem has, are the business of scripts/problems/.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from scripts.cli.console import ScriptError, say

Record: TypeAlias = Mapping[str, object]
Reader: TypeAlias = Callable[[str, str], Iterator[tuple[int, Record]]]  # a file's name and content -> its records


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; `separator` splits one label column into several labels."""

    text: str
    pair: str | None
    labels: tuple[str, ...]
    separator: str | None = None


@dataclass(frozen=True)
class Table:
    """The records of one file, or of one split of a hub dataset, each with its row number."""

    name: str
    sha256: str
    header: tuple[str, ...]
    rows: tuple[tuple[int, Record], ...]

    def error(self, row: int, column: str, what: str) -> ScriptError:
        """Return an error that names the place, not what stands there."""
        return ScriptError(f"{self.name} row {row}, column {column}: {what}")

    def require(self, columns: Columns) -> None:
        """Refuse a table that has no rows, or lacks a column."""
        if not self.rows:
            raise ScriptError(f"{self.name}: no rows")
        for column in (columns.text, columns.pair, *columns.labels):
            if column is not None and column not in self.header:
                raise ScriptError(f"{self.name}: no column {column}; its columns are {', '.join(self.header)}")

    def labelled(self, columns: Columns) -> bool:
        """Tell whether every row has a label; published test splits often withhold theirs."""
        return all(record.get(column) is not None for _, record in self.rows for column in columns.labels)

    def text(self, row: int, record: Record, column: str) -> str:
        """Return the text of one cell; it must be there."""
        return self.checked(row, column, record.get(column))

    def checked(self, row: int, column: str, cell: object, what: str = "the text") -> str:
        """Return a cell, or a part of one, that must be a text."""
        if not isinstance(cell, str):
            raise self.error(row, column, f"{what} is missing" if cell is None else f"{what} is not a string")
        if not cell.strip():
            raise self.error(row, column, f"{what} is empty")
        try:
            cell.encode()
        except UnicodeEncodeError:
            raise self.error(row, column, f"{what} holds half a surrogate pair") from None
        return cell

    def label(self, row: int, record: Record, column: str) -> str:
        """Return the label of one cell as a name; it must be there."""
        cell = record.get(column)
        if cell is None or not str(cell).strip():
            raise self.error(row, column, "the label is missing")
        return str(cell).strip()


# --- reading -------------------------------------------------------------------------------------------------------


def read(path: Path, readers: Mapping[str, Reader]) -> Table:
    """Read a file; the end of its name chooses the reader."""
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ScriptError(f"{path}: the name must end in one of {', '.join(readers)}")
    content = path.read_bytes()
    try:
        rows = list(reader(path.name, content.decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        raise ScriptError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    header = tuple(dict.fromkeys(column for _, record in rows for column in record))
    return Table(path.name, hashlib.sha256(content).hexdigest(), header, tuple(rows))


def read_csv(name: str, content: str) -> Iterator[tuple[int, Record]]:
    """Yield the records of a comma-separated table; quoted cells may hold commas and line breaks."""
    cells = csv.reader(io.StringIO(content, newline=""), strict=True)
    header: list[str] | None = None
    row = 0
    try:
        for row, values in enumerate(cells, start=1):
            if header is None:
                header = headed(name, values)
            elif values:
                yield row, named(name, row, header, values)
    except csv.Error as error:
        raise ScriptError(f"{name} row {row + 1}: {error}") from None


def read_tsv(name: str, content: str) -> Iterator[tuple[int, Record]]:
    """Yield the records of a tab-separated table, one a line.

    A quote is an ordinary character unless it wraps the whole cell: many published TSV files hold single quotes,
    which the rules of CSV would take for the start of a cell that swallows the following lines.
    """
    lines = [line.removesuffix("\r") for line in content.split("\n")]
    header = headed(name, [unquoted(cell) for cell in lines[0].split("\t")])
    for row, line in enumerate(lines[1:], start=2):
        if line:
            yield row, named(name, row, header, [unquoted(cell) for cell in line.split("\t")])


def read_jsonl(name: str, content: str) -> Iterator[tuple[int, Record]]:
    """Yield the objects of a file with one JSON object a line."""
    for row, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise ScriptError(f"{name} row {row}: not a JSON object on one line")
        yield row, record


def read_lines(name: str, content: str) -> Iterator[tuple[int, Record]]:  # noqa: ARG001 no line can be wrong
    """Yield the lines of a plain text; blank ones have an empty text."""
    for row, line in enumerate(content.rstrip().split("\n"), start=1):
        yield row, {"text": line.strip()}


TABLES: dict[str, Reader] = {".csv": read_csv, ".tsv": read_tsv, ".jsonl": read_jsonl}
LINES: dict[str, Reader] = {".txt": read_lines}


def headed(name: str, header: list[str]) -> list[str]:
    """Return a header in which every column has a name of its own."""
    if twice := [column for column, n in Counter(header).items() if n > 1]:
        raise ScriptError(f"{name}: column {twice[0]} appears twice in the header")
    return header


def named(name: str, row: int, header: Sequence[str], values: Sequence[str]) -> Record:
    """Return the cells of one row by column."""
    if len(values) != len(header):
        raise ScriptError(f"{name} row {row}: {len(values)} cells, but the header has {len(header)}")
    return dict(zip(header, values, strict=True))


def unquoted(cell: str) -> str:
    """Return a cell without the quotes around it.

    >>> unquoted('"a ""good"" one"'), unquoted('"Yes" and "no"')
    ('a "good" one', '"Yes" and "no"')
    """
    inner = cell[1:-1]
    wrapped = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if wrapped else cell


def read_hub(name: str, config: str | None) -> dict[str, Table]:
    """Read every split of a dataset from the Hugging Face hub, or from a local folder in a form it understands."""
    import datasets
    import huggingface_hub

    huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    say(f"reading {name}")
    try:
        splits = datasets.load_dataset(name, config)
    except (OSError, ValueError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ScriptError(f"dataset {name}: not a local folder, and the hub did not provide it: {why}") from None
    return {split: hub_table(f"{portable(name)}[{split}]", rows) for split, rows in splits.items()}


def portable(name: str) -> str:
    """Return a hub id or a folder's name, without where this machine keeps the folder.

    >>> portable("/home/me/models/base"), portable("bert-base-uncased")
    ('base', 'bert-base-uncased')
    """
    return Path(name).name if Path(name).is_absolute() else name


def hub_table(name: str, split: Any) -> Table:
    """Return one split with its class numbers replaced by their names."""
    decoders = {column: class_names(feature) for column, feature in split.features.items()}
    rows = tuple((i, {c: decoders[c](cell) for c, cell in record.items()}) for i, record in enumerate(split))
    digest = hashlib.sha256()
    for _, record in rows:
        digest.update(json.dumps(record, sort_keys=True, default=str).encode())
    return Table(name, digest.hexdigest(), tuple(split.column_names), rows)


def class_names(feature: Any) -> Callable[[Any], object]:
    """Return what turns a cell of this feature into names; a negative class means that the label was withheld."""
    if hasattr(feature, "int2str"):
        return lambda cell: None if cell is None or cell < 0 else feature.int2str(cell)
    inner: Any = getattr(feature, "feature", None)
    if hasattr(inner, "int2str"):
        return lambda cells: [inner.int2str(cell) for cell in cells]
    return lambda cell: cell
