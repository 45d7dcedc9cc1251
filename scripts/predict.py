#!/usr/bin/env python3
"""Ask a served model many questions, or a model folder or archive without a server.

Texts come from the command line, from a file, or one a line from standard input; lines of a .jsonl may hold questions
of any task, e.g. {"question": ..., "context": ...}. Answers are JSON lines in the same
order, {"index": 0, "answer": [{"label": ..., "score": ...}, ...]}, or {"index": 0, "error": {...}} for a text that
cannot be answered. With --output a run that was cut short goes on where it stopped when it is started again.

Exits with 0 when every text got its answer, with 1 when some got an error, with 2 when the run could not finish.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from handler.protocol import JSON
from scripts.cli.console import progress, run, say
from scripts.cli.options import json_object, positive_int
from scripts.client.answers import Lines, Table, is_error, resume
from scripts.client.backends import Answerer, ask_server, load_local
from scripts.client.questions import add_sources, read_questions, skip
from scripts.client.server import add_options


def main() -> int:
    """Answer every question of the input, in order."""
    arguments = parse_arguments()
    with ExitStack() as stack:
        questions, total = read_questions(arguments)
        kept = resume(arguments.output) if arguments.output else 0
        if kept:
            say(f"{arguments.output} has {kept} answers already: going on from there")
            skip(questions, kept)
        answer = load_local(arguments, stack) if arguments.local else ask_server(arguments, stack)
        output = stack.enter_context(arguments.output.open("ab")) if arguments.output else sys.stdout.buffer
        write = Table() if arguments.table else Lines(output, with_text=arguments.with_text)
        began, n_texts, errors = time.perf_counter(), 0, Counter[str]()
        bar = stack.enter_context(progress())
        task = bar.add_task("texts", total=total, completed=kept)
        batches = in_batches(questions, arguments.texts_per_request)
        for batch, answers in in_order(answer, batches, 1 if arguments.local else arguments.concurrency):
            for question, reply in zip(batch, answers, strict=True):
                write.write(kept + n_texts, question, reply)
                n_texts += 1
                if is_error(reply):
                    errors[str(reply["error"].get("type"))] += 1
            write.flush()
            bar.update(task, advance=len(batch))
        write.close()
        seconds = time.perf_counter() - began
    told = ", ".join(f"{count} {kind}" for kind, count in errors.most_common())
    say(f"{n_texts} texts in {seconds:.1f} s ({n_texts / seconds:.1f} a second), errors: {told or 'none'}")
    return 1 if errors else 0


def in_batches(questions: Iterable[JSON], size: int) -> Iterator[list[JSON]]:
    """Yield lists of at most `size` questions."""
    iterator = iter(questions)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def in_order(
    answer: Answerer, batches: Iterator[list[JSON]], concurrency: int
) -> Iterator[tuple[list[JSON], list[JSON]]]:
    """Answer batches side by side; yield each with its answers, in the order they came."""
    running: deque[tuple[list[JSON], Future[list[JSON]]]] = deque()
    pool = ThreadPoolExecutor(concurrency)
    try:
        for batch in batches:
            running.append((batch, pool.submit(answer, batch)))
            if len(running) > 2 * concurrency:  # a slow request must not make the others idle
                first, future = running.popleft()
                yield first, future.result()
        while running:
            first, future = running.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


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
    parser.add_argument("--local", type=Path, metavar="PATH", help="a model folder or .mar, without a server")
    parser.add_argument("--version", help="of the model (default: the default version)")

    add_sources(parser)

    answers = parser.add_argument_group("answers")
    answers.add_argument("--output", type=Path, metavar="FILE", help="where they go (default: standard output)")
    answers.add_argument("--with-text", action="store_true", help="repeat the text beside its answer")
    answers.add_argument("--table", action="store_true", help="print a table of text, best label and score instead")
    answers.add_argument("--top-k", type=int, metavar="N", help="labels an answer (default: the model's)")
    answers.add_argument("--operation", metavar="WORD", help="another use of the model, e.g. embed or tokenize")
    answers.add_argument("--parameters", type=json_object, default={}, metavar="JSON", help="of the task, as an object")

    speed = parser.add_argument_group("requests")
    speed.add_argument("--texts-per-request", type=positive_int, default=32, metavar="N", help="default: 32")
    speed.add_argument("--concurrency", type=positive_int, default=4, metavar="N", help="in flight (default: 4)")
    speed.add_argument("--tries", type=positive_int, default=6, metavar="N", help="of one request (default: 6)")
    speed.add_argument("--timeout", type=float, default=60, metavar="SECONDS", help="of one try (default: 60)")
    add_options(parser)

    arguments = parser.parse_intermixed_args()
    if not arguments.local and not arguments.words:
        parser.error("name a model, or a folder with --local")
    if arguments.table and arguments.output:
        parser.error("--table goes to standard output: leave out --output")
    arguments.model = None if arguments.local else arguments.words.pop(0)
    given = {"top_k": arguments.top_k, "operation": arguments.operation}
    arguments.parameters |= {name: value for name, value in given.items() if value is not None}
    return arguments


def main_until_reader_leaves() -> int:
    """Run `main`; end without a word when what reads the answers has enough, e.g. `head`."""
    try:
        return main()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
        return 0


if __name__ == "__main__":
    run(main_until_reader_leaves)
