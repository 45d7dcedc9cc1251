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

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from handler.protocol import JSON
from scripts.cli.console import progress, run, say, table
from scripts.client.backends import load
from scripts.client.explanation_page import Explained, page
from scripts.client.http import Inference
from scripts.client.questions import add_sources, read_questions
from scripts.client.server import Server, add_options

Explain = Callable[[JSON], JSON]


def main() -> None:
    """Explain every question, and write the page."""
    arguments = parse_arguments()
    with ExitStack() as stack:
        explain = explain_local(arguments, stack) if arguments.local else explain_served(arguments)
        questions, total = read_questions(arguments)
        bar = stack.enter_context(progress())
        task = bar.add_task("texts", total=total)
        explained: list[Explained] = []
        for question in questions:
            explained += scores_of(question, explain(question))
            bar.update(task, advance=1)
    rows = [row for one in explained for row in heaviest(one)]
    table(["label", "score", "words that count most"], rows)
    arguments.output.write_text(page(arguments.model or arguments.local.name, explained), encoding="utf-8")
    say(f"written: {arguments.output}")


def explain_served(arguments: argparse.Namespace) -> Explain:
    """Let a server explain."""
    inference = Inference(Server.of(arguments))
    return lambda question: inference.explain(
        arguments.model,
        {"inputs": question, "parameters": arguments.parameters},
        version=arguments.version,
        timeout=arguments.timeout,
    )


def explain_local(arguments: argparse.Namespace, stack: ExitStack) -> Explain:
    """Load a model folder or an archive into this process, and let it explain."""
    predictor = load(arguments.local, stack)
    return lambda question: predictor.answer_items([question], arguments.parameters, explain=True)[0]


def scores_of(question: JSON, explanation: JSON) -> Iterator[Explained]:
    """Yield each explained score of an answer: the only one, or several beside the answer."""
    if "words" in explanation:
        yield Explained(question, None, explanation)
        return
    for name, one in explanation.items():
        if name != "answer":
            yield Explained(question, explanation["answer"], one)


def heaviest(one: Explained, count: int = 5) -> Iterator[list[str]]:
    """Yield a row of the table: the words that count most, with their signs."""
    words = sorted(one.explanation["words"], key=lambda word: -abs(word["attribution"]))[:count]
    told = ", ".join(f"{word['word']} {word['attribution']:+.3f}" for word in words)
    yield [one.explanation["label"], f"{one.explanation['score']:.3f}", told]


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="MODEL TEXT", help="the model's name (not with --local), texts")
    parser.add_argument("--local", type=Path, metavar="PATH", help="a model folder or .mar, without a server")
    parser.add_argument("--version", help="of the model (default: the default version)")
    parser.add_argument("--output", type=Path, default=Path("explanation.html"), metavar="FILE", help="the page")
    parser.add_argument("--target", help="what to explain: a label, or JSON (default: the answer)")
    parser.add_argument("--n-steps", type=int, metavar="N", help="points between baseline and text (default: 32)")
    parser.add_argument("--timeout", type=float, default=60, metavar="SECONDS", help="of one text (default: 60)")
    add_sources(parser)
    add_options(parser)
    arguments = parser.parse_intermixed_args()
    if not arguments.local and not arguments.words:
        parser.error("name a model, or a folder with --local")
    arguments.model = None if arguments.local else arguments.words.pop(0)
    asked = {"target": target_of(arguments.target), "n_steps": arguments.n_steps}
    arguments.parameters = {name: value for name, value in asked.items() if value is not None}
    return arguments


def target_of(word: str | None) -> JSON:
    """Read a target: JSON where it is a number or an object, else the word itself."""
    try:
        value = json.loads(word) if word is not None else None
    except ValueError:
        return word
    return value if isinstance(value, int | dict) else word


if __name__ == "__main__":
    run(main)
