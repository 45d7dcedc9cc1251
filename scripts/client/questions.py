"""Where the questions of scripts/predict.py come from: the command line, a table, JSON lines or standard input.

A question is a text, {"text", "text_pair"}, or from JSON lines what any task takes. A line or row that cannot be read
is refused by its number, never by its text; whether it can be answered is not asked here.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from handler.protocol import JSON
from scripts.cli.console import ScriptError, say

TEXT = "text"  # the column, unless another is named


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where questions come from."""
    source = parser.add_argument_group("texts (default: one a line from standard input)")
    source.add_argument("--csv", type=Path, metavar="FILE", help="a table with a header; tabs in a .tsv, commas else")
    source.add_argument("--jsonl", type=Path, metavar="FILE", help="a JSON object a line")
    source.add_argument(
        "--column", metavar="NAME", help="of the text (default: text; a .jsonl without it holds whole questions)"
    )
    source.add_argument("--pair-column", metavar="NAME", help="of the second text (default: text_pair in --jsonl)")


def read_questions(arguments: argparse.Namespace) -> tuple[Iterator[JSON], int | None]:
    """Return the questions, a text or {"text", "text_pair"} each, and how many there are where that is known."""
    sources = [bool(arguments.words), arguments.csv is not None, arguments.jsonl is not None]
    if sum(sources) > 1:
        raise ScriptError("texts come from one place: the command line, --csv or --jsonl")
    if arguments.words:
        return iter(arguments.words), len(arguments.words)
    if arguments.csv:
        column = arguments.column or TEXT
        return rows(arguments.csv, column, arguments.pair_column), sum(
            1 for _ in rows(arguments.csv, column, arguments.pair_column)
        )
    if arguments.jsonl:
        return objects(arguments.jsonl, arguments.column, arguments.pair_column), sum(
            1 for _ in lines(arguments.jsonl.open("rb"), str(arguments.jsonl))
        )
    if sys.stdin.isatty():
        say("one text a line, please; Ctrl-D ends")
    return lines(sys.stdin.buffer, "standard input"), None


def lines(file: IO[bytes], name: str) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, without their ends."""
    with file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                raise ScriptError(f"line {number} of {name} is not UTF-8") from None


def rows(path: Path, column: str, pair_column: str | None) -> Iterator[JSON]:
    """Yield the questions of a table."""
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        header = reader.fieldnames or []
        for name in filter(None, (column, pair_column)):
            if name not in header:
                raise ScriptError(f"{path} has no column {name}; it has {', '.join(header) or 'none'}: use --column")
        try:
            for row in reader:
                yield question_of(row, column, pair_column)
        except UnicodeDecodeError:
            raise ScriptError(f"{path} is not UTF-8 (near row {reader.line_num})") from None
        except csv.Error as error:
            raise ScriptError(f"row {reader.line_num} of {path} cannot be read: {error}") from None


def objects(path: Path, column: str | None, pair_column: str | None) -> Iterator[JSON]:
    """Yield the questions of a file of JSON objects; one without a text is a question as a whole."""
    for number, line in enumerate(lines(path.open("rb"), str(path)), 1):
        try:
            item = json.loads(line)
        except ValueError:
            raise ScriptError(f"line {number} of {path} is not JSON") from None
        if not isinstance(item, dict) or (column and column not in item):
            raise ScriptError(f"line {number} of {path} is no object with a field {column or TEXT}: use --column")
        if not column and TEXT not in item:
            yield item
        else:
            yield question_of(item, column or TEXT, pair_column or ("text_pair" if "text_pair" in item else None))


def question_of(row: dict[str, JSON], column: str, pair_column: str | None) -> JSON:
    """Return the text of a row, or its pair of texts."""
    return {"text": row[column], "text_pair": row.get(pair_column)} if pair_column else row[column]


def skip(questions: Iterator[JSON], count: int) -> None:
    """Leave out questions that are answered already."""
    left = sum(1 for _ in itertools.islice(questions, count))
    if left < count:
        raise ScriptError(f"the output has {count} answers, but there are only {left} texts: is it of another input?")
