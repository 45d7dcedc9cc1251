"""Classification and regression of a text or a pair of texts."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from scripts.cli.console import ScriptError, counted
from scripts.readers.formats import Record
from scripts.readers.tables import ColumnMapping, Table, label_name, look_of
from scripts.training.tasks.base import (
    EncodedExamples,
    Examples,
    Stratum,
    TokenLimits,
    TrainingTask,
    balanced,
    to_features,
    truncation_notes,
    weighted_cross_entropy,
)

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T", int, float, list[float])


@dataclass(frozen=True)
class LabelledText(Generic[T]):
    """A text or a pair of texts, and its target: a class, a flag for each label, or a number."""

    text: str
    pair: str | None
    target: T


class Classification(TrainingTask[LabelledText[T]]):
    """Base of the tasks with one target a text; a subclass reads the target and computes the metrics."""

    auto_class = "AutoModelForSequenceClassification"

    @abstractmethod
    def target(self, table: Table, row: int, record: Record) -> T:
        """Return the target of one row."""

    @abstractmethod
    def compute_metrics(self, rows: Sequence[LabelledText[T]], logits: np.ndarray) -> dict[str, float]:
        """Return the metrics of logits (rows, labels)."""

    def example(self, table: Table, row: int, record: Record) -> LabelledText[T]:
        text = table.text(row, record, self.columns.text)
        pair = None if self.columns.pair is None else table.text(row, record, self.columns.pair)
        return LabelledText(text, pair, self.target(table, row, record))

    def texts(self, example: LabelledText[T]) -> tuple[str, ...]:
        return (example.text,) if example.pair is None else (example.text, example.pair)

    def stratum(self, example: LabelledText[T]) -> Stratum:
        return example.target

    def encode(
        self,
        examples: Examples[LabelledText[T]],
        tokenizer: PreTrainedTokenizerBase,
        limits: TokenLimits,
        *,
        training: bool,
    ) -> EncodedExamples:
        texts, pairs = [row.text for row in examples.rows], [row.pair for row in examples.rows]
        text_pairs = None if self.columns.pair is None else pairs
        encoding = tokenizer(texts, text_pairs, truncation=True, max_length=limits.max_length)
        features = to_features(encoding)
        for feature, row in zip(features, examples.rows, strict=True):
            feature["labels"] = row.target
        notes = truncation_notes(features, limits, self.unit_name)
        return EncodedExamples(features, partial(self.compute_metrics, examples.rows), notes)


def targets_of(rows: Sequence[LabelledText[T]]) -> np.ndarray:
    """Return the targets, (rows,) or (rows, labels)."""
    import numpy as np

    return np.array([row.target for row in rows])


class SingleLabelClassification(Classification[int]):
    """Exactly one label for each text."""

    problem_type = "single_label_classification"
    metrics: ClassVar = {"accuracy": "accuracy", "macro_f1": "macro F1"}
    best_metric = "macro_f1"
    options = TrainingTask.options | {"class_weights"}

    @classmethod
    def from_table(cls, table: Table, columns: ColumnMapping) -> SingleLabelClassification:
        (column,) = columns.labels
        return cls(
            sorted_labels(table, column, {table.label(row, record, column) for row, record in table.rows}), columns
        )

    def target(self, table: Table, row: int, record: Record) -> int:
        (column,) = self.columns.labels
        return class_index(self.index, table.label(row, record, column), table, row, column)

    def compute_metrics(self, rows: Sequence[LabelledText[int]], logits: np.ndarray) -> dict[str, float]:
        from sklearn.metrics import accuracy_score, f1_score

        predictions, targets = logits.argmax(-1), targets_of(rows)
        macro = f1_score(targets, predictions, average="macro", zero_division=0)
        return {"accuracy": float(accuracy_score(targets, predictions)), "macro_f1": float(macro)}

    def label_counts(self, examples: Examples[LabelledText[int]]) -> dict[str, int]:
        counts = Counter(row.target for row in examples.rows)
        return {label: counts[number] for number, label in enumerate(self.labels)}

    def class_weights(self, examples: Examples[LabelledText[int]]) -> dict[str, float]:
        return balanced(self.label_counts(examples))

    def loss(self, logits: Any, labels: Any, weights: Any) -> Any:
        return weighted_cross_entropy(logits, labels, weights)


class Entailment(SingleLabelClassification):
    """Natural language inference; the label names are those that zero-shot classification looks for."""

    unit_name = "pairs"
    epochs = (3, 20)
    text_columns = ("premise", "sentence1", "text")
    pair_columns = ("hypothesis", "sentence2")

    @classmethod
    def from_table(cls, table: Table, columns: ColumnMapping) -> Entailment:
        (column,) = columns.labels
        for row, record in table.rows:
            if table.label(row, record, column) not in ENTAILMENT:
                raise table.error(row, column, f"the label is none of {', '.join(ENTAILMENT)}, in words")
        names = sorted_labels(table, column, {table.label(row, record, column) for row, record in table.rows})
        if "entailment" not in names:
            raise ScriptError(f"{table.name}, column {column}: no label is entailment")
        return cls(names, columns)


ENTAILMENT = ("entailment", "neutral", "contradiction", "not_entailment")


class MultiLabelClassification(Classification[list[float]]):
    """Any number of labels for each text: several columns of 0 and 1, or one column with a list of labels."""

    problem_type = "multi_label_classification"
    metrics: ClassVar = {"micro_f1": "micro F1", "subset_accuracy": "subset accuracy"}
    best_metric = "micro_f1"
    options = TrainingTask.options | {"label_columns", "label_separator", "label_names", "class_weights"}
    label_columns = ("label", "labels")

    @classmethod
    def from_table(cls, table: Table, columns: ColumnMapping) -> MultiLabelClassification:
        if repeated := [name for name, n in Counter(columns.label_names).items() if n > 1]:
            raise ScriptError(f"--label-names: {repeated[0]} is there twice")
        if len(columns.labels) > 1:
            return cls(columns.labels, columns)
        (column,) = columns.labels
        n_flags = multi_hot_length([record.get(column) for _, record in table.rows])
        if columns.label_names:
            if n_flags != len(columns.label_names):
                raise ScriptError(
                    f"{table.name}, column {column}: --label-names has {len(columns.label_names)} names, but the lists "
                    + (f"have {n_flags} numbers" if n_flags else "are not numbers 0 and 1 of one length")
                )
            return cls(columns.label_names, columns)
        if n_flags:
            raise ScriptError(
                f"{table.name}, column {column}: lists of {n_flags} numbers 0 and 1: name what they stand for, in "
                "their order, with --label-names A,B,C; if 0 and 1 are names of labels, write them as strings"
            )
        rows = ((row, record.get(column)) for row, record in table.rows)
        names = {label for row, cell in rows for label in label_list(table, row, column, cell, columns.separator)}
        return cls(sorted_labels(table, column, names), columns)

    def target(self, table: Table, row: int, record: Record) -> list[float]:
        if len(self.columns.labels) > 1:
            return [flag(table, row, record, column) for column in self.columns.labels]
        (column,) = self.columns.labels
        target = [0.0] * len(self.labels)
        cell = record.get(column)
        if self.columns.label_names:
            if multi_hot_length([cell]) != len(self.labels):
                raise table.error(row, column, f"the label is not a list of {len(self.labels)} numbers 0 and 1")
            return [float(number) for number in cell] if isinstance(cell, list) else target
        for label in label_list(table, row, column, cell, self.columns.separator):
            target[class_index(self.index, label, table, row, column)] = 1.0
        return target

    def compute_metrics(self, rows: Sequence[LabelledText[list[float]]], logits: np.ndarray) -> dict[str, float]:
        from sklearn.metrics import accuracy_score, f1_score

        predictions, targets = logits > 0, targets_of(rows) > 0.5
        micro = f1_score(targets, predictions, average="micro", zero_division=0)
        return {"micro_f1": float(micro), "subset_accuracy": float(accuracy_score(targets, predictions))}

    def label_counts(self, examples: Examples[LabelledText[list[float]]]) -> dict[str, int]:
        sums = map(sum, zip(*(row.target for row in examples.rows), strict=True))
        return {label: int(n) for label, n in zip(self.labels, sums, strict=True)}

    def class_weights(self, examples: Examples[LabelledText[list[float]]]) -> dict[str, float]:
        counts = self.label_counts(examples)
        return {label: (len(examples) - n) / n if 0 < n < len(examples) else 1.0 for label, n in counts.items()}

    def loss(self, logits: Any, labels: Any, weights: Any) -> Any:
        """Return the sum of the losses; a weight counts where a text has the label, 1 where it lacks it."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(logits, labels, pos_weight=weights, reduction="sum")


