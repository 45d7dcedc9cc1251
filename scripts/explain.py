#!/usr/bin/env python3
"""Ask a served model why it answers as it does, and write a page with the words coloured.

  scripts/explain.py intents "Where is my parcel?" --output explanation.html
  scripts/explain.py intents "Where is my parcel?" --target refund_status
  scripts/explain.py --local models/intents "Where is my parcel?"

Blue words speak for the label, orange ones against it; the page needs nothing but a browser. Questions come from the
command line, from a file, or one a line from standard input, as for scripts/predict.py; a file of JSON lines may hold
questions of any task, e.g. {"question": ..., "context": ...}. Standard output gets the heaviest words as a table.
"""

from __future__ import annotations

from scripts.cli.command import run

import argparse
import json

from handler.protocol import JSON
from scripts.cli.console import output_here
from scripts.cli.options import path_name, positive_int, seconds
from scripts.client import explanations
from scripts.client.questions import add_sources
from scripts.client.server import add_options


def main() -> None:
    """Explain every question, and write the page."""
    explanations.explain(parse_arguments())


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="MODEL TEXT", help="the model's name (not with --local), texts")
    parser.add_argument("--local", type=path_name, metavar="PATH", help="a model folder or .mar, without a server")
    parser.add_argument("--version", help="of the model (default: the default version)")
    page_help = "the page (default: explanation.html, in the temporary folder where this one cannot be written)"
    parser.add_argument(
        "--output", type=path_name, default=output_here("explanation.html"), metavar="FILE", help=page_help
    )
    parser.add_argument("--target", help="what to explain: a label, or JSON (default: the answer)")
    parser.add_argument(
        "--n-steps", type=positive_int, metavar="N", help="points between baseline and text (default: 32)"
    )
    parser.add_argument("--timeout", type=seconds, default=60, metavar="SECONDS", help="of one text (default: 60)")
    add_sources(parser)
    add_options(parser)
    arguments = parser.parse_intermixed_args()
    if not arguments.local and not arguments.words:
        parser.error("name a model, or a folder with --local")
    arguments.model = None if arguments.local else arguments.words.pop(0)
    options = {"target": target_of(arguments.target), "n_steps": arguments.n_steps}
    arguments.parameters = {name: value for name, value in options.items() if value is not None}
    return arguments


def target_of(word: str | None) -> JSON:
    """Parse a target: JSON where it is a number or an object, else the word itself."""
    try:
        value = json.loads(word) if word is not None else None
    except ValueError:
        return word
    return value if isinstance(value, int | dict) else word


if __name__ == "__main__":
    run(main)
