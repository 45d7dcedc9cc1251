"""Explain questions by a server or in this process: the scores of each answer, with the words that count most."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from handler.protocol import JSON
from scripts.cli.console import progress, say, table
from scripts.cli.files import check_output, write_whole
from scripts.client.backends import load
from scripts.client.explanation_page import ExplainedScore, page, signed
from scripts.client.http import Inference
from scripts.client.questions import read_questions
from scripts.client.server import Server

Explainer = Callable[[JSON], JSON]  # a question to the explanation of its answer


def explain(arguments: argparse.Namespace) -> None:
    """Explain every question that the arguments of scripts/explain.py name; print a table and write the page."""
    check_output(arguments.output, arguments.csv, arguments.jsonl)
    with ExitStack() as stack:
        explainer = local_explainer(arguments, stack) if arguments.local else server_explainer(arguments)
        questions, total = read_questions(arguments)
        bar = stack.enter_context(progress())
        task = bar.add_task("texts", total=total)
        explained: list[ExplainedScore] = []
        for question in questions:
            explained += explained_scores(question, explainer(question))
            bar.update(task, advance=1)
    table(["label", "score", "words that count most"], list(map(table_row, explained)))
    write_whole(arguments.output, page(arguments.model or arguments.local.name, explained))
    say(f"written: {arguments.output}")


def server_explainer(arguments: argparse.Namespace) -> Explainer:
    """Return an explainer that asks a server."""
    inference = Inference(Server.of(arguments))
    return lambda question: inference.explain(
        arguments.model,
        {"inputs": question, "parameters": arguments.parameters},
        version=arguments.version,
        timeout=arguments.timeout,
    )


def local_explainer(arguments: argparse.Namespace, stack: ExitStack) -> Explainer:
    """Return an explainer that loads a model folder or an archive into this process."""
    predictor = load(arguments.local, stack)
    return lambda question: predictor.answer_items([question], arguments.parameters, explain=True)[0]


def explained_scores(question: JSON, explanation: JSON) -> Iterator[ExplainedScore]:
    """Yield each explained score of an answer: the only one, or several beside the answer."""
    if "words" in explanation:
        yield ExplainedScore(question, None, explanation)
        return
    for name, value in explanation.items():
        if name != "answer":
            yield ExplainedScore(question, explanation["answer"], value)


def table_row(explained: ExplainedScore, count: int = 5) -> list[str]:
    """Return label, score and the words that count most, with their signs."""
    explanation = explained.explanation
    heaviest = sorted(explanation["words"], key=lambda word: -abs(word["attribution"]))[:count]
    words = ", ".join(f"{word['word']} {signed(word['attribution'])}" for word in heaviest)
    return [explanation["label"], f"{explanation['score']:.3f}", words]
