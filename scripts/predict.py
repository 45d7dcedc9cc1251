#!/usr/bin/env python3
"""Ask a served model many questions, or a model folder or archive without a server.

Texts come from the command line, from a file, or one a line from standard input. Answers are JSON lines in the same
order, {"index": 0, "answer": [{"label": ..., "score": ...}, ...]}, or {"index": 0, "error": {...}} for a text that
cannot be answered. With --output a run that was cut short goes on where it stopped when it is started again.

Exits with 0 when every text got its answer, with 1 when some got an error, with 2 when the run could not finish.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import os
import random
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from scripts.client import JSON, Inference
from scripts.console import ScriptError, progress, run, say, table
from scripts.server import NotRunning, Refused, Server, Unavailable, UnknownModel, add_options

LONGEST_PAUSE = 8.0  # s, between two tries

# What answers: a list of questions to as many answers, {"error": ...} where there is none.
Answerer = Callable[[list[JSON]], list[JSON]]


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

    source = parser.add_argument_group("texts (default: one a line from standard input)")
    source.add_argument("--csv", type=Path, metavar="FILE", help="a table with a header; tabs in a .tsv, commas else")
    source.add_argument("--jsonl", type=Path, metavar="FILE", help="a JSON object a line")
    source.add_argument("--column", default="text", metavar="NAME", help="of the text (default: text)")
    source.add_argument("--pair-column", metavar="NAME", help="of the second text (default: text_pair in --jsonl)")

    answers = parser.add_argument_group("answers")
    answers.add_argument("--output", type=Path, metavar="FILE", help="where they go (default: standard output)")
    answers.add_argument("--with-text", action="store_true", help="repeat the text beside its answer")
    answers.add_argument("--table", action="store_true", help="print a table of text, best label and score instead")
    answers.add_argument("--top-k", type=int, metavar="N", help="labels an answer (default: the model's)")

    speed = parser.add_argument_group("requests")
    speed.add_argument("--texts-per-request", type=positive, default=32, metavar="N", help="default: 32")
    speed.add_argument("--concurrency", type=positive, default=4, metavar="N", help="requests in flight (default: 4)")
    speed.add_argument("--tries", type=positive, default=6, metavar="N", help="of one request (default: 6)")
    speed.add_argument("--timeout", type=float, default=60, metavar="SECONDS", help="of one try (default: 60)")
    add_options(parser)

    arguments = parser.parse_intermixed_args()
    if not arguments.local and not arguments.words:
        parser.error("name a model, or a folder with --local")
    if arguments.table and arguments.output:
        parser.error("--table goes to standard output: leave out --output")
    arguments.model = None if arguments.local else arguments.words.pop(0)
    arguments.parameters = {} if arguments.top_k is None else {"top_k": arguments.top_k}
    return arguments


def positive(word: str) -> int:
    """Read a whole number above zero."""
    number = int(word)
    if number < 1:
        raise ValueError
    return number


# --- Questions ----------------------------------------------------------------------------------------------------


def read_questions(arguments: argparse.Namespace) -> tuple[Iterator[JSON], int | None]:
    """Return the questions, a text or {"text", "text_pair"} each, and how many there are where that is known."""
    sources = [bool(arguments.words), arguments.csv is not None, arguments.jsonl is not None]
    if sum(sources) > 1:
        raise ScriptError("texts come from one place: the command line, --csv or --jsonl")
    if arguments.words:
        return iter(arguments.words), len(arguments.words)
    if arguments.csv:
        return rows(arguments.csv, arguments.column, arguments.pair_column), sum(
            1 for _ in rows(arguments.csv, arguments.column, arguments.pair_column)
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


def objects(path: Path, column: str, pair_column: str | None) -> Iterator[JSON]:
    """Yield the questions of a file of JSON objects."""
    for number, line in enumerate(lines(path.open("rb"), str(path)), 1):
        try:
            item = json.loads(line)
        except ValueError:
            raise ScriptError(f"line {number} of {path} is not JSON") from None
        if not isinstance(item, dict) or column not in item:
            raise ScriptError(f"line {number} of {path} is no object with a field {column}: use --column")
        yield question_of(item, column, pair_column or ("text_pair" if "text_pair" in item else None))


def question_of(row: dict[str, JSON], column: str, pair_column: str | None) -> JSON:
    """Return the text of a row, or its pair of texts."""
    return {"text": row[column], "text_pair": row.get(pair_column)} if pair_column else row[column]


def skip(questions: Iterator[JSON], count: int) -> None:
    """Leave out questions that are answered already."""
    left = sum(1 for _ in itertools.islice(questions, count))
    if left < count:
        raise ScriptError(f"the output has {count} answers, but there are only {left} texts: is it of another input?")


def in_batches(questions: Iterable[JSON], size: int) -> Iterator[list[JSON]]:
    """Yield lists of at most `size` questions."""
    iterator = iter(questions)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


# --- Answers ------------------------------------------------------------------------------------------------------


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


class Served:
    """A model on a server. Threads may share it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.inference = Inference(Server.of(arguments))
        self.model: str = arguments.model
        self.version: str | None = arguments.version
        self.parameters = arguments.parameters | {"on_error": "report"}
        self.tries: int = arguments.tries
        self.timeout: float = arguments.timeout
        self.was_there = threading.Event()
        self.given_up = threading.Event()

    def answer(self, questions: list[JSON]) -> list[JSON]:
        """Answer questions in one request; in several where one is refused, e.g. because it is too large."""
        try:
            answers = self._try_hard({"inputs": questions, "parameters": self.parameters})
        except UnknownModel:
            raise
        except Refused as refusal:
            if len(questions) > 1:
                middle = len(questions) // 2
                return self.answer(questions[:middle]) + self.answer(questions[middle:])
            return [{"error": {"code": refusal.status, "type": refusal.kind, "message": refusal.message}}]
        if not isinstance(answers, list) or len(answers) != len(questions):
            raise ScriptError(f"{self.model} did not answer {len(questions)} texts with as many answers")
        return answers

    def _try_hard(self, request: JSON) -> JSON:
        attempt = 1
        while True:
            try:
                answers = self.inference.predict(self.model, request, version=self.version, timeout=self.timeout)
            except (Unavailable, NotRunning) as error:
                gone = isinstance(error, NotRunning) and not self.was_there.is_set()
                pause = random.uniform(0.5, 1) * min(0.5 * 2**attempt, LONGEST_PAUSE)  # noqa: S311 - spreads the crowd
                if gone or attempt == self.tries or self.given_up.wait(pause):
                    raise
                attempt += 1
            else:
                self.was_there.set()
                return answers


