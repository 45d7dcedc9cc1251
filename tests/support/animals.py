"""A data set of made-up sentences about animals, and a tiny model trained on it."""

from __future__ import annotations

import random
from pathlib import Path

from tests.support.training import Row, fit, tiny, write

ANIMALS = {"cat": "purrs meows", "dog": "barks digs", "bird": "sings flies"}
FILLER = ["the", "a", "my", "old", "small", "happy", "in", "garden", "today", "again"]
VOCABULARY = [*FILLER, *" ".join(ANIMALS.values()).split()]


def sentences(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """Return sentences of 3 to 9 words, each with the animal that its verb belongs to."""
    generator = random.Random(seed)  # noqa: S311 sentences, not secrets
    rows = []
    for index in range(n):
        animal = sorted(ANIMALS)[index % len(ANIMALS)]
        words = [generator.choice(FILLER) for _ in range(generator.randint(2, 8))]
        words.insert(generator.randint(0, len(words)), generator.choice(ANIMALS[animal].split()))
        rows.append((" ".join(words), animal))
    return rows


def labelled(n: int, seed: int = 0) -> list[Row]:
    """Return rows with one label each."""
    return [{"text": text, "label": label} for text, label in sentences(n, seed)]


def train_animals(folder: Path) -> None:
    """Write `model`, a tiny classifier of animals, and `train.csv`, the 120 sentences that it was trained on."""
    base = tiny(folder / "base", VOCABULARY)
    data = write(folder / "train.csv", labelled(120))
    fit(base, folder / "model", "--train", data, "--epochs", 8, "--metric", "loss")
