"""The data of one training: training, validation and test examples.

Reads the tables that the settings name, turns them into examples of the task, and holds out validation examples where
the settings name none. All checks of the data run here, before a model is loaded.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from scripts.cli.console import ScriptError, say
from scripts.readers import hub, tables
from scripts.readers.tables import Table
from scripts.training import tasks
from scripts.training.settings import TrainingSettings
from scripts.training.tasks import TRAINING_TASKS
from scripts.training.tasks.base import Examples, TrainingTask

E = TypeVar("E")

HOLD_OUT_HINT = "give --validation FILE, or another --validation-split"


@dataclass(frozen=True)
class Splits:
    """The task and the examples of one training; `test` is evaluated once, at the end."""

    task: TrainingTask[Any]
    train: Examples[Any]
    validation: Examples[Any]
    test: Examples[Any] | None

    def describe(self) -> dict[str, Any]:
        """Return names, hashes, sizes and label counts for training.json, without any text."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            name: {
                "name": examples.name,
                "sha256": examples.sha256,
                "rows": len(examples),
                "labels": self.task.label_counts(examples),
            }
            for name, examples in parts.items()
            if examples is not None
        }


def read(settings: TrainingSettings) -> Splits:
    """Read and check all data; sets `settings.problem` and the columns where no option names them."""
    split_tables = dataset_tables(settings) if settings.dataset else file_tables(settings)
    list_columns = {*tasks.LIST_COLUMNS, *settings.columns.labels}
    split_tables = {name: tables.parse_list_cells(table, list_columns) for name, table in split_tables.items()}
    for name, table in split_tables.items():
        if not table.rows:
            hint = "" if name == "train" or settings.dataset else f": leave --{name} out, or give a file with examples"
            raise ScriptError(f"{table.name}: no rows{hint}")
    if settings.problem == "auto":
        settings.problem = tasks.guess(split_tables["train"], settings.columns)
    task_class = TRAINING_TASKS[settings.problem]
    settings.choose_columns(task_class, split_tables["train"].header)
    optional_test = settings.test is None and "test" in split_tables
    if optional_test and settings.columns.labels and not split_tables["test"].has_labels(settings.columns):
        say(f"{split_tables.pop('test').name}: no row has a label, so nothing is reported for it")
    for table in split_tables.values():
        table.require(settings.columns)
    task = task_class.from_table(split_tables["train"], settings.columns)
    examples = {name: task.examples(table) for name, table in split_tables.items()}
    if "validation" not in examples:
        examples |= hold_out(task, examples["train"], settings)
    for part in examples.values():
        task.validate(part)
    return Splits(task, examples["train"], examples["validation"], examples.get("test"))


def file_tables(settings: TrainingSettings) -> dict[str, Table]:
    """Return the tables of the files that the settings name, by split."""
    files = {"train": settings.train, "validation": settings.validation, "test": settings.test}
    paths = {name: Path(file) for name, file in files.items() if file is not None}
    return {name: tables.read(path, tasks.readers(settings.problem, path)) for name, path in paths.items()}


def dataset_tables(settings: TrainingSettings) -> dict[str, Table]:
    """Return the tables of the dataset that the settings name, by split."""
    available = hub.read_dataset(
        str(settings.dataset), settings.dataset_config, lambda path: tasks.readers(settings.problem, path)
    )
    chosen = {}
    for name, option in {"train": settings.train, "validation": settings.validation, "test": settings.test}.items():
        if (split_name := option or name) in available:
            chosen[name] = available[split_name]
        elif option or name == "train":
            raise ScriptError(f"dataset {settings.dataset}: no split {split_name}; it has {', '.join(available)}")
    return chosen


def hold_out(task: TrainingTask[E], examples: Examples[E], settings: TrainingSettings) -> dict[str, Examples[E]]:
    """Return the examples of training and validation; raises ScriptError where either part is too small."""
    task.validate(examples)
    train, held_out = split(task, examples, settings.validation_split, settings.seed)
    for part, description in ((train, "left to train"), (held_out, "held out")):
        try:
            task.validate(part)
        except ScriptError as error:
            raise ScriptError(f"{error}, in the part that is {description}: {HOLD_OUT_HINT}") from None
    return {"train": train, "validation": held_out}


def split(task: TrainingTask[E], examples: Examples[E], fraction: float, seed: int) -> tuple[Examples[E], Examples[E]]:
    """Return training and held-out examples; the held-out ones are spread evenly over the strata.

    Examples of one group (`TrainingTask.group`) stay together. The groups are sorted by the stratum of their first
    example, in random order among equals, and every (1/fraction)-th is held out. A class of one stays in training.
    """
    generator = random.Random(seed)  # noqa: S311 a shuffle, not a secret
    members: dict[Hashable, list[int]] = {}
    for index, example in enumerate(examples.rows):
        key = task.group(example)
        members.setdefault(("ungrouped", index) if key is None else key, []).append(index)
    groups = [(task.stratum(examples.rows[indices[0]]), indices) for indices in members.values()]
    generator.shuffle(groups)
    groups.sort(key=lambda group: group[0])
    class_sizes = Counter(stratum for stratum, _ in groups if isinstance(stratum, int))
    start = generator.random()
    held_out = {
        index
        for position, (stratum, indices) in enumerate(groups)
        if int(start + (position + 1) * fraction) > int(start + position * fraction)
        and not (isinstance(stratum, int) and class_sizes[stratum] == 1)
        for index in indices
    }
    if not 0 < len(held_out) < len(examples):
        if class_sizes and max(class_sizes.values()) == 1:
            hint = "; numbers are learnt by --problem regression" if task.problem_type else ""
            raise ScriptError(f"{examples.name}: no label has two examples to hold one out: {HOLD_OUT_HINT}{hint}")
        number = f"too few {task.group_name or task.unit_name} ({len(groups)})"
        raise ScriptError(f"{examples.name}: {number} to hold out {fraction:.0%} of them: {HOLD_OUT_HINT}")
    kept = [index for index in range(len(examples)) if index not in held_out]
    return examples.take(kept), examples.take(sorted(held_out))
