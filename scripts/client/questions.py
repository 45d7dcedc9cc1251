"""Questions for a model: from the command line, a table, JSON lines or standard input.

A question is a text, {"text", "text_pair"}, or the fields of any task. Files are read by scripts/readers; this module
chooses the columns, for every command. Whether a question is valid is decided by the model.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from handler.protocol import JSON
from scripts.cli.console import ScriptError, say
from scripts.cli.options import path_name
from scripts.readers.formats import (
    OTHER_FORMATS,
    TABLES,
    Reader,
    decode_lines,
    delimited_header,
    read_csv,
    read_jsonl,
    read_parquet,
    read_tsv,
    records,
    unknown_format,
)

TEXT, PAIR = "text", "text_pair"  # the default columns
WHOLE = (  # fields of questions that are neither a text nor a pair; the last is none, so that no query is left out
    {"question", "context"},
    {"query", "texts"},
    {"source_sentence", "sentences"},
    {"text", "next_sentence"},
    {"query", "text"},
)
ANSWERS = {"label", "labels", "answers", "answer", "tags", "entities", "id", "title"}  # are no part of a question


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the source of the questions."""
    source = parser.add_argument_group("texts (default: one a line from standard input)")
    source.add_argument("--csv", type=path_name, metavar="FILE", help="a table: .parquet, .tsv, else commas")
    source.add_argument("--jsonl", type=path_name, metavar="FILE", help="a JSON object a line, or a list in a .json")
    source.add_argument(
        "--column", metavar="NAME", help="of the text (default: text; a file without it holds whole questions)"
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
    path, default = (arguments.csv, read_csv) if arguments.csv else (arguments.jsonl, read_jsonl)
    if path:
        if any(path.suffix.lower() in suffixes for suffixes in OTHER_FORMATS):
            raise unknown_format(path, TABLES)
        reader = TABLES.get(path.suffix.lower(), default)
        n_rows = sum(1 for _ in file_questions(path, reader, arguments.column, arguments.pair_column))
        return file_questions(path, reader, arguments.column, arguments.pair_column), n_rows
    if sys.stdin.isatty():
        say("one text a line, please; Ctrl-D ends")
    lines = decode_lines("standard input", sys.stdin.buffer)
    return (line.rstrip("\r\n") for line in lines), None


def file_questions(path: Path, reader: Reader, column: str | None, pair_column: str | None) -> Iterator[JSON]:
    """Yield the questions of a file; raises ScriptError for a missing column or a bad row."""
    if header := header_of(path, reader):
        require_columns(path, header, column, pair_column)
    for row, record in records(path, reader):
        for name in filter(None, (column, pair_column)):
            if name not in record:
                raise ScriptError(f"{path} row {row}: no field {name}: use --column")
        try:
            yield question_of(record, column, pair_column)
        except ValueError as error:
            raise ScriptError(f"{path} row {row}: {error}") from None


def header_of(path: Path, reader: Reader) -> Sequence[str]:
    """Return the columns of a table; none for JSON, whose objects may differ, and for a Parquet file without rows."""
    if reader in (read_csv, read_tsv):
        return delimited_header(path)
    return list(next(records(path, reader), (0, {}))[1]) if reader is read_parquet else ()


def require_columns(path: Path, header: Sequence[str], column: str | None, *others: str | None) -> None:
    """Raise ScriptError where a table lacks a column, or has none that a question is made of."""
    required = others if is_whole(header, column) and has_question(header) else [column or TEXT, *others]
    for name in filter(None, required):
        if name not in header:
            raise ScriptError(f"{path} has no column {name}; it has {', '.join(header) or 'none'}: use --column")


def question_of(record: Mapping[str, Any], column: str | None = None, pair_column: str | None = None) -> JSON:
    """Return what a record asks: a text, a pair, or all its fields that are no answers. A null is no field.

    Raises:
        ValueError: a cell that JSON does not have.

    >>> question_of({"text": "a", "text_pair": None, "label": 1}), question_of({"text": "a", "n": 2}, "text", "n")
    ('a', {'text': 'a', 'text_pair': 2})
    >>> question_of({"question": "a", "context": "b", "answers": []})
    {'question': 'a', 'context': 'b'}
    """
    if is_whole(record, column):
        fields = {name: as_json(cell) for name, cell in record.items() if name and name not in ANSWERS}
        return {name: value for name, value in fields.items() if value is not None}
    text, pair = as_json(record[column or TEXT]), as_json(record.get(pair_column or ("" if column else PAIR)))
    return text if pair is None else {TEXT: text, PAIR: pair}


def is_whole(columns: Collection[str], column: str | None) -> bool:
    """Return whether records with these columns are questions as a whole, not a text or a pair."""
    return column is None and (TEXT not in columns or has_question(columns))


def has_question(columns: Collection[str]) -> bool:
    """Return whether columns hold the fields of a question that is neither a text nor a pair."""
    return any(fields <= set(columns) for fields in WHOLE)


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
