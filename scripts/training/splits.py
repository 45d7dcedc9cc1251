"""The data of one training: what it learns from, what chooses its best epoch, what is only reported.

Finds the tables that the settings name, lets the problem turn them into examples, and holds out a part for validation
where none was given. Everything that can be refused about the data is refused here, before a model is loaded.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from scripts.cli.console import ScriptError
from scripts.readers import tables as table_reader
from scripts.readers.tables import Table
from scripts.training import tasks
from scripts.training.settings import Settings
from scripts.training.tasks import PROBLEMS
from scripts.training.tasks.base import Examples, Problem

E = TypeVar("E")


@dataclass(frozen=True)
class Splits:
    """The data of one training; `test` is only reported."""

    problem: Problem[Any]
    train: Examples[Any]
    validation: Examples[Any]
    test: Examples[Any] | None

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
    """Read and check all data; what kind of problem it is, and which columns it has, is then settled."""
    tables = hub_tables(settings) if settings.dataset else file_tables(settings)
    if not tables["train"].rows:
        raise ScriptError(f"{tables['train'].name}: no rows")
    if settings.problem == "auto":
        settings.problem = tasks.guess(tables["train"], settings.columns)
    kind = PROBLEMS[settings.problem]
    settings.settle_columns(kind, tables["train"].header)
    unasked = settings.test is None and "test" in tables
    if unasked and not tables["test"].labelled(settings.columns):  # a hub dataset may withhold them
        del tables["test"]
    for table in tables.values():
        table.require(settings.columns)
    problem = kind.learn(tables["train"], settings.columns)
    examples = {name: problem.examples(table) for name, table in tables.items()}
    if "validation" not in examples:
        train, held = split(problem, examples["train"], settings.validation_split, settings.seed)
        examples |= {"train": train, "validation": held}
    for part in examples.values():
        problem.check(part)
    return Splits(problem, examples["train"], examples["validation"], examples.get("test"))


def file_tables(settings: Settings) -> dict[str, Table]:
    """Return the tables of the files that were named."""
    files = {"train": settings.train, "validation": settings.validation, "test": settings.test}
    paths = {name: Path(file) for name, file in files.items() if file is not None}
    return {name: table_reader.read(path, tasks.readers(settings.problem, path)) for name, path in paths.items()}


def hub_tables(settings: Settings) -> dict[str, Table]:
    """Return the splits of a hub dataset."""
    found = table_reader.read_hub(str(settings.dataset), settings.dataset_config)
    tables = {}
    for name, asked in {"train": settings.train, "validation": settings.validation, "test": settings.test}.items():
        if (split := asked or name) in found:
            tables[name] = found[split]
        elif asked or name == "train":
            raise ScriptError(f"dataset {settings.dataset}: no split {split}; it has {', '.join(found)}")
    return tables


def split(problem: Problem[E], examples: Examples[E], fraction: float, seed: int) -> tuple[Examples[E], Examples[E]]:
    """Hold out a fraction of the examples, spread evenly over the labels (or over the range of a number).

    Examples that belong together (`Problem.group`) stay together. The groups are sorted by the stratum of their first
    example, in random order among equals, and every 1/fraction-th is held out. A class of one stays in training.
    """
    chance = random.Random(seed)  # noqa: S311 a shuffle, not a secret
    together: dict[Hashable, list[int]] = {}
    for index, example in enumerate(examples.rows):
        key = problem.group(example)
        together.setdefault(("alone", index) if key is None else key, []).append(index)
    groups = [(problem.stratum(examples.rows[group[0]]), group) for group in together.values()]
    chance.shuffle(groups)
    groups.sort(key=lambda group: group[0])
    found = Counter(stratum for stratum, _ in groups if isinstance(stratum, int))
    start = chance.random()
    held = {
        index
        for place, (stratum, group) in enumerate(groups)
        if int(start + (place + 1) * fraction) > int(start + place * fraction)
        and not (isinstance(stratum, int) and found[stratum] == 1)
        for index in group
    }
    if not 0 < len(held) < len(examples):
        n_groups = f"{len(groups)} {problem.noun if len(groups) == len(examples) else 'groups'}"
        raise ScriptError(f"{examples.name}: {n_groups} are too few to hold out {fraction:.0%} of them")
    kept = [index for index in range(len(examples)) if index not in held]
    return examples.take(kept), examples.take(sorted(held))
