"""Texts of realistic lengths: uniform random lengths would favour padding."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.cli.console import ROOT, ScriptError
from scripts.readers.formats import read_csv, records

Count = Callable[[Sequence[str]], list[int]]  # tokens of each text, special tokens included

SOURCES = tuple(ROOT / "examples" / "intents" / name for name in ("train.csv", "validation.csv", "test.csv"))
MIXES = ("short", "long", "mixed")  # that are measured by default; "one" and "few" are short ones, too
LONG = 160  # mean tokens of a long text
FEW_TEXTS, SHORT_TEXTS, LONG_TEXTS = 3, 32, 8  # of one measurement


@dataclass(frozen=True)
class Mix:
    """Texts of one distribution of lengths, all different, because equal texts are computed once."""

    name: str
    texts: tuple[str, ...]
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Sum of the lengths."""
        return sum(self.lengths)


def read_texts(*paths: Path, column: str = "text") -> list[str]:
    """Return the different texts of CSV files, in order."""
    texts: dict[str, None] = {}
    for path in paths:
        for _, record in records(path, read_csv):
            if column not in record:
                raise ScriptError(f"{path} has no column {column}")
            texts[str(record[column]).strip()] = None
    return [text for text in texts if text]


def mixes(source: Path | None, count: Count, names: Sequence[str] = MIXES) -> list[Mix]:
    """Return the distributions with these names, from the examples, or the one of a file."""
    if source is not None:
        texts = read_texts(source)
        if len(texts) < SHORT_TEXTS:
            raise ScriptError(f"{source} has {len(texts)} different texts; at least {SHORT_TEXTS} are needed")
        return [_mix(source.stem, random.Random(0).sample(texts, SHORT_TEXTS), count)]  # noqa: S311 - reproducible
    texts = read_texts(*SOURCES)
    kinds = {
        "one": lambda: short_texts(texts, 1),
        "few": lambda: short_texts(texts, FEW_TEXTS),
        "short": lambda: short_texts(texts, SHORT_TEXTS),
        "long": lambda: long_texts(texts, LONG_TEXTS, count),
        "mixed": lambda: short_texts(texts, 24) + long_texts(texts, 4, count),
    }
    for name in names:
        if name not in kinds:
            raise ScriptError(f"{name} is no distribution of lengths; there are {', '.join(kinds)}")
    return [_mix(name, kinds[name](), count) for name in names]


def short_texts(texts: Sequence[str], n_texts: int, seed: int = 0) -> list[str]:
    """Draw different texts; where there are too few, pairs of them are joined."""
    generator = random.Random(seed)  # noqa: S311 - reproducible
    drawn = dict.fromkeys(generator.sample(list(texts), min(n_texts, len(texts))))
    while len(drawn) < n_texts:
        drawn[" ".join(generator.sample(list(texts), 2))] = None
    return list(drawn)


def long_texts(texts: Sequence[str], n_texts: int, count: Count, seed: int = 0, mean: int = LONG) -> list[str]:
    """Join texts to log-normally distributed lengths, as documents have."""
    generator = random.Random(seed)  # noqa: S311 - reproducible
    sigma = 0.5
    joined = []
    normal = statistics.NormalDist(math.log(mean) - sigma**2 / 2, sigma)
    for index in range(n_texts):
        target = math.exp(normal.inv_cdf((index + 0.5) / n_texts))
        parts = generator.sample(list(texts), min(len(texts), 80))
        lengths = count(parts)
        total, taken = 2, 0
        while taken < len(parts) and total + lengths[taken] / 2 < min(target, 500):
            total += lengths[taken] - 2
            taken += 1
        joined.append(" ".join(parts[: max(1, taken)]))
    generator.shuffle(joined)
    return joined


def _mix(name: str, texts: Sequence[str], count: Count) -> Mix:
    return Mix(name, tuple(texts), tuple(count(texts)))
