"""Labelled data: the rows that training learns from, and what their labels mean.

Reads CSV, TSV, JSONL and hub datasets, turns rows into examples for one kind of problem, and refuses the first bad
row by file, row and column, never by its text. Rows are counted as a spreadsheet shows them: the header of a CSV or
TSV is row 1, the first line of a JSONL is row 1, the first row of a hub dataset is row 0 (as its viewer counts).

Every kind of problem is one class that knows its labels, its targets and its metrics; the registry is at the bottom.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from scripts.console import ScriptError, say

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

Target: TypeAlias = "int | float | list[float]"
Record: TypeAlias = Mapping[str, object]


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; `separator` splits one label column into several labels."""

    text: str
    pair: str | None
    labels: tuple[str, ...]
    separator: str | None = None


@dataclass(frozen=True)
class Table:
    """The records of one file, or of one split of a hub dataset, each with its row number."""

    name: str
    sha256: str
    header: tuple[str, ...]
    rows: tuple[tuple[int, Record], ...]

    def error(self, row: int, column: str, what: str) -> ScriptError:
        """Return an error that names the place, not what stands there."""
        return ScriptError(f"{self.name} row {row}, column {column}: {what}")

    def require(self, columns: Columns) -> None:
        """Refuse a table that has no rows, or lacks a column."""
        if not self.rows:
            raise ScriptError(f"{self.name}: no rows")
        for column in (columns.text, columns.pair, *columns.labels):
            if column is not None and column not in self.header:
                raise ScriptError(f"{self.name}: no column {column}; its columns are {', '.join(self.header)}")

    def labelled(self, columns: Columns) -> bool:
        """Tell whether every row has a label; published test splits often withhold theirs."""
        return all(record.get(column) is not None for _, record in self.rows for column in columns.labels)

    def text(self, row: int, record: Record, column: str) -> str:
        """Return the text of one cell; it must be there."""
        cell = record.get(column)
        if not isinstance(cell, str):
            raise self.error(row, column, "the text is missing" if cell is None else "the text is not a string")
        if not cell.strip():
            raise self.error(row, column, "the text is empty")
        try:
            cell.encode()
        except UnicodeEncodeError:
            raise self.error(row, column, "the text holds half a surrogate pair") from None
        return cell

    def label(self, row: int, record: Record, column: str) -> str:
        """Return the label of one cell as a name; it must be there."""
        cell = record.get(column)
        if cell is None or not str(cell).strip():
            raise self.error(row, column, "the label is missing")
        return str(cell).strip()


# --- reading -------------------------------------------------------------------------------------------------------


