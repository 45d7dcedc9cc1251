"""Questions for a model: from the command line, a table, JSON lines or standard input.

A question is a text, {"text", "text_pair"}, or from JSON lines the fields of any task. Files are read by
scripts/readers; this module chooses the columns. Whether a question is valid is decided by the model.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from handler.protocol import JSON
from scripts.cli.console import ScriptError, say
from scripts.readers.formats import TABLES, Reader, decode_lines, delimited_header, read_csv, read_jsonl, records

TEXT = "text"  # the default column


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the source of the questions."""
    source = parser.add_argument_group("texts (default: one a line from standard input)")
    source.add_argument("--csv", type=Path, metavar="FILE", help="a table with a header: .parquet, .tsv, else commas")
    source.add_argument("--jsonl", type=Path, metavar="FILE", help="a JSON object a line, or a list in a .json")
    source.add_argument(
        "--column", metavar="NAME", help="of the text (default: text; a .jsonl without it holds whole questions)"
    )
    source.add_argument("--pair-column", metavar="NAME", help="of the second text (default: text_pair in --jsonl)")


def read_questions(arguments: argparse.Namespace) -> tuple[Iterator[JSON], int | None]:
    """Return the questions, and their number where it is known."""
    sources = [bool(arguments.words), arguments.csv is not None, arguments.jsonl is not None]
    if sum(sources) > 1:
        raise ScriptError("texts come from one place: the command line, --csv or --jsonl")
    if arguments.words:
        return iter(arguments.words), len(arguments.words)
    if arguments.csv:
        column = arguments.column or TEXT
        n_rows = sum(1 for _ in table_questions(arguments.csv, column, arguments.pair_column))
        return table_questions(arguments.csv, column, arguments.pair_column), n_rows
    if arguments.jsonl:
        n_objects = sum(1 for _ in records(arguments.jsonl, json_reader(arguments.jsonl)))
        return object_questions(arguments.jsonl, arguments.column, arguments.pair_column), n_objects
    if sys.stdin.isatty():
        say("one text a line, please; Ctrl-D ends")
    lines = decode_lines("standard input", sys.stdin.buffer)
    return (line.rstrip("\r\n") for line in lines), None


def table_questions(path: Path, column: str, pair_column: str | None) -> Iterator[JSON]:
    """Yield the questions of a table; raises ScriptError for a missing column or a bad row."""
    suffix = path.suffix.lower()
    reader = TABLES[suffix] if suffix in (".tsv", ".parquet") else read_csv
    header: Sequence[str]
    if suffix == ".parquet":
        first = next(records(path, reader), None)
        header = list(first[1]) if first else [column]
    else:
        header = delimited_header(path)
    for name in filter(None, (column, pair_column)):
        if name not in header:
            raise ScriptError(f"{path} has no column {name}; it has {', '.join(header) or 'none'}: use --column")
    for _, record in records(path, reader):
        yield question_of(record, column, pair_column)


def object_questions(path: Path, column: str | None, pair_column: str | None) -> Iterator[JSON]:
    """Yield the questions of a file of JSON objects; an object without a text is a question as a whole."""
    for row, record in records(path, json_reader(path)):
        if column and column not in record:
            raise ScriptError(f"{path} row {row}: no field {column}: use --column")
        if not column and TEXT not in record:
            yield record
        else:
            pair = pair_column or ("text_pair" if "text_pair" in record else None)
            yield question_of(record, column or TEXT, pair)


def json_reader(path: Path) -> Reader:
    """Return the reader of a file of JSON objects."""
    return TABLES[".json"] if path.suffix.lower() == ".json" else read_jsonl


def question_of(record: Mapping[str, Any], column: str, pair_column: str | None) -> JSON:
    """Return the text of a record, or its pair of texts."""
    return {"text": record[column], "text_pair": record.get(pair_column)} if pair_column else record[column]


def skip(questions: Iterator[JSON], count: int) -> None:
    """Leave out the first `count` questions, which are answered already; raises ScriptError if there are fewer."""
    n_skipped = sum(1 for _ in itertools.islice(questions, count))
    if n_skipped < count:
        raise ScriptError(
            f"the output has {count} answers, but there are only {n_skipped} texts: is it of another input?"
        )
