"""Labelled examples of what a model is served for: items as requests hold them, and what the right answer is.

Files are read as scripts/train.py reads them (CSV, TSV, JSON lines, CoNLL, SQuAD); errors name the row, never a text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from handler.errors import RequestError
from handler.protocol import JSON
from handler.tasks import Task
from scripts.archives.examples import DEFAULT_COLUMNS, ColumnOptions
from scripts.cli.console import ScriptError
from scripts.readers.tables import ColumnMapping, Table, parse_list_cells, read
from scripts.training import tasks as training
from scripts.training.settings import default_column
from scripts.training.tasks.base import TrainingTask
from scripts.training.tasks.classification import (
    LabelledText,
    MultiLabelClassification,
    SingleLabelClassification,
    multi_hot_length,
)
from scripts.training.tasks.question_answering import AnswerExtraction
from scripts.training.tasks.ranking import Ranking
from scripts.training.tasks.token_classification import EntityRecognition

TEXT_COLUMNS = ("text", "premise", "sentence1", "query", "question")
PAIR_COLUMNS = ("text_pair", "hypothesis", "sentence2", "next_sentence")
PASSAGE_COLUMNS = ("text", "passage", "document")  # beside a query
MAX_EXAMPLES = 20_000


@dataclass(frozen=True)
class LabelledItem:
    """An item of a request, and what its right answer holds: a label, flags, spans or texts."""

    row: int
    item: JSON
    target: Any


@dataclass(frozen=True)
class TaggedSpans:
    """The entities (start, end, type) of a text, and the tag of each word by its first character."""

    entities: frozenset[tuple[int, int, str]]
    tags: dict[int, str]


@dataclass(frozen=True)
class LabelledFile:
    """The examples of one file, spread over it where it has more than `MAX_EXAMPLES`."""

    name: str
    sha256: str
    items: list[LabelledItem]
    labels: list[str]  # of the answers, where they are labels

    def error(self, row: int, reason: str) -> ScriptError:
        """Return an error that names file and row."""
        return ScriptError(f"{self.name} row {row}: {reason}")


def read_labelled(path: Path, task: Task, options: ColumnOptions = DEFAULT_COLUMNS) -> LabelledFile:
    """Read the examples of a file for a task.

    Raises:
        ScriptError: a task without scores to calibrate, a file without such examples, or one that the task refuses.
    """
    kind, reader = _READERS.get(task.name, (None, None))
    is_regression = task.name == "text-classification" and task.model_config.problem_type == "regression"
    if kind is None or reader is None or is_regression:
        what = "a regression" if is_regression else task.name
        raise ScriptError(f"--calibrate-scores: {what} has no scores that are probabilities")
    table = read(path, training.TRAINING_TASKS[kind].readers)
    table = parse_list_cells(table, training.LIST_COLUMNS)
    items, labels = reader(task, table, options)
    step = -(-len(items) // MAX_EXAMPLES)
    file = LabelledFile(table.name, table.sha256, items[::step], labels)
    for example in file.items:
        try:
            task.parse(example.item, {"candidate_labels": labels} if task.name == "zero-shot-classification" else {})
        except RequestError as error:
            raise file.error(example.row, str(error)) from None
    return file


def read_items(path: Path, task: Task, options: ColumnOptions = DEFAULT_COLUMNS) -> list[JSON]:
    """Return the texts of a file whose labels, if there are any, do not matter."""
    table = read(path, training.TRAINING_TASKS["single"].readers)
    columns = _columns(table, SingleLabelClassification, options)
    table.require(replace(columns, labels=()))
    items = [_text_item(task, *_texts(table, row, record, columns)) for row, record in table.rows]
    return items[:: -(-len(items) // MAX_EXAMPLES)]


Read = tuple[list[LabelledItem], list[str]]


def _texts(table: Table, row: int, record: Any, columns: ColumnMapping) -> tuple[str, str | None]:
    pair = None if columns.pair is None else table.text(row, record, columns.pair)
    return table.text(row, record, columns.text), pair


def _columns(table: Table, task: type[TrainingTask[Any]], options: ColumnOptions) -> ColumnMapping:
    header = table.header
    text = options.text or default_column(TEXT_COLUMNS, header) or "text"
    is_ranked = bool({"query", "question"} & set(header)) and bool(set(PASSAGE_COLUMNS) & set(header))
    if is_ranked and options.text is None:
        text = default_column(("query", "question"), header) or "query"
    pairs = PASSAGE_COLUMNS if is_ranked else PAIR_COLUMNS
    pair = options.pair or next((name for name in pairs if name in header and name != text), None)
    label = options.label or default_column((*task.label_columns, "label"), header) or "label"
    return ColumnMapping(text, pair, (label,))


def _text_item(task: Task, text: str, pair: str | None) -> JSON:
    if task.name == "rerank":
        return {"query": text, "texts": [pair]}
    if task.name == "next-sentence-prediction":
        return {"text": text, "next_sentence": pair}
    return text if pair is None else {"text": text, "text_pair": pair}


def _labelled(task: Task, table: Table, trained: TrainingTask[LabelledText[Any]]) -> list[LabelledItem]:
    table.require(trained.columns)
    if task.name in ("rerank", "next-sentence-prediction") and trained.columns.pair is None:
        raise ScriptError(f"{table.name}: {task.name} needs two columns, {' and '.join(task.fields)}")
    examples = ((row, trained.example(table, row, record)) for row, record in table.rows)
    return [
        LabelledItem(row, _text_item(task, example.text, example.pair), example.target) for row, example in examples
    ]


def _classification(task: Task, table: Table, options: ColumnOptions) -> Read:
    if len(task.labels) == 1:
        return _relevance(task, table, options)
    if task.model_config.problem_type != "multi_label_classification":
        columns = _columns(table, SingleLabelClassification, options)
        return _labelled(task, table, SingleLabelClassification(task.labels, columns)), task.labels
    columns = _columns(table, MultiLabelClassification, options)
    if options.label is None and set(task.labels) <= set(table.header):
        columns = ColumnMapping(columns.text, columns.pair, tuple(task.labels))
    elif multi_hot_length([record.get(columns.labels[0]) for _, record in table.rows]) == len(task.labels):
        columns = ColumnMapping(columns.text, columns.pair, columns.labels, label_names=tuple(task.labels))
    return _labelled(task, table, MultiLabelClassification(task.labels, columns)), task.labels


def _relevance(task: Task, table: Table, options: ColumnOptions) -> Read:
    columns = _columns(table, Ranking, options)
    return _labelled(task, table, Ranking(("relevance",), columns)), task.labels


def _next_sentence(task: Task, table: Table, options: ColumnOptions) -> Read:
    columns = _columns(table, SingleLabelClassification, options)
    return _labelled(task, table, SingleLabelClassification(task.labels, columns)), task.labels


def _zero_shot(task: Task, table: Table, options: ColumnOptions) -> Read:
    columns = _columns(table, SingleLabelClassification, options)
    table.require(columns)
    trained = SingleLabelClassification.from_table(table, columns)
    return _labelled(task, table, trained), list(trained.labels)


def _entities(_: Task, table: Table, options: ColumnOptions) -> Read:
    text = options.text or default_column(EntityRecognition.text_columns, table.header) or "text"
    label = options.label or default_column(EntityRecognition.label_columns, table.header) or "tags"
    columns = ColumnMapping(text, None, (label,))
    table.require(columns)
    trained = EntityRecognition.from_table(table, columns)
    items = []
    for row, record in table.rows:
        example = trained.example(table, row, record)
        label_ids = np.array([trained.index[tag] for tag in example.tags], dtype=np.intp)
        starts = [*trained.spans.starts(label_ids).tolist(), len(example.tags)] if len(label_ids) else [0]
        entities = frozenset(
            (example.words[first][0], example.words[end - 1][1], trained.spans.groups[label_ids[first]])
            for first, end in pairwise(starts)
            if example.tags[first] != "O"
        )
        tags = {start: tag for (start, _), tag in zip(example.words, example.tags, strict=True)}
        items.append(LabelledItem(row, example.text, TaggedSpans(entities, tags)))
    return items, []


def _answers(_: Task, table: Table, options: ColumnOptions) -> Read:
    columns = ColumnMapping(options.text or "question", options.pair or "context", (options.label or "answers",))
    table.require(columns)
    trained = AnswerExtraction.from_table(table, columns)
    items = []
    for row, record in table.rows:
        example = trained.example(table, row, record)
        item = {"question": example.question, "context": example.context}
        items.append(LabelledItem(row, item, [text for _, text in example.answers]))
    return items, []


_READERS: dict[str, tuple[str, Callable[[Task, Table, ColumnOptions], Read]]] = {
    "text-classification": ("single", _classification),
    "rerank": ("ranking", _relevance),
    "next-sentence-prediction": ("single", _next_sentence),
    "zero-shot-classification": ("single", _zero_shot),
    "token-classification": ("entities", _entities),
    "question-answering": ("answers", _answers),
}
