"""Intervals and tests: how far a number may be chance. Distributions come from scipy.

Sources: Wilson 1927 for shares; Efron 1979, the percentile bootstrap, for everything else; McNemar 1947 for two
models on the same examples, exact (binomial) for fewer than 25 disagreements and with Edwards's correction above;
Benjamini, Hochberg 1995 for many comparisons; Fisher's exact test and Mann, Whitney 1947 for a slice against the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats  # type: ignore[import-untyped]

CONFIDENCE = 0.95
N_RESAMPLES = 1000
EXACT_BELOW = 25  # disagreements of two models

Columns = Mapping[str, NDArray[np.float64]]  # numbers by example: (examples,) or (examples, more)
Measure = Callable[[Columns], dict[str, float]]


@dataclass(frozen=True)
class Interval:
    """A number and its 95 % interval."""

    value: float
    lower: float
    upper: float

    def to_json(self) -> dict[str, float]:
        """Return it as JSON."""
        return {"value": self.value, "lower": self.lower, "upper": self.upper}


def wilson(successes: int, n: int) -> Interval:
    """Return a share and its Wilson interval; without examples nothing is known, 0 to 1.

    >>> [round(number, 3) for number in wilson(8, 10).to_json().values()]
    [0.8, 0.49, 0.943]
    """
    if not n:
        return Interval(float("nan"), 0.0, 1.0)
    bounds = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(successes / n, float(bounds.low), float(bounds.high))


def bootstrap(
    columns: Columns, measure: Measure, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> dict[str, Interval]:
    """Return every number of `measure` with its percentile interval over resampled examples.

    A resample for which a number is not defined (a correlation of a constant) does not count for it.
    """
    exact = measure(columns)
    n = len(next(iter(columns.values())))
    generator = np.random.default_rng(seed)
    resampled: dict[str, list[float]] = {name: [] for name in exact}
    for _ in range(n_resamples):
        indices = generator.integers(n, size=n)
        for name, value in measure({key: values[indices] for key, values in columns.items()}).items():
            resampled[name].append(value)
    tail = (1 - CONFIDENCE) / 2
    intervals = {}
    for name, value in exact.items():
        defined = np.array(resampled[name])[np.isfinite(resampled[name])]
        lower, upper = np.quantile(defined, [tail, 1 - tail]) if len(defined) else (value, value)
        intervals[name] = Interval(value, float(lower), float(upper))
    return intervals


def mean_interval(scores: ArrayLike, seed: int = 0) -> Interval:
    """Return the mean of scores: Wilson's interval where each is 0 or 1, else the bootstrap's."""
    values = np.asarray(scores, dtype=float)
    if is_binary(values):
        return wilson(int(values.sum()), len(values))
    return bootstrap({"score": values}, lambda columns: {"mean": float(columns["score"].mean())}, seed=seed)["mean"]


def is_binary(values: NDArray[np.float64]) -> bool:
    """Return whether every number is 0 or 1."""
    return bool(np.isin(values, (0, 1)).all())


@dataclass(frozen=True)
class McNemar:
    """Two models on the same examples: how many only the first, and only the second, answers correctly."""

    only_first: int
    only_second: int
    p_value: float  # two-sided
    exact: bool

    def to_json(self) -> dict[str, float | bool]:
        """Return it as JSON."""
        return {
            "only_first": self.only_first,
            "only_second": self.only_second,
            "p_value": self.p_value,
            "exact": self.exact,
        }


def mcnemar(first: Sequence[bool] | NDArray[np.bool_], second: Sequence[bool] | NDArray[np.bool_]) -> McNemar:
    """Test whether two models are right equally often, from what each got right.

    >>> round(mcnemar([True] * 8 + [False] * 2, [False] * 8 + [True] * 2).p_value, 4)
    0.1094
    """
    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    n = only_first + only_second
    if n < EXACT_BELOW:
        p_value = stats.binomtest(only_first, n).pvalue if n else 1.0
        return McNemar(only_first, only_second, float(p_value), exact=True)
    statistic = max(abs(only_first - only_second) - 1, 0) ** 2 / n
    return McNemar(only_first, only_second, float(stats.chi2.sf(statistic, 1)), exact=False)


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, so that those below q are a share of at most q false ones."""
    return [float(p) for p in stats.false_discovery_control(p_values, method="bh")] if p_values else []


def p_lower(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    """Return the p-value of "scores inside a slice are not lower than outside", one-sided."""
    if not len(inside) or not len(outside):
        return 1.0
    if is_binary(inside) and is_binary(outside):
        hits = [[inside.sum(), outside.sum()], [len(inside) - inside.sum(), len(outside) - outside.sum()]]
        return float(stats.fisher_exact(np.array(hits, dtype=int), alternative="less").pvalue)
    if np.ptp(np.concatenate([inside, outside])) == 0:
        return 1.0
    return float(stats.mannwhitneyu(inside, outside, alternative="less").pvalue)


def auroc(scores: ArrayLike, positive: ArrayLike) -> Interval | None:
    """Return the area under the ROC curve of scores that shall be high for positives; None without both kinds.

    The interval is that of Hanley, McNeil 1982; equal scores count half.
    """
    values, flags = np.asarray(scores, dtype=float), np.asarray(positive, dtype=bool)
    n, m = int(flags.sum()), int((~flags).sum())
    if not n or not m:
        return None
    ranks = stats.rankdata(values)
    area = float((ranks[flags].sum() - n * (n + 1) / 2) / (n * m))
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (n - 1) * (q1 - area**2) + (m - 1) * (q2 - area**2)) / (n * m)
    half = float(stats.norm.ppf(0.5 + CONFIDENCE / 2)) * float(np.sqrt(max(variance, 0)))
    return Interval(area, max(0.0, area - half), min(1.0, area + half))
