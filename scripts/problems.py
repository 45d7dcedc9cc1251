"""The kinds of problems: what the labels of a table mean.

Every kind is one class that learns its labels from the training table, knows the target of a row, encodes examples and
measures answers. The registry is at the bottom. Reads no files and trains nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from scripts.console import ScriptError
from scripts.dataset import Columns, Examples, Record, Table, Target

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase


class Problem(ABC):
    """What is learnt: which labels there are, what a row's target is, and how good answers are."""

    problem_type: ClassVar[str]  # in the model's config.json
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    metrics: ClassVar[Mapping[str, str]]  # key -> title
    best: ClassVar[str]  # the metric that chooses the best epoch
    lower_is_better: ClassVar[bool] = False

    def __init__(self, labels: Sequence[str], columns: Columns) -> None:
        self.labels = tuple(labels)
        self.columns = columns
        self.index = {label: number for number, label in enumerate(self.labels)}

    @classmethod
    @abstractmethod
    def learn(cls, table: Table, columns: Columns) -> Problem:
        """Find the labels in the training table."""

    @abstractmethod
    def target(self, table: Table, row: int, record: Record) -> Target:
        """Return what the model should answer for one row."""

    @abstractmethod
    def measure(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Return the metrics of answers (n, labels) against targets (n,) or (n, labels)."""

    @abstractmethod
    def counts(self, examples: Examples) -> dict[str, int]:
        """Return how often each label occurs."""

    def examples(self, table: Table) -> Examples:
        """Turn the rows of a table into examples; the first bad row is refused."""
        text, pair = self.columns.text, self.columns.pair
        texts = [table.text(row, record, text) for row, record in table.rows]
        pairs = None if pair is None else [table.text(row, record, pair) for row, record in table.rows]
        targets = [self.target(table, row, record) for row, record in table.rows]
        return Examples(table.name, table.sha256, texts, pairs, targets)

    def encode(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[dict[str, Any]]:
        """Tokenize once, without padding; each item is one example as the model takes it."""
        encoded = tokenizer(examples.texts, examples.pairs, truncation=True, max_length=max_length)
        names = list(encoded.keys())
        columns = zip(*(encoded[name] for name in names), strict=True)
        return [
            {**dict(zip(names, values, strict=True)), "labels": target}
            for values, target in zip(columns, examples.targets, strict=True)
        ]

    def titled(self, metrics: Mapping[str, float]) -> str:
        """Return metrics as a person reads them: `accuracy 0.953  macro F1 0.951`."""
        return "  ".join(f"{title} {metrics[key]:.3f}" for key, title in self.metrics.items())


class SingleLabel(Problem):
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

    def measure(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        from sklearn.metrics import accuracy_score, f1_score

        answers = logits.argmax(-1)
        macro = f1_score(targets, answers, average="macro", zero_division=0)
        return {"accuracy": float(accuracy_score(targets, answers)), "macro_f1": float(macro)}

    def counts(self, examples: Examples) -> dict[str, int]:
        found = Counter(examples.targets)
        return {label: found[number] for number, label in enumerate(self.labels)}


class MultiLabel(Problem):
    """Any number of labels a text: several columns of 0 and 1, or one column with a list of labels."""

    problem_type = "multi_label_classification"
    metrics: ClassVar = {"micro_f1": "micro F1", "subset_accuracy": "subset accuracy"}
    best = "micro_f1"

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

    def measure(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        from sklearn.metrics import accuracy_score, f1_score

        answers, targets = logits > 0, targets > 0.5
        micro = f1_score(targets, answers, average="micro", zero_division=0)
        return {"micro_f1": float(micro), "subset_accuracy": float(accuracy_score(targets, answers))}

    def counts(self, examples: Examples) -> dict[str, int]:
        sums = map(sum, zip(*examples.targets, strict=True))
        return {label: int(n) for label, n in zip(self.labels, sums, strict=True)}


class Regression(Problem):
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

    def measure(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        from scipy.stats import pearsonr, spearmanr  # type: ignore[import-untyped]

        answers = logits.reshape(-1)
        constant = answers.std() == 0 or targets.std() == 0  # no correlation is defined
        return {
            "mse": float(((answers - targets) ** 2).mean()),
            "pearson": 0.0 if constant else float(pearsonr(answers, targets).statistic),
            "spearman": 0.0 if constant else float(spearmanr(answers, targets).statistic),
        }

    def counts(self, examples: Examples) -> dict[str, int]:
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


PROBLEMS: dict[str, type[Problem]] = {"single": SingleLabel, "multi": MultiLabel, "regression": Regression}


def guess(table: Table, columns: Columns) -> str:
    """Name the kind of problem that a table poses.

    Several label columns, a separator or lists: multi. Numbers of which one has a fraction: regression. Else single.
    """
    cells = [record.get(columns.labels[0]) for _, record in table.rows]
    if len(columns.labels) > 1 or columns.separator or any(isinstance(cell, list) for cell in cells):
        return "multi"
    values = [number(str(cell)) for cell in cells]
    fractions = all(value is not None for value in values) and any(v is not None and v % 1 for v in values)
    return "regression" if fractions else "single"
