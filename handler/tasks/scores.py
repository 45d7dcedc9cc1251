"""Scores of logits, rankings in answers, and the comparison of two answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from handler.protocol import JSON


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return exp(x - max) / sum over the last axis: probabilities with the sum 1.

    >>> softmax(np.array([0.0, 0.0], dtype=np.float32))
    array([0.5, 0.5], dtype=float32)
    """
    exponentials: NDArray[np.float32] = np.exp(logits - logits.max(-1, keepdims=True))
    scores: NDArray[np.float32] = exponentials / exponentials.sum(-1, keepdims=True)
    return scores


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 / (1 + exp(-x)): independent probabilities."""
    scores: NDArray[np.float32] = np.float32(1) / (np.float32(1) + np.exp(-logits))
    return scores


def ranking_of(answer: JSON) -> list[JSON]:
    """Return the ranking of an answer, which may be an object that holds it."""
    ranking: list[JSON] = answer["ranking"] if isinstance(answer, dict) else answer
    return ranking


def rankings_match(expected: JSON, answer: JSON, tolerance: float, key: str = "label") -> bool:
    """Return whether two rankings have the same scores by `key`; items of nearly one score may change places."""
    scores = [{item[key]: item["score"] for item in ranking} for ranking in (expected, answer)]
    return values_allclose(scores[0], scores[1], tolerance)


def values_allclose(expected: JSON, answer: JSON, tolerance: float) -> bool:
    """Return whether two JSON values are equal up to `tolerance`, absolute up to 1 and relative above, on every number.

    >>> values_allclose({"score": [0.5]}, {"score": [0.51]}, 0.02), values_allclose([1.0], [1.0, 2.0], 0.1)
    (True, False)
    """
    if isinstance(expected, dict) and isinstance(answer, dict):
        same_keys = expected.keys() == answer.keys()
        return same_keys and all(values_allclose(expected[key], answer[key], tolerance) for key in expected)
    if isinstance(expected, list) and isinstance(answer, list):
        return len(expected) == len(answer) and all(
            values_allclose(*pair, tolerance) for pair in zip(expected, answer, strict=True)
        )
    if isinstance(expected, float) and isinstance(answer, float):
        return abs(expected - answer) <= tolerance * max(1.0, abs(expected))
    return bool(expected == answer)