def read(path: Path) -> Table:
    """Read a CSV, TSV or JSONL file, chosen by the end of its name."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ScriptError(f"{path}: the name must end in one of {', '.join(READERS)}")
    content = path.read_bytes()
    try:
        rows = list(reader(path.name, content.decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        raise ScriptError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    header = tuple(dict.fromkeys(column for _, record in rows for column in record))
    return Table(path.name, hashlib.sha256(content).hexdigest(), header, tuple(rows))


def read_csv(name: str, content: str) -> Iterator[tuple[int, Record]]:
    """Yield the records of a comma-separated table; quoted cells may hold commas and line breaks."""
    cells = csv.reader(io.StringIO(content, newline=""), strict=True)
    header: list[str] | None = None
    row = 0
    try:
        for row, values in enumerate(cells, start=1):
            if header is None:
                header = headed(name, values)
            elif values:
                yield row, named(name, row, header, values)
    except csv.Error as error:
        raise ScriptError(f"{name} row {row + 1}: {error}") from None


def read_tsv(name: str, content: str) -> Iterator[tuple[int, Record]]:
    """Yield the records of a tab-separated table, one a line.

    A quote is an ordinary character unless it wraps the whole cell: many published TSV files hold single quotes,
    which the rules of CSV would take for the start of a cell that swallows the following lines.
    """
    lines = [line.removesuffix("\r") for line in content.split("\n")]
    header = headed(name, [unquoted(cell) for cell in lines[0].split("\t")])
    for row, line in enumerate(lines[1:], start=2):
        if line:
            yield row, named(name, row, header, [unquoted(cell) for cell in line.split("\t")])


def read_jsonl(name: str, content: str) -> Iterator[tuple[int, Record]]:
    """Yield the objects of a file with one JSON object a line."""
    for row, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise ScriptError(f"{name} row {row}: not a JSON object on one line")
        yield row, record


READERS: dict[str, Callable[[str, str], Iterator[tuple[int, Record]]]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_jsonl,
}


def headed(name: str, header: list[str]) -> list[str]:
    """Return a header in which every column has a name of its own."""
    if twice := [column for column, n in Counter(header).items() if n > 1]:
        raise ScriptError(f"{name}: column {twice[0]} appears twice in the header")
    return header


def named(name: str, row: int, header: Sequence[str], values: Sequence[str]) -> Record:
    """Return the cells of one row by column."""
    if len(values) != len(header):
        raise ScriptError(f"{name} row {row}: {len(values)} cells, but the header has {len(header)}")
    return dict(zip(header, values, strict=True))


def unquoted(cell: str) -> str:
    """Return a cell without the quotes around it.

    >>> unquoted('"a ""good"" one"'), unquoted('"Yes" and "no"')
    ('a "good" one', '"Yes" and "no"')
    """
    inner = cell[1:-1]
    wrapped = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if wrapped else cell


def read_hub(name: str, config: str | None) -> dict[str, Table]:
    """Read every split of a dataset from the Hugging Face hub, or from a local folder in a form it understands."""
    import datasets
    import huggingface_hub

    huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    say(f"reading {name}")
    try:
        splits = datasets.load_dataset(name, config)
    except (OSError, ValueError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ScriptError(f"dataset {name}: not a local folder, and the hub did not provide it: {why}") from None
    return {split: hub_table(f"{portable(name)}[{split}]", rows) for split, rows in splits.items()}


def portable(name: str) -> str:
    """Return a hub id or a folder's name, without where this machine keeps the folder.

    >>> portable("/home/me/models/base"), portable("bert-base-uncased")
    ('base', 'bert-base-uncased')
    """
    return Path(name).name if Path(name).is_absolute() else name


def hub_table(name: str, split: Any) -> Table:
    """Return one split with its class numbers replaced by their names."""
    decoders = {column: class_names(feature) for column, feature in split.features.items()}
    rows = tuple((i, {c: decoders[c](cell) for c, cell in record.items()}) for i, record in enumerate(split))
    digest = hashlib.sha256()
    for _, record in rows:
        digest.update(json.dumps(record, sort_keys=True, default=str).encode())
    return Table(name, digest.hexdigest(), tuple(split.column_names), rows)


def class_names(feature: Any) -> Callable[[Any], object]:
    """Return what turns a cell of this feature into names; a negative class means that the label was withheld."""
    if hasattr(feature, "int2str"):
        return lambda cell: None if cell is None or cell < 0 else feature.int2str(cell)
    inner: Any = getattr(feature, "feature", None)
    if hasattr(inner, "int2str"):
        return lambda cells: [inner.int2str(cell) for cell in cells]
    return lambda cell: cell


# --- examples ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Examples:
    """Texts and what is to be learnt about each, in the order of their table."""

    name: str
    sha256: str
    texts: list[str]
    pairs: list[str] | None
    targets: list[Target]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int]) -> Examples:
        """Return the chosen examples."""
        pairs = None if self.pairs is None else [self.pairs[i] for i in indices]
        targets = [self.targets[i] for i in indices]
        return Examples(self.name, self.sha256, [self.texts[i] for i in indices], pairs, targets)


def split(examples: Examples, fraction: float, seed: int) -> tuple[Examples, Examples]:
    """Hold out a fraction of the examples, spread evenly over the labels (or over the range of a number).

    The examples are sorted by target, in random order among equals, and every 1/fraction-th is held out. A class
    of one example stays in training.
    """
    chance = random.Random(seed)  # noqa: S311 a shuffle, not a secret
    order = list(range(len(examples)))
    chance.shuffle(order)
    order.sort(key=lambda index: examples.targets[index])
    found = Counter(target for target in examples.targets if isinstance(target, int))
    start = chance.random()
    held = {
        index
        for place, index in enumerate(order)
        if int(start + (place + 1) * fraction) > int(start + place * fraction)
        and (isinstance(target := examples.targets[index], float | list) or found[target] > 1)
    }
    if not 0 < len(held) < len(examples):
        raise ScriptError(f"{examples.name}: {len(examples)} rows are too few to hold out {fraction:.0%} of them")
    kept = [index for index in range(len(examples)) if index not in held]
    return examples.take(kept), examples.take(sorted(held))


# --- problems ------------------------------------------------------------------------------------------------------


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
