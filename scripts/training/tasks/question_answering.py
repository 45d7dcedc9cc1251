"""The part of a context that answers a question.

Long contexts are read in windows that share `doc_stride` tokens. An answer is the span with the highest sum of its
start and end over all windows; where the training data has questions without an answer, it is none if the first
token of every window has a higher sum than that.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from handler.spans import best_ends
from scripts.cli.console import ScriptError
from scripts.readers.tables import TABLES, Columns, Record, Table
from scripts.training.tasks.base import Encoded, Examples, Limits, Problem, require_offsets, unpacked
from scripts.training.tasks.squad import measure, read_squad

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Question:
    """A question, its context, and the answers in it by their first character; none if the context has none."""

    question: str
    context: str
    answers: list[tuple[int, str]]


@dataclass(frozen=True)
class Window:
    """A part of a context: whose it is, its first token in the feature, and the characters of each of its tokens."""

    owner: int
    first: int
    offsets: list[tuple[int, int]]

    def place(self, start: int, end: int) -> tuple[int, int] | None:
        """Return the first and the last token of characters, if they lie within."""
        if not self.offsets or start < self.offsets[0][0] or end > self.offsets[-1][1]:
            return None
        inside = [place for place, (left, right) in enumerate(self.offsets) if left < end and right > start]
        return (self.first + inside[0], self.first + inside[-1]) if inside else None


class Answers(Problem[Question]):
    """The first and the last token of an answer."""

    auto_class = "AutoModelForQuestionAnswering"
    metrics: ClassVar = {"exact_match": "exact match", "f1": "F1"}
    best = "f1"
    noun = "questions"
    readers = {".json": read_squad, ".jsonl": TABLES[".jsonl"]}  # noqa: RUF012
    text_columns = ("question",)
    pair_columns = ("context",)
    label_columns = ("answers",)
    options = Problem.options | {"doc_stride", "max_question_length", "max_answer_length"}
    max_length = 384
    epochs = (2, 10)

    def __init__(self, labels: Sequence[str], columns: Columns, may_be_none: bool = False) -> None:
        super().__init__(labels, columns)
        self.may_be_none = may_be_none

    @classmethod
    def learn(cls, table: Table, columns: Columns) -> Answers:
        problem = cls((), columns)
        rows = problem.examples(table).rows
        if not any(row.answers for row in rows):
            raise ScriptError(f"{table.name}, column {columns.labels[0]}: no question has an answer")
        return cls((), columns, may_be_none=not all(row.answers for row in rows))

    def example(self, table: Table, row: int, record: Record) -> Question:
        question = table.text(row, record, self.columns.text)
        context = table.text(row, record, str(self.columns.pair))
        (column,) = self.columns.labels
        cell = record.get(column)
        texts, starts = (cell.get(key) if isinstance(cell, dict) else None for key in ("text", "answer_start"))
        if not (isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts)):
            raise table.error(row, column, "two lists of one length are needed, text and answer_start")
        for number, (text, start) in enumerate(zip(texts, starts, strict=True), start=1):
            table.checked(row, column, text, f"answer {number}")
            if type(start) is not int or start < 0 or context[start : start + len(text)] != text:
                raise table.error(row, column, f"answer {number} does not stand in the context at its answer_start")
        return Question(question, context, list(zip(starts, texts, strict=True)))

    def counts(self, examples: Examples[Question]) -> dict[str, int]:
        answered = sum(bool(row.answers) for row in examples.rows)
        return {"answered": answered, "unanswered": len(examples) - answered}

    def group(self, example: Question) -> Hashable:
        return example.context

    def head(self) -> dict[str, Any]:
        return {"num_labels": 2}  # a start and an end; a classifier that is trained on may have had others

    def encode(
        self, examples: Examples[Question], tokenizer: PreTrainedTokenizerBase, limits: Limits, *, training: bool
    ) -> Encoded:
        require_offsets(tokenizer)
        questions = [row.question for row in examples.rows]
        asked = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        longest = limits.max_question_length
        ends = [offsets[longest - 1][1] if len(offsets) > longest else None for offsets in asked]
        encoding = tokenizer(
            [question[:end] for question, end in zip(questions, ends, strict=True)],
            [row.context for row in examples.rows],
            truncation="only_second",
            max_length=limits.max_length,
            stride=limits.doc_stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        features = unpacked(encoding)
        windows = []
        for number, (owner, offsets) in enumerate(
            zip(encoding["overflow_to_sample_mapping"], encoding["offset_mapping"], strict=True)
        ):
            inside = [place for place, part in enumerate(encoding.sequence_ids(number)) if part == 1]
            first = inside[0] if inside else 0
            windows.append(Window(owner, first, [offsets[place] for place in inside]))
            start, end = self.target(examples.rows[owner], windows[-1])
            features[number] |= {"start_positions": start, "end_positions": end}
        notes = []
        if n_cut := sum(end is not None for end in ends):
            notes.append(f"{n_cut} of {len(examples)} questions are longer than {longest} tokens, the rest is cut")
        if len(features) > len(examples):
            notes.append(f"{len(examples)} contexts are read in {len(features)} windows of {limits.max_length} tokens")
        return Encoded(features, partial(self.judge, examples, windows, limits.max_answer_length), notes)

    def target(self, row: Question, window: Window) -> tuple[int, int]:
        """Return the first answer's place in a window, or the first token: it is not there."""
        place = None
        if row.answers:
            start, text = row.answers[0]
            start += len(text) - len(text.lstrip())
            place = window.place(start, start + len(text.strip()))
        return place or (0, 0)

    def judge(
        self, examples: Examples[Question], windows: Sequence[Window], longest: int, outputs: tuple[np.ndarray, ...]
    ) -> dict[str, float]:
        """Return the metrics of the scores of starts and ends, both (windows, tokens)."""
        answers = self.decode(examples.rows, windows, longest, *outputs[:2])
        return measure([[text for _, text in row.answers] for row in examples.rows], answers)

    def decode(
        self,
        rows: Sequence[Question],
        windows: Sequence[Window],
        longest: int,
        starts: np.ndarray,
        ends: np.ndarray,
    ) -> list[str]:
        """Return the answer to each question; an empty one says that there is none."""
        best = [(float("-inf"), "")] * len(rows)
        none = [float("inf")] * len(rows)
        for window, start, end in zip(windows, starts, ends, strict=True):
            none[window.owner] = min(none[window.owner], float(start[0] + end[0]))
            score, left, right = best_span(start, end, window, longest)
            if score > best[window.owner][0]:
                best[window.owner] = (score, rows[window.owner].context[left:right].strip())
        return [
            "" if self.may_be_none and without > score else text
            for (score, text), without in zip(best, none, strict=True)
        ]


def best_span(starts: np.ndarray, ends: np.ndarray, window: Window, longest: int) -> tuple[float, int, int]:
    """Return the highest score of a span of at most `longest` tokens in the context, and its characters."""
    import numpy as np

    n = len(window.offsets)
    if not n:
        return float("-inf"), 0, 0
    starts, ends = (scores[window.first : window.first + n] for scores in (starts, ends))
    best, lengths = best_ends(starts, ends, longest, np.add)
    first = int(best.argmax())
    return float(best[first]), window.offsets[first][0], window.offsets[first + int(lengths[first])][1]
