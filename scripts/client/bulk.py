"""Answer many questions: read them, ask a backend for batches side by side, write the answers in order."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

from handler.protocol import JSON
from scripts.cli.console import ScriptError, counted, progress, say
from scripts.cli.files import check_output
from scripts.client.answers import JsonLinesWriter, TableWriter, is_error, resume
from scripts.client.backends import Backend, local_backend, server_backend
from scripts.client.questions import read_questions, skip


def predict(arguments: argparse.Namespace) -> int:
    """Answer every question that the arguments of scripts/predict.py name; return the number of errors."""
    with ExitStack() as stack:
        if arguments.output:
            check_output(arguments.output, arguments.csv, arguments.jsonl)
        questions, total = read_questions(arguments)
        n_before = resume(arguments.output) if arguments.output else 0
        if n_before:
            say(f"{arguments.output} has {counted(n_before, 'answer')} already: going on from there")
            skip(questions, n_before)
        backend = local_backend(arguments, stack) if arguments.local else server_backend(arguments, stack)
        output = stack.enter_context(arguments.output.open("ab")) if arguments.output else sys.stdout.buffer
        writer = TableWriter() if arguments.table else JsonLinesWriter(output, with_text=arguments.with_text)
        began, n_texts, errors = time.perf_counter(), 0, Counter[str]()
        bar = stack.enter_context(progress())
        task = bar.add_task("texts", total=total, completed=n_before)
        batches = in_batches(questions, arguments.texts_per_request)
        for batch, answers in in_order(backend, batches, 1 if arguments.local else arguments.concurrency):
            for question, answer in zip(batch, answers, strict=True):
                writer.write(n_before + n_texts, question, answer)
                n_texts += 1
                if is_error(answer):
                    errors[str(answer["error"].get("type"))] += 1
            writer.flush()
            bar.update(task, advance=len(batch))
        writer.close()
        seconds = time.perf_counter() - began
    if not n_texts + n_before and not (arguments.csv or arguments.jsonl):
        raise ScriptError("no texts: write some behind the model's name, one a line to standard input, or give a file")
    counts = ", ".join(f"{count} {kind}" for kind, count in errors.most_common())
    say(f"{counted(n_texts, 'text')} in {seconds:.1f} s ({n_texts / seconds:.1f} a second), errors: {counts or 'none'}")
    return errors.total()


def in_batches(questions: Iterable[JSON], size: int) -> Iterator[list[JSON]]:
    """Yield lists of at most `size` questions."""
    iterator = iter(questions)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def in_order(
    backend: Backend, batches: Iterator[list[JSON]], concurrency: int
) -> Iterator[tuple[list[JSON], list[JSON]]]:
    """Answer `concurrency` batches at once; yield each with its answers, in the order of the batches."""
    running: deque[tuple[list[JSON], Future[list[JSON]]]] = deque()
    pool = ThreadPoolExecutor(concurrency)
    try:
        for batch in batches:
            running.append((batch, pool.submit(backend, batch)))
            if len(running) > 2 * concurrency:  # a slow request must not make the others idle
                first, future = running.popleft()
                yield first, future.result()
        while running:
            first, future = running.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