class Regression(Classification[float]):
    """A number for each text."""

    problem_type = "regression"
    metrics: ClassVar = {"mse": "MSE", "pearson": "Pearson", "spearman": "Spearman"}
    best_metric = "mse"

    @classmethod
    def from_table(cls, table: Table, columns: ColumnMapping) -> Regression:  # noqa: ARG003 the column names the number
        return cls(columns.labels, columns)

    def target(self, table: Table, row: int, record: Record) -> float:
        (column,) = self.columns.labels
        value = number(table.label(row, record, column))
        if value is None:
            raise table.error(row, column, "the target of a regression must be a finite number")
        return value

    def compute_metrics(self, rows: Sequence[LabelledText[float]], logits: np.ndarray) -> dict[str, float]:
        from scipy.stats import pearsonr, spearmanr  # type: ignore[import-untyped]

        predictions, targets = logits.reshape(-1), targets_of(rows)
        constant = predictions.std() == 0 or targets.std() == 0  # no correlation is defined
        return {
            "mse": float(((predictions - targets) ** 2).mean()),
            "pearson": 0.0 if constant else float(pearsonr(predictions, targets).statistic),
            "spearman": 0.0 if constant else float(spearmanr(predictions, targets).statistic),
        }

    def label_counts(self, examples: Examples[LabelledText[float]]) -> dict[str, int]:
        return {self.labels[0]: len(examples)}


