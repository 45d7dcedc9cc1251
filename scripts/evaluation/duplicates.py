"""Texts that occur twice: within the data, and in the data and what the model was trained on (leakage)."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from handler.protocol import JSON

NEAR = 0.9  # cosine of the character n-grams of two texts that are nearly equal
CHUNK = 512  # texts compared at once
MAX_ROWS = 100  # named in the report


def normalised_text(text: str) -> str:
    """Return a text without case, punctuation marks and repeated blanks.

    >>> normalised_text("Where is  my parcel?!") == normalised_text("where is my parcel")
    True
    """
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def duplicates(rows: Sequence[int], texts: Sequence[str], targets: Sequence[str]) -> dict[str, JSON]:
    """Return how many texts repeat another one, and the groups of rows whose targets differ."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, text in enumerate(texts):
        groups[normalised_text(text)].append(index)
    repeated = [group for group in groups.values() if len(group) > 1]
    conflicting = [group for group in repeated if len({targets[index] for index in group}) > 1]
    return {
        "repeated": sum(len(group) - 1 for group in repeated),
        "conflicting": [[rows[index] for index in group] for group in conflicting[:MAX_ROWS]],
        "conflicting_groups": len(conflicting),
    }


def leakage(rows: Sequence[int], texts: Sequence[str], training_texts: Sequence[str]) -> dict[str, JSON]:
    """Return how many texts are in the training data: equal but for case and marks, or nearly equal."""
    known = set(map(normalised_text, training_texts))
    is_equal = np.array([normalised_text(text) in known for text in texts], dtype=bool)
    is_near = nearly_equal(texts, training_texts) & ~is_equal
    return {
        "texts": len(texts),
        "training_texts": len(training_texts),
        "equal": int(is_equal.sum()),
        "equal_rows": [rows[index] for index in np.flatnonzero(is_equal)[:MAX_ROWS]],
        "near": int(is_near.sum()),
        "near_rows": [rows[index] for index in np.flatnonzero(is_near)[:MAX_ROWS]],
        "leaked": (is_equal | is_near).tolist(),
    }


def nearly_equal(texts: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """Return whether each text has a cosine of `NEAR` with one of the others, by TF-IDF of their character n-grams."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), dtype=np.float32)
    try:
        matrix = vectorizer.fit_transform(map(normalised_text, others)).T.tocsr()
    except ValueError:  # no text has a word
        return np.zeros(len(texts), dtype=bool)
    vectors = vectorizer.transform(map(normalised_text, texts))
    near = [
        (vectors[start : start + CHUNK] @ matrix).max(axis=1).toarray().ravel() >= NEAR
        for start in range(0, len(texts), CHUNK)
    ]
    return np.concatenate(near) if near else np.zeros(0, dtype=bool)
