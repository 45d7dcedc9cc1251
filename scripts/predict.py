#!/usr/bin/env python3
"""Ask a served model many questions, or a model folder or archive without a server.

Texts come from the command line, from a file, or one a line from standard input; rows of a file may hold questions
of any task, e.g. {"question": ..., "context": ...}. Answers are JSON lines in the same
order, {"index": 0, "answer": [{"label": ..., "score": ...}, ...]}, or {"index": 0, "error": {...}} for a text that
cannot be answered. With --output a run that was cut short goes on where it stopped when it is started again.

Exits with 0 when every text got its answer, with 1 when some got an error, with 2 when the run could not finish.
"""

from __future__ import annotations

from scripts.cli.command import run

import argparse

from scripts.cli.options import json_object, path_name, positive_int, seconds
from scripts.client import bulk
from scripts.client.questions import add_sources
from scripts.client.server import add_options


def main() -> int:
    """Answer every question of the input, in order."""
    return 1 if bulk.predict(parse_arguments()) else 0


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s MODEL [TEXT ...] [options]\n       %(prog)s --local PATH [TEXT ...] [options]",
    )
    parser.add_argument(
        "words", nargs="*", metavar="MODEL TEXT", help="the model's name (not with --local), then texts"
    )
    parser.add_argument("--local", type=path_name, metavar="PATH", help="a model folder or .mar, without a server")
    parser.add_argument("--version", help="of the model (default: the default version)")

    add_sources(parser)

    answers = parser.add_argument_group("answers")
    answers.add_argument("--output", type=path_name, metavar="FILE", help="where they go (default: standard output)")
    answers.add_argument("--with-text", action="store_true", help="repeat the text beside its answer")
    answers.add_argument("--table", action="store_true", help="print a table of text, best label and score instead")
    answers.add_argument("--top-k", type=positive_int, metavar="N", help="labels an answer (default: the model's)")
    answers.add_argument("--operation", metavar="WORD", help="another use of the model, e.g. embed or tokenize")
    answers.add_argument("--parameters", type=json_object, default={}, metavar="JSON", help="of the task, as an object")

    speed = parser.add_argument_group("requests")
    speed.add_argument("--texts-per-request", type=positive_int, default=32, metavar="N", help="default: 32")
    speed.add_argument("--concurrency", type=positive_int, default=4, metavar="N", help="in flight (default: 4)")
    speed.add_argument("--tries", type=positive_int, default=6, metavar="N", help="of one request (default: 6)")
    speed.add_argument("--timeout", type=seconds, default=60, metavar="SECONDS", help="of one try (default: 60)")
    add_options(parser)

    arguments = parser.parse_intermixed_args()
    if not arguments.local and not arguments.words:
        parser.error("name a model, or a folder with --local")
    if arguments.table and arguments.output:
        parser.error("--table goes to standard output: leave out --output")
    arguments.model = None if arguments.local else arguments.words.pop(0)
    options = {"top_k": arguments.top_k, "operation": arguments.operation}
    arguments.parameters |= {name: value for name, value in options.items() if value is not None}
    return arguments


if __name__ == "__main__":
    run(main)