def sorted_labels(table: Table, column: str, names: set[str]) -> list[str]:
    """Return the label names in order, integers by their value; raises ScriptError for fewer than two."""
    if len(names) < 2:
        number = counted(len(names), "different label")
        raise ScriptError(f"{table.name}, column {column}: {number}, at least 2 are needed")
    numeric = all(name.removeprefix("-").isdecimal() for name in names)
    return sorted(names, key=int) if numeric else sorted(names)


def class_index(index: Mapping[str, int], label: str, table: Table, row: int, column: str) -> int:
    """Return the index of a label; raises ScriptError for one that the training data lacks."""
    if label not in index:
        alike = next((ascii(name) for name in index if look_of(name) == look_of(label)), None)
        advice = f"write it as there, {alike}" if alike else "correct it, or add examples of it there"
        raise table.error(row, column, f"the label is none of the {len(index)} of the training data: {advice}")
    return index[label]


def multi_hot_length(cells: Sequence[object]) -> int:
    """Return the length of lists that hold one flag for each label; 0 if the cells are something else.

    >>> multi_hot_length([[0, 1, 0], [1, 1, 0]]), multi_hot_length([[0], [0, 1]]), multi_hot_length([["a", "b"]])
    (3, 0, 0)
    """
    lists = [cell for cell in cells if isinstance(cell, list)]
    lengths = {len(cell) for cell in lists}
    flags = all(isinstance(item, (int, float)) and item in (0, 1) for cell in lists for item in cell)
    return lengths.pop() if len(lists) == len(cells) and len(lengths) == 1 and flags and lengths != {1} else 0


def label_list(table: Table, row: int, column: str, cell: object, separator: str | None) -> list[str]:
    """Return the labels in one cell; raises ScriptError where the list does not hold names."""
    if isinstance(cell, dict) or (isinstance(cell, list) and any(isinstance(item, (list, dict)) for item in cell)):
        reason = "a label of the list is not a name; spans [start, end, label] are trained with --problem entities"
        raise table.error(row, column, reason)
    return split_labels(cell, separator)


def split_labels(cell: object, separator: str | None) -> list[str]:
    """Return the labels in one cell, a JSON list or names with separators; an empty cell has none."""
    parts = cell if isinstance(cell, list) else [] if cell is None else str(cell).split(separator or ",")
    return [name for part in parts if (name := label_name(part))]


def flag(table: Table, row: int, record: Record, column: str) -> float:
    """Return the flag in one cell, 0 or 1."""
    value = {"true": 1.0, "false": 0.0}.get(cell := table.label(row, record, column).lower(), number(cell))
    if value not in (0.0, 1.0):
        raise table.error(row, column, "a column of one label must hold 0 or 1")
    return value


def number(cell: str) -> float | None:
    """Return the finite number in a cell, or None."""
    return float(cell) if is_float(cell) and math.isfinite(float(cell)) else None


def is_float(cell: str) -> bool:
    """Tell whether a cell holds a number, NaN and infinity included."""
    try:
        float(cell)
    except ValueError:
        return False
    return True
