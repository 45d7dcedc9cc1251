"""Files, parts and rows of a corpus.

A row is identified by its file and its index among the rows of the file, counted from 0 as in pandas and Arrow; blank
lines of JSON lines and tables are not rows. A row that cannot be read keeps its index, with a reason that never quotes
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handler.protocol import JSON
from scripts.client.questions import question_of


@dataclass(frozen=True)
class CorpusColumns:
    """Column names; without a text column a row of JSON lines or Parquet is a question as a whole."""

    text: str | None = None
    pair: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class SourceFile:
    """One file: its name in the output, and its path on every worker."""

    name: str
    path: str
    size: int
    changed_ns: int
    header: tuple[str, ...] = ()  # the columns of a table
    id_type: str = ""  # of the column of ids in Parquet


@dataclass(frozen=True)
class CorpusPart:
    """Consecutive rows of one file: a range of bytes, or in Parquet a row group and an offset within it."""

    source: int
    first: int
    rows: int
    begin: int
    end: int


@dataclass(frozen=True)
class CorpusRow:
    """One row: its question, or the reason why it has none."""

    number: int
    question: JSON = None
    id: JSON = None  # as JSON lines hold it
    problem: str = ""


def row_of(number: int, record: Mapping[str, Any], columns: CorpusColumns) -> CorpusRow:
    """Return the row of a record; a record without a text column is a question as a whole, without its id.

    >>> row_of(3, {"id": 7, "question": "a", "context": "b"}, CorpusColumns(id="id"))
    CorpusRow(number=3, question={'question': 'a', 'context': 'b'}, id=7, problem='')
    >>> row_of(3, {"text": "a"}, CorpusColumns(text="body")).problem
    'the row has no field body'
    """
    for name in filter(None, (columns.text, columns.pair, columns.id)):
        if name not in record:
            return CorpusRow(number, problem=f"the row has no field {name}")
    try:
        question = question_of(
            {name: cell for name, cell in record.items() if name != columns.id or name in (columns.text, columns.pair)},
            columns.text,
            columns.pair,
        )
    except ValueError as error:
        return CorpusRow(number, problem=str(error))
    return CorpusRow(number, question, record[columns.id] if columns.id else None)
