"""Questions for a model: from the command line, a table, JSON lines or standard input.

A question is a text, {"text", "text_pair"}, or from JSON lines the fields of any task. Files are read by
scripts/readers; this module chooses the columns. Whether a question is valid is decided by the model.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from handler.protocol import JSON
from scripts.cli.console import ScriptError, say
from scripts.readers.formats import TABLES, Reader, decode_lines, delimited_header, read_csv, read_jsonl, records

TEXT, PAIR = "text", "text_pair"  # the default columns


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the source of the questions."""
    source = parser.add_argument_group("texts (default: one a line from standard input)")
    source.add_argument("--csv", type=Path, metavar="FILE", help="a table with a header: .parquet, .tsv, else commas")
    source.add_argument("--jsonl", type=Path, metavar="FILE", help="a JSON object a line, or a list in a .json")
    source.add_argument(
        "--column", metavar="NAME", help="of the text (default: text; a .jsonl without it holds whole questions)"
    )
    source.add_argument(
        "--pair-column", metavar="NAME", help="of the second text (default: text_pair, if the file has it)"
    )


def read_questions(arguments: argparse.Namespace) -> tuple[Iterator[JSON], int | None]:
    """Return the questions, and their number where it is known."""
    sources = [bool(arguments.words), arguments.csv is not None, arguments.jsonl is not None]
    if sum(sources) > 1:
        raise ScriptError("texts come from one place: the command line, --csv or --jsonl")
    if arguments.words:
        return iter(arguments.words), len(arguments.words)
    if arguments.csv:
        column = arguments.column or TEXT
        pair = arguments.pair_column or (None if arguments.column else default_pair(table_columns(arguments.csv)))
        n_rows = sum(1 for _ in table_questions(arguments.csv, column, pair))
        return table_questions(arguments.csv, column, pair), n_rows
    if arguments.jsonl:
        n_objects = sum(1 for _ in records(arguments.jsonl, json_reader(arguments.jsonl)))
        return object_questions(arguments.jsonl, arguments.column, arguments.pair_column), n_objects
    if sys.stdin.isatty():
        say("one text a line, please; Ctrl-D ends")
    lines = decode_lines("standard input", sys.stdin.buffer)
    return (line.rstrip("\r\n") for line in lines), None


def table_questions(path: Path, column: str, pair_column: str | None) -> Iterator[JSON]:
    """Yield the questions of a table; raises ScriptError for a missing column or a bad row."""
    header = table_columns(path)
    for name in filter(None, (column, pair_column)):
        if header is not None and name not in header:
            raise ScriptError(f"{path} has no column {name}; it has {', '.join(header) or 'none'}: use --column")
    for row, record in records(path, table_reader(path)):
        yield plain(path, row, question_of(record, column, pair_column))


def table_reader(path: Path) -> Reader:
    """Return the reader of a table; a file of another name is read as CSV."""
    suffix = path.suffix.lower()
    return TABLES[suffix] if suffix in (".tsv", ".parquet") else read_csv


def table_columns(path: Path) -> Sequence[str] | None:
    """Return the columns of a table; None for a Parquet file without rows, which asks for none."""
    if path.suffix.lower() != ".parquet":
        return delimited_header(path)
    first = next(records(path, table_reader(path)), None)
    return list(first[1]) if first else None


def default_pair(columns: Iterable[str] | None) -> str | None:
    """Return the column of second texts that a file has, unless an option names another one."""
    return PAIR if PAIR in (columns or ()) else None


def plain(path: Path, row: int, question: Any) -> JSON:
    """Return a question as JSON has it; raises ScriptError, by row, for a cell that JSON does not have."""
    try:
        return as_json(question)
    except ValueError as error:
        raise ScriptError(f"{path} row {row}: {error}") from None


def object_questions(path: Path, column: str | None, pair_column: str | None) -> Iterator[JSON]:
    """Yield the questions of a file of JSON objects; an object without a text is a question as a whole."""
    for row, record in records(path, json_reader(path)):
        if column and column not in record:
            raise ScriptError(f"{path} row {row}: no field {column}: use --column")
        if not column and TEXT not in record:
            yield plain(path, row, record)
        else:
            yield plain(path, row, question_of(record, column or TEXT, pair_column or default_pair(record)))


def json_reader(path: Path) -> Reader:
    """Return the reader of a file of JSON objects."""
    return TABLES[".json"] if path.suffix.lower() == ".json" else read_jsonl


def question_of(record: Mapping[str, Any], column: str, pair_column: str | None) -> JSON:
    """Return the text of a record, or its pair of texts."""
    return {"text": record[column], "text_pair": record.get(pair_column)} if pair_column else record[column]


def as_json(value: Any) -> JSON:
    """Return a value as JSON has it: a number that is NaN is null, as pandas means it.

    Raises:
        ValueError: a value of another kind, such as a date.

    >>> as_json({"text": "a", "n": float("nan")})
    {'text': 'a', 'n': None}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, bytes):  # which some programs write instead of strings
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ValueError("a cell holds bytes that are not UTF-8") from None
    if isinstance(value, list):
        return [as_json(item) for item in value]
    raise ValueError(f"a cell holds a {type(value).__name__}, not a text: write it as text")


def skip(questions: Iterator[JSON], count: int) -> None:
    """Leave out the first `count` questions, which are answered already; raises ScriptError if there are fewer."""
    n_skipped = sum(1 for _ in itertools.islice(questions, count))
    if n_skipped < count:
        raise ScriptError(
            f"the output has {count} answers, but there are only {n_skipped} texts: is it of another input?"
        )
