"""Rankings in answers, and the comparison of two answers."""

from __future__ import annotations

from handler.protocol import JSON


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
