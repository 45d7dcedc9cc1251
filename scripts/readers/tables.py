"""A data file, or one split of a dataset, as a table whose cells are checked.

Errors name the file, the row and the column, never what the cell holds. What the rows mean, and the file formats of
a single training task, belong to scripts/training/tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from handler.archive import sha256
from scripts.cli.console import ScriptError
from scripts.readers.formats import Reader, Record


@dataclass(frozen=True)
class ColumnMapping:
    """The columns that hold the text, its pair and the labels; `separator` splits one label column into labels."""

    text: str
    pair: str | None
    labels: tuple[str, ...]
    separator: str | None = None


@dataclass(frozen=True)
class Table:
    """The records of one file, or of one split of a dataset, each with its row number."""

    name: str
    sha256: str
    header: tuple[str, ...]
    rows: tuple[tuple[int, Record], ...]

    def error(self, row: int, column: str, reason: str) -> ScriptError:
        """Return an error that names file, row and column, not the cell's content."""
        return ScriptError(f"{self.name} row {row}, column {column}: {reason}")

    def require(self, columns: ColumnMapping) -> None:
        """Refuse a table that has no rows, or lacks a column."""
        if not self.rows:
            raise ScriptError(f"{self.name}: no rows")
        for column in (columns.text, columns.pair, *columns.labels):
            if column is not None and column not in self.header:
                raise ScriptError(f"{self.name}: no column {column}; its columns are {', '.join(self.header)}")

    def is_labelled(self, columns: ColumnMapping) -> bool:
        """Return whether every row has a label; published test splits often withhold theirs."""
        return all(record.get(column) is not None for _, record in self.rows for column in columns.labels)

    def text(self, row: int, record: Record, column: str) -> str:
        """Return the text of one cell; raises ScriptError where there is none."""
        return self.require_text(row, column, record.get(column))

    def require_text(self, row: int, column: str, cell: object, description: str = "the text") -> str:
        """Return a cell, or a part of one, that must be a text; `description` names it in an error."""
        if not isinstance(cell, str):
            raise self.error(row, column, f"{description} is {'missing' if cell is None else 'not a string'}")
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
        if cell is None or not str(cell).strip():
            raise self.error(row, column, "the label is missing")
        return str(cell).strip()


def read(path: Path, readers: Mapping[str, Reader]) -> Table:
    """Read a whole file; the suffix of its name chooses the reader."""
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ScriptError(f"{path}: the name must end in one of {', '.join(readers)}")
    with path.open("rb") as file:
        rows = tuple(reader(path.name, file))
    header = tuple(dict.fromkeys(column for _, record in rows for column in record))
    return Table(path.name, sha256(path), header, rows)
