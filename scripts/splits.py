"""The data of one training: what it learns from, what chooses its best epoch, what is only reported.

Finds the tables that the settings name, lets the problem turn them into examples, and holds out a part for validation
where none was given. Everything that can be refused about the data is refused here, before a model is loaded.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts import dataset, problems
from scripts.console import ScriptError
from scripts.dataset import Examples, Table
from scripts.problems import PROBLEMS, Problem
from scripts.training_settings import Settings


@dataclass(frozen=True)
class Splits:
    """The data of one training; `test` is only reported."""

    problem: Problem
    train: Examples
    validation: Examples
    test: Examples | None

    def describe(self) -> dict[str, Any]:
        """Return what the data was, without any of it."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            name: {
                "name": examples.name,
                "sha256": examples.sha256,
                "rows": len(examples),
                "labels": self.problem.counts(examples),
            }
            for name, examples in named.items()
            if examples is not None
        }


def read(settings: Settings) -> Splits:
    """Read and check all data."""
    tables = hub_tables(settings) if settings.dataset else file_tables(settings)
    for table in tables.values():
        table.require(settings.columns)
    kind = problems.guess(tables["train"], settings.columns) if settings.problem == "auto" else settings.problem
    problem = PROBLEMS[kind].learn(tables["train"], settings.columns)
    examples = {name: problem.examples(table) for name, table in tables.items()}
    if "validation" not in examples:
        train, held = split(examples["train"], settings.validation_split, settings.seed)
        examples |= {"train": train, "validation": held}
    return Splits(problem, examples["train"], examples["validation"], examples.get("test"))


def file_tables(settings: Settings) -> dict[str, Table]:
    """Return the tables of the files that were named."""
    files = {"train": settings.train, "validation": settings.validation, "test": settings.test}
    return {name: dataset.read(Path(file)) for name, file in files.items() if file is not None}


def hub_tables(settings: Settings) -> dict[str, Table]:
    """Return the splits of a hub dataset; a test split nobody asked for is left out if its labels were withheld."""
    found = dataset.read_hub(str(settings.dataset), settings.dataset_config)
    tables = {}
    for name, asked in {"train": settings.train, "validation": settings.validation, "test": settings.test}.items():
        if (split := asked or name) in found:
            tables[name] = found[split]
        elif asked or name == "train":
            raise ScriptError(f"dataset {settings.dataset}: no split {split}; it has {', '.join(found)}")
    if settings.test is None and "test" in tables and not tables["test"].labelled(settings.columns):
        del tables["test"]
    return tables


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
