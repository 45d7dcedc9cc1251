"""Write the answers of scripts/predict.py: as JSON lines, to which a later run can add, or as a table."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import IO

from handler.protocol import JSON
from scripts.cli.console import ScriptError, table


def is_error(answer: JSON) -> bool:
    """Tell whether there is an error in the place of an answer."""
    return isinstance(answer, dict) and isinstance(answer.get("error"), dict)


def json_line(value: JSON) -> bytes:
    """Return a value as one line of JSON."""
    try:
        content = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a character, which JSON can escape and UTF-8 cannot hold
        content = json.dumps(value).encode()
    return content + b"\n"


class JsonLinesWriter:
    """Writes answers as JSON lines."""

    def __init__(self, file: IO[bytes] | io.BufferedIOBase, *, with_text: bool) -> None:
        self.file = file
        self.with_text = with_text

    def write(self, index: int, question: JSON, answer: JSON) -> None:
        """Write one answer."""
        line = {"index": index}
        if self.with_text:
            line |= question if isinstance(question, dict) else {"text": question}
        line |= answer if is_error(answer) else {"answer": answer}
        self.file.write(json_line(line))

    def flush(self) -> None:
        """Write buffered answers to the file."""
        self.file.flush()

    def close(self) -> None:
        """Do nothing: the caller closes the file."""


class TableWriter:
    """Collects answers and prints them as a table at the end."""

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
        """Do nothing: columns are as wide as their widest cell, which may still come."""

    def close(self) -> None:
        """Print the table."""
        table(["text", "label", "score"], self.rows)


def resume(path: Path) -> int:
    """Return how many answers an output has already, after removing a last line that was cut short.

    Raises:
        ScriptError: the file holds something else.
    """
    if not path.is_file():  # nor is there anything to read in /dev/stdout
        return 0
    n_answers = n_bytes = 0
    with path.open("r+b") as file:
        for line in file:
            begin = b'{"index": %d, ' % n_answers
            if not line.endswith(b"\n") and line[: len(begin)] == begin[: len(line)]:
                break
            try:
                index = json.loads(line if line.endswith(b"\n") else b"[]")["index"]
            except (ValueError, KeyError, TypeError):
                raise ScriptError(
                    f"line {n_answers + 1} of {path} is no answer of this script: choose another --output"
                ) from None
            if index != n_answers:
                raise ScriptError(
                    f"line {n_answers + 1} of {path} is not the answer to text {n_answers}: choose another --output"
                )
            n_answers += 1
            n_bytes += len(line)
        file.truncate(n_bytes)
    return n_answers
