"""Extractive question answering: the part of a context that answers a question.

Long contexts are read in windows that share `doc_stride` tokens. An answer is the span with the highest sum of its
start and end over all windows; where the training data has questions without an answer, the answer is empty if
the first token of every window has a higher sum than that.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from handler.spans import best_ends
from scripts.cli.console import ScriptError
from scripts.readers.formats import TABLES, Record
from scripts.readers.tables import ColumnMapping, Table
from scripts.training.tasks.base import (
    EncodedExamples,
    Examples,
    TokenLimits,
    TrainingTask,
    to_features,
)
from scripts.training.tasks.squad import squad_metrics

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class QuestionExample:
    """A question, its context, and its answers as (first character, text); an unanswerable question has none."""

    question: str
    context: str
    answers: list[tuple[int, str]]


@dataclass(frozen=True)
class ContextWindow:
    """A part of a context: its example, its first token in the feature, and the characters of its tokens."""

    example_index: int
    first_token: int
    offsets: list[tuple[int, int]]

    def token_span(self, start: int, end: int) -> tuple[int, int] | None:
        """Return the first and the last token of characters [start, end), None if the window lacks some of them."""
        if not self.offsets or start < self.offsets[0][0] or end > self.offsets[-1][1]:
            return None
        inside = [index for index, (left, right) in enumerate(self.offsets) if left < end and right > start]
        return (self.first_token + inside[0], self.first_token + inside[-1]) if inside else None


class AnswerExtraction(TrainingTask[QuestionExample]):
    """The first and the last token of the answer."""

    auto_class = "AutoModelForQuestionAnswering"
    metrics: ClassVar = {"exact_match": "exact match", "f1": "F1"}
    best_metric = "f1"
    unit_name = "questions"
    group_name = "contexts"
    readers = {suffix: TABLES[suffix] for suffix in (".json", ".jsonl")}  # noqa: RUF012
    text_columns = ("question",)
    pair_columns = ("context",)
    label_columns = ("answers",)
    options = TrainingTask.options | {"doc_stride", "max_question_length", "max_answer_length"}
    max_length = 384
    epochs = (2, 10)

    def __init__(self, labels: Sequence[str], columns: ColumnMapping, may_be_none: bool = False) -> None:
        super().__init__(labels, columns)
        self.may_be_none = may_be_none

    @classmethod
    def from_table(cls, table: Table, columns: ColumnMapping) -> AnswerExtraction:
        task = cls((), columns)
        rows = task.examples(table).rows
        if not any(row.answers for row in rows):
            raise ScriptError(f"{table.name}, column {columns.labels[0]}: no question has an answer")
        return cls((), columns, may_be_none=not all(row.answers for row in rows))

    def example(self, table: Table, row: int, record: Record) -> QuestionExample:
        question = table.text(row, record, self.columns.text)
        context = table.text(row, record, str(self.columns.pair))
        (column,) = self.columns.labels
        cell = record.get(column)
        texts, starts = (cell.get(key) if isinstance(cell, dict) else None for key in ("text", "answer_start"))
        if not (isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts)):
            raise table.error(row, column, "two lists of one length are needed, text and answer_start")
        for number, (text, start) in enumerate(zip(texts, starts, strict=True), start=1):
            table.require_text(row, column, text, f"answer {number}")
            if type(start) is not int or start < 0 or context[start : start + len(text)] != text:
                raise table.error(row, column, f"answer {number} does not stand in the context at its answer_start")
        return QuestionExample(question, context, list(zip(starts, texts, strict=True)))

    def label_counts(self, examples: Examples[QuestionExample]) -> dict[str, int]:
        answered = sum(bool(row.answers) for row in examples.rows)
        return {"answered": answered, "unanswered": len(examples) - answered}

    def texts(self, example: QuestionExample) -> tuple[str, ...]:
        return (example.question, example.context)

    def group(self, example: QuestionExample) -> Hashable:
        return example.context

    def head_config(self) -> dict[str, Any]:
        return {"num_labels": 2}  # start and end; a classifier to start from may have another number

    def encode(
        self,
        examples: Examples[QuestionExample],
        tokenizer: PreTrainedTokenizerBase,
        limits: TokenLimits,
        *,
        training: bool,
    ) -> EncodedExamples:
        questions = [row.question for row in examples.rows]
        question_offsets = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        max_length = limits.max_question_length
        ends = [offsets[max_length - 1][1] if len(offsets) > max_length else None for offsets in question_offsets]
        encoding = tokenizer(
            [question[:end] for question, end in zip(questions, ends, strict=True)],
            [row.context for row in examples.rows],
            truncation="only_second",
            max_length=limits.max_length,
            stride=limits.doc_stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        features = to_features(encoding)
        windows = []
        for number, (example_index, offsets) in enumerate(
            zip(encoding["overflow_to_sample_mapping"], encoding["offset_mapping"], strict=True)
        ):
            context = [position for position, part in enumerate(encoding.sequence_ids(number)) if part == 1]
            first = context[0] if context else 0
            windows.append(ContextWindow(example_index, first, [offsets[position] for position in context]))
            start, end = self.target(examples.rows[example_index], windows[-1])
            features[number] |= {"start_positions": start, "end_positions": end}
        notes = []
        if n_cut := sum(end is not None for end in ends):
            notes.append(f"{n_cut} of {len(examples)} questions are longer than {max_length} tokens, the rest is cut")
        if len(features) > len(examples):
            notes.append(f"{len(examples)} contexts are read in {len(features)} windows of {limits.max_length} tokens")
        metrics = partial(self.compute_metrics, examples, windows, limits.max_answer_length)
        return EncodedExamples(features, metrics, notes)

    def target(self, row: QuestionExample, window: ContextWindow) -> tuple[int, int]:
        """Return the first and last token of the first answer in a window, (0, 0) if the window lacks it."""
        span = None
        if row.answers:
            start, text = row.answers[0]
            start += len(text) - len(text.lstrip())
            span = window.token_span(start, start + len(text.strip()))
        return span or (0, 0)

    def compute_metrics(
        self,
        examples: Examples[QuestionExample],
        windows: Sequence[ContextWindow],
        max_answer_length: int,
        outputs: tuple[np.ndarray, ...],
    ) -> dict[str, float]:
        """Return the metrics of the start and end logits, both (windows, tokens)."""
        answers = self.decode(examples.rows, windows, max_answer_length, *outputs[:2])
        return squad_metrics([[text for _, text in row.answers] for row in examples.rows], answers)

    def decode(
        self,
        rows: Sequence[QuestionExample],
        windows: Sequence[ContextWindow],
        max_answer_length: int,
        starts: np.ndarray,
        ends: np.ndarray,
    ) -> list[str]:
        """Return the answer to each question, "" for none."""
        best = [(float("-inf"), "")] * len(rows)
        null_scores = [float("inf")] * len(rows)
        for window, start, end in zip(windows, starts, ends, strict=True):
            index = window.example_index
            null_scores[index] = min(null_scores[index], float(start[0] + end[0]))
            score, left, right = best_span(start, end, window, max_answer_length)
            if score > best[index][0]:
                best[index] = (score, rows[index].context[left:right].strip())
        return [
            "" if self.may_be_none and null_score > score else text
            for (score, text), null_score in zip(best, null_scores, strict=True)
        ]


def best_span(starts: np.ndarray, ends: np.ndarray, window: ContextWindow, max_tokens: int) -> tuple[float, int, int]:
    """Return the highest score of a span of at most `max_tokens` tokens in the context, and its characters."""
    import numpy as np

    n = len(window.offsets)
    if not n:
        return float("-inf"), 0, 0
    starts, ends = (scores[window.first_token : window.first_token + n] for scores in (starts, ends))
    best, lengths = best_ends(starts, ends, max_tokens, np.add)
    first = int(best.argmax())
    return float(best[first]), window.offsets[first][0], window.offsets[first + int(lengths[first])][1]
