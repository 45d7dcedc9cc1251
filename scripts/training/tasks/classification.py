"""One answer about a whole text or pair of texts: a label, several labels, a number."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from scripts.cli.console import ScriptError
from scripts.readers.tables import Columns, Record, Table
from scripts.training.tasks.base import Encoded, Examples, Limits, Problem, Stratum, cut, unpacked

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T", int, float, list[float])


@dataclass(frozen=True)
class Labelled(Generic[T]):
    """A text, or a pair of them, and what the model should answer."""

    text: str
    pair: str | None
    target: T


class Classification(Problem[Labelled[T]]):
    """What the three kinds share; each knows the target of a row and measures answers."""

    auto_class = "AutoModelForSequenceClassification"

    @abstractmethod
    def target(self, table: Table, row: int, record: Record) -> T:
        """Return what the model should answer for one row."""

    @abstractmethod
    def measure(self, rows: Sequence[Labelled[T]], logits: np.ndarray) -> dict[str, float]:
        """Return the metrics of answers (rows, labels)."""

    def example(self, table: Table, row: int, record: Record) -> Labelled[T]:
        text = table.text(row, record, self.columns.text)
        pair = None if self.columns.pair is None else table.text(row, record, self.columns.pair)
        return Labelled(text, pair, self.target(table, row, record))

    def stratum(self, example: Labelled[T]) -> Stratum:
        return example.target

    def encode(
        self, examples: Examples[Labelled[T]], tokenizer: PreTrainedTokenizerBase, limits: Limits, *, training: bool
    ) -> Encoded:
        texts, pairs = [row.text for row in examples.rows], [row.pair for row in examples.rows]
        seconds = None if self.columns.pair is None else pairs
        encoding = tokenizer(texts, seconds, truncation=True, max_length=limits.max_length)
        features = unpacked(encoding)
        for feature, row in zip(features, examples.rows, strict=True):
            feature["labels"] = row.target
        return Encoded(features, partial(self.measure, examples.rows), cut(features, limits, self.noun))


def targets_of(rows: Sequence[Labelled[T]]) -> np.ndarray:
    """Return the targets, (rows,) or (rows, labels)."""
    import numpy as np

    return np.array([row.target for row in rows])


class SingleLabel(Classification[int]):
    """Exactly one label a text."""

    problem_type = "single_label_classification"
    metrics: ClassVar = {"accuracy": "accuracy", "macro_f1": "macro F1"}
    best = "macro_f1"

    @classmethod
    def learn(cls, table: Table, columns: Columns) -> SingleLabel:
        (column,) = columns.labels
        return cls(ordered(table, column, {table.label(row, record, column) for row, record in table.rows}), columns)

    def target(self, table: Table, row: int, record: Record) -> int:
        (column,) = self.columns.labels
        return known(self.index, table.label(row, record, column), table, row, column)

    def measure(self, rows: Sequence[Labelled[int]], logits: np.ndarray) -> dict[str, float]:
        from sklearn.metrics import accuracy_score, f1_score

        answers, targets = logits.argmax(-1), targets_of(rows)
        macro = f1_score(targets, answers, average="macro", zero_division=0)
        return {"accuracy": float(accuracy_score(targets, answers)), "macro_f1": float(macro)}

    def counts(self, examples: Examples[Labelled[int]]) -> dict[str, int]:
        found = Counter(row.target for row in examples.rows)
        return {label: found[number] for number, label in enumerate(self.labels)}


class Entailment(SingleLabel):
    """What a premise says about a hypothesis; the names of the labels are those that zero-shot classification needs."""

    noun = "pairs"
    epochs = (3, 20)
    text_columns = ("premise", "sentence1", "text")
    pair_columns = ("hypothesis", "sentence2")

    @classmethod
    def learn(cls, table: Table, columns: Columns) -> Entailment:
        (column,) = columns.labels
        for row, record in table.rows:
            if table.label(row, record, column) not in ENTAILMENT:
                raise table.error(row, column, f"the label is none of {', '.join(ENTAILMENT)}")
        names = ordered(table, column, {table.label(row, record, column) for row, record in table.rows})
        if "entailment" not in names:
            raise ScriptError(f"{table.name}, column {column}: no label is entailment")
        return cls(names, columns)


ENTAILMENT = ("entailment", "neutral", "contradiction", "not_entailment")


class MultiLabel(Classification[list[float]]):
    """Any number of labels a text: several columns of 0 and 1, or one column with a list of labels."""

    problem_type = "multi_label_classification"
    metrics: ClassVar = {"micro_f1": "micro F1", "subset_accuracy": "subset accuracy"}
    best = "micro_f1"
    options = Problem.options | {"label_columns", "label_separator"}

    @classmethod
    def learn(cls, table: Table, columns: Columns) -> MultiLabel:
        if len(columns.labels) > 1:
            return cls(columns.labels, columns)
        (column,) = columns.labels
        names = {label for _, record in table.rows for label in listed(record.get(column), columns.separator)}
        return cls(ordered(table, column, names), columns)

    def target(self, table: Table, row: int, record: Record) -> list[float]:
        if len(self.columns.labels) > 1:
            return [switch(table, row, record, column) for column in self.columns.labels]
        (column,) = self.columns.labels
        target = [0.0] * len(self.labels)
        for label in listed(record.get(column), self.columns.separator):
            target[known(self.index, label, table, row, column)] = 1.0
        return target

    def measure(self, rows: Sequence[Labelled[list[float]]], logits: np.ndarray) -> dict[str, float]:
        from sklearn.metrics import accuracy_score, f1_score

        answers, targets = logits > 0, targets_of(rows) > 0.5
        micro = f1_score(targets, answers, average="micro", zero_division=0)
        return {"micro_f1": float(micro), "subset_accuracy": float(accuracy_score(targets, answers))}

    def counts(self, examples: Examples[Labelled[list[float]]]) -> dict[str, int]:
        sums = map(sum, zip(*(row.target for row in examples.rows), strict=True))
        return {label: int(n) for label, n in zip(self.labels, sums, strict=True)}


class Regression(Classification[float]):
    """A number a text."""

    problem_type = "regression"
    metrics: ClassVar = {"mse": "MSE", "pearson": "Pearson", "spearman": "Spearman"}
    best = "mse"
    lower_is_better = True

    @classmethod
    def learn(cls, table: Table, columns: Columns) -> Regression:  # noqa: ARG003 the column names the number
        return cls(columns.labels, columns)

    def target(self, table: Table, row: int, record: Record) -> float:
        (column,) = self.columns.labels
        value = number(table.label(row, record, column))
        if value is None:
            raise table.error(row, column, "the target of a regression must be a number")
        return value

    def measure(self, rows: Sequence[Labelled[float]], logits: np.ndarray) -> dict[str, float]:
        from scipy.stats import pearsonr, spearmanr  # type: ignore[import-untyped]

        answers, targets = logits.reshape(-1), targets_of(rows)
        constant = answers.std() == 0 or targets.std() == 0  # no correlation is defined
        return {
            "mse": float(((answers - targets) ** 2).mean()),
            "pearson": 0.0 if constant else float(pearsonr(answers, targets).statistic),
            "spearman": 0.0 if constant else float(spearmanr(answers, targets).statistic),
        }

    def counts(self, examples: Examples[Labelled[float]]) -> dict[str, int]:
        return {self.labels[0]: len(examples)}


def ordered(table: Table, column: str, names: set[str]) -> list[str]:
    """Return at least two label names, whole numbers in the order of numbers."""
    if len(names) < 2:
        raise ScriptError(f"{table.name}, column {column}: {len(names)} different labels, at least 2 are needed")
    numeric = all(name.removeprefix("-").isdecimal() for name in names)
    return sorted(names, key=int) if numeric else sorted(names)


def known(index: Mapping[str, int], label: str, table: Table, row: int, column: str) -> int:
    """Return the number of a label that training has seen."""
    if label not in index:
        raise table.error(row, column, f"the label is none of the {len(index)} of the training data")
    return index[label]


def listed(cell: object, separator: str | None) -> list[str]:
    """Return the labels in one cell: a JSON list, or names between separators; an empty cell has none."""
    parts = cell if isinstance(cell, list) else [] if cell is None else str(cell).split(separator or ",")
    return [name for part in parts if (name := str(part).strip())]


def switch(table: Table, row: int, record: Record, column: str) -> float:
    """Return 0 or 1."""
    value = {"true": 1.0, "false": 0.0}.get(cell := table.label(row, record, column).lower(), number(cell))
    if value not in (0.0, 1.0):
        raise table.error(row, column, "a column of one label must hold 0 or 1")
    return value


def number(cell: str) -> float | None:
    """Return a finite number, or nothing."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
