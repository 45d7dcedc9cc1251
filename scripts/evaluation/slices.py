"""Slices: groups of examples by a column, the label, the length, the script, unknown tokens; where a model is weak.

A slice is weak where its mean score is lower than that of the other examples, by a one-sided test, after the correction
for many comparisons (Benjamini, Hochberg 1995) over all slices.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from handler.protocol import JSON
from scripts.evaluation.statistics import Interval, adjusted, mean_interval, p_lower
from scripts.readers.tables import label_name

MIN_SUPPORT = 10  # examples of a slice
MAX_VALUES = 30  # of a column of names; numbers with more are grouped by quartiles
FALSE_DISCOVERIES = 0.05
UNKNOWN_SHARES = ((0.0, "none"), (0.1, "up to 10 %"), (1.0, "above 10 %"))
COMBINED = 6  # features whose pairs are looked at, those with the most slices excepted

Features = Mapping[str, Sequence[str]]  # name -> the value of each example; "" where there is none


@dataclass(frozen=True)
class Slice:
    """The examples with one value of a feature."""

    feature: str
    value: str
    support: int
    score: Interval
    rest: float  # the mean score of the other examples
    p_value: float
    q_value: float  # after the correction

    @property
    def is_weak(self) -> bool:
        """Whether its score is lower than that of the rest, beyond chance."""
        return self.q_value < FALSE_DISCOVERIES

    def to_json(self) -> dict[str, JSON]:
        """Return it as JSON."""
        return {
            "feature": self.feature,
            "value": self.value,
            "support": self.support,
            "score": self.score.to_json(),
            "rest": self.rest,
            "p_value": self.p_value,
            "q_value": self.q_value,
            "weak": self.is_weak,
        }


def slices(features: Features, scores: NDArray[np.float64]) -> list[Slice]:
    """Return every slice of enough examples: weak ones first, each group by its score."""
    members = memberships(features)
    found = []
    for (feature, value), inside in members.items():
        others = scores[~inside]
        if len(others):
            p_value = p_lower(scores[inside], others)
            found.append((feature, value, inside, float(others.mean()), p_value))
    q_values = adjusted([item[4] for item in found])
    rows = [
        Slice(feature, value, int(inside.sum()), mean_interval(scores[inside]), rest, p_value, q_value)
        for (feature, value, inside, rest, p_value), q_value in zip(found, q_values, strict=True)
    ]
    return sorted(rows, key=lambda row: (not row.is_weak, row.score.value))


def memberships(features: Features) -> dict[tuple[str, str], NDArray[np.bool_]]:
    """Return the examples of each slice of enough examples; pairs of features are slices too."""
    members: dict[tuple[str, str], NDArray[np.bool_]] = {}
    for feature, values in features.items():
        array = np.array(values, dtype=object)
        for value, count in Counter(values).items():
            if value and count >= MIN_SUPPORT:
                members[feature, value] = array == value
    combined = sorted((name for name in features if name != "label"), key=lambda name: len(set(features[name])))[
        :COMBINED
    ]
    alone = dict(members)
    for first, second in combinations(combined, 2):
        for (feature, value), inside in alone.items():
            for (other, other_value), also in alone.items():
                if (feature, other) != (first, second):
                    continue
                both = inside & also
                if MIN_SUPPORT <= both.sum() < min(inside.sum(), also.sum()):
                    members[f"{first} and {second}", f"{value} and {other_value}"] = both
    return members


def column_features(records: Sequence[Mapping[str, object]], used: frozenset[str]) -> dict[str, list[str]]:
    """Return the columns of the data that can be sliced by: names of few values, and numbers by quartiles."""
    columns = dict.fromkeys(column for record in records for column in record if column not in used)
    features: dict[str, list[str]] = {}
    for column in columns:
        cells = [record.get(column) for record in records]
        if any(isinstance(cell, (list, dict)) for cell in cells):
            continue
        names = [label_name(cell) for cell in cells]
        n_values = len(set(names) - {""})
        if 2 <= n_values <= MAX_VALUES:
            features[column] = names
        elif n_values > MAX_VALUES and (numbers := finite(names)) is not None:
            features[column] = quartiles(numbers)
    return features


def finite(names: Sequence[str]) -> NDArray[np.float64] | None:
    """Return the numbers of cells; None where a cell is no finite number."""
    try:
        numbers = np.array([float(name) for name in names])
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def quartiles(numbers: NDArray[np.float64]) -> list[str]:
    """Return the quartile of each number, as its bounds; equal numbers share one.

    >>> quartiles(np.array([1.0, 2.0, 3.0, 4.0]))
    ['1 to 1', '2 to 2', '3 to 3', '4 to 4']
    """
    edges = np.quantile(numbers, [0.25, 0.5, 0.75])
    groups = np.searchsorted(edges, numbers)
    names = {
        group: f"{numbers[groups == group].min():g} to {numbers[groups == group].max():g}"
        for group in set(groups.tolist())
    }
    return [names[group] for group in groups.tolist()]


def text_features(texts: Sequence[str], tokens: Sequence[Mapping[str, int] | None]) -> dict[str, list[str]]:
    """Return what can be sliced by of the texts: length, script, share of unknown tokens."""
    features = {"script": [script(text) for text in texts]}
    counts = [token for token in tokens if token is not None]
    if len(counts) == len(texts):
        features["length in tokens"] = quartiles(np.array([token["n_tokens"] for token in counts], float))
        shares = [token["n_unknown"] / max(token["n_tokens"], 1) for token in counts]
        features["unknown tokens"] = [
            next(name for limit, name in UNKNOWN_SHARES if share <= limit) for share in shares
        ]
    else:
        features["length in characters"] = quartiles(np.array([len(text) for text in texts], float))
    return {name: values for name, values in features.items() if len(set(values)) > 1}


def script(text: str) -> str:
    """Return the script of most letters of a text, by the first word of their names in Unicode.

    >>> script("Hello"), script("屏幕坏了"), script("12")
    ('Latin', 'Cjk', 'no letters')
    """
    names = Counter(unicodedata.name(character, "?").split()[0] for character in text if character.isalpha())
    return names.most_common(1)[0][0].title() if names else "no letters"