def ask_server(arguments: argparse.Namespace, stack: ExitStack) -> Answerer:
    """Let a server answer; its threads stop trying when the script ends."""
    served = Served(arguments)
    stack.callback(served.given_up.set)
    return served.answer


def load_local(arguments: argparse.Namespace, stack: ExitStack) -> Answerer:
    """Load a model folder or an archive into this process."""
    from handler.config import ModelConfig, ServingConfig
    from handler.predictor import Predictor

    folder: Path = arguments.local
    if folder.is_file():
        unpacked = stack.enter_context(tempfile.TemporaryDirectory())
        try:
            with zipfile.ZipFile(folder) as archive:
                archive.extractall(unpacked)
        except zipfile.BadZipFile:
            raise ScriptError(f"{folder} is no archive, or a broken one") from None
        folder = Path(unpacked)
    elif not folder.is_dir():
        raise ScriptError(f"no model at {folder}")
    settings = folder / "model-config.yaml"
    config = ModelConfig.read(settings).handler if settings.is_file() else ServingConfig()
    predictor = Predictor.load(folder, config)
    parameters = arguments.parameters | {"on_error": "report"}
    return lambda questions: predictor.answer_items(questions, parameters)


def is_error(answer: JSON) -> bool:
    """Tell an error in the place of an answer."""
    return isinstance(answer, dict) and isinstance(answer.get("error"), dict)


# --- Output -------------------------------------------------------------------------------------------------------


class Lines:
    """Answers as JSON lines."""

    def __init__(self, file: IO[bytes] | io.BufferedIOBase, *, with_text: bool) -> None:
        self.file = file
        self.with_text = with_text

    def write(self, index: int, question: JSON, answer: JSON) -> None:
        """Write one answer."""
        line = {"index": index}
        if self.with_text:
            line |= question if isinstance(question, dict) else {"text": question}
        line |= answer if is_error(answer) else {"answer": answer}
        try:
            written = json.dumps(line, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # half a character, which JSON can escape and UTF-8 cannot hold
            written = json.dumps(line).encode()
        self.file.write(written + b"\n")

    def flush(self) -> None:
        """Let what was written survive the end of this process."""
        self.file.flush()

    def close(self) -> None:
        """Nothing is left to do."""


class Table:
    """Answers as a table for a person, printed at the end."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []

    def write(self, index: int, question: JSON, answer: JSON) -> None:
        """Add one answer: its best label, or all of it where it has no labels."""
        text = " | ".join(map(str, question.values())) if isinstance(question, dict) else str(question)
        if is_error(answer):
            self.rows.append([text, "error", str(answer["error"].get("message"))])
        elif isinstance(answer, list) and answer and isinstance(answer[0], dict) and "label" in answer[0]:
            self.rows.append([text, str(answer[0]["label"]), f"{answer[0]['score']:.3f}"])
        else:
            self.rows.append([text, json.dumps(answer, ensure_ascii=False), ""])

    def flush(self) -> None:
        """Nothing yet: columns are as wide as their widest cell."""

    def close(self) -> None:
        """Print the table."""
        table(["text", "label", "score"], self.rows)


def resume(path: Path) -> int:
    """Count the answers that an output has already; a last line that was cut short is removed.

    Raises:
        ScriptError: the file holds something else.
    """
    if not path.exists():
        return 0
    kept = whole = 0
    with path.open("r+b") as file:
        for line in file:
            try:
                index = json.loads(line)["index"] if line.endswith(b"\n") else None
            except (ValueError, KeyError, TypeError):
                raise ScriptError(
                    f"line {kept + 1} of {path} is no answer of this script: choose another --output"
                ) from None
            if index is None:
                break
            if index != kept:
                raise ScriptError(
                    f"line {kept + 1} of {path} is not the answer to text {kept}: choose another --output"
                )
            kept += 1
            whole += len(line)
        file.truncate(whole)
    return kept


def main_until_reader_leaves() -> int:
    """Run `main`; end without a word when what reads the answers has enough, e.g. `head`."""
    try:
        return main()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
        return 0


if __name__ == "__main__":
    run(main_until_reader_leaves)
