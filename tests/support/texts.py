"""Short texts by the hundred, from words of the pretrained vocabulary."""

from __future__ import annotations

import random

WORDS = ["the", "parcel", "never", "came", "and", "i", "want", "my", "money", "back", "please", "tell", "me", "where"]
WORDS += [
    "it",
    "is",
    "now",
    "nobody",
    "answers",
    "letters",
    "after",
    "two",
    "weeks",
    "of",
    "waiting",
    "for",
    "a",
    "screen",
]
WORDS += ["that", "works", "in", "paris", "or", "london", "with", "anna", "peter", "from", "berlin"]


def short_texts(n: int, seed: int = 0, longest: int = 12) -> list[str]:
    """Return n different texts of 3 to `longest` words."""
    generator = random.Random(seed)  # noqa: S311
    texts: dict[str, None] = {}
    while len(texts) < n:
        texts[" ".join(generator.choices(WORDS, k=generator.randint(3, longest)))] = None
    return [*texts]
