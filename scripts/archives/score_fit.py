"""Fit what makes scores probabilities: temperatures, Platt's lines, nonconformity. Pure numbers, no model.

Everything that is reported of a fit is measured on examples that it has not seen: scores by functions that were fitted
on the other folds, label sets by all other examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from handler.confidence import MIN_EXCLUSIVE_SCORE, LabelSets, Platt, ScoreFunction, Temperature, logit

Numbers: TypeAlias = NDArray[np.float64]
Fit: TypeAlias = Callable[[Numbers, Numbers], ScoreFunction]

N_FOLDS = 5
BOUNDS = 0.02, 50.0  # of a temperature
MIN_SUPPORT = 10  # examples with and without a label, below which it shares one line with all labels
MIN_SLOPE = 1e-6
IDENTITY = Platt((1.0,), (0.0,))


def fit_temperature(scores: Numbers, targets: Numbers) -> Temperature:
    """Return the temperature with the least negative log-likelihood; 1 where every prediction is right.

    The loss is convex in 1 / T: its derivative, mean(E[log score] - log score of the target), grows, and is halved in
    to 0. If every prediction is right it is negative everywhere, and no temperature is the best.

    Args:
        scores: (examples, labels), which exclude one another.
        targets: (examples,), indices of labels.
    """
    logits = np.log(np.maximum(scores, MIN_EXCLUSIVE_SCORE))
    rows, right = np.arange(len(targets)), targets.astype(np.intp)
    if (logits.argmax(-1) == right).all():
        return Temperature(1.0)

    def derivative(inverse: float) -> float:
        weights = Temperature(1 / inverse)(scores)
        return float(((weights * logits).sum(-1) - logits[rows, right]).mean())

    low, high = (math.log(1 / bound) for bound in reversed(BOUNDS))
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if derivative(math.exp(middle)) < 0 else (low, middle)
    return Temperature(float(f"{math.exp(-low):.6g}"))


def fit_platt(scores: Numbers, targets: Numbers) -> Platt:
    """Return slope and intercept with the least cross-entropy; the identity where all targets are equal.

    Targets are smoothed as Platt does, (N+ + 1) / (N+ + 2) for 1 and 1 / (N- + 2) for 0; a target may lie between. The
    minimum is found by Newton's method with backtracking (Lin, Lin, Weng 2007, "A Note on Platt's Probabilistic
    Outputs").

    Args:
        scores: (decisions,), from 0 to 1.
        targets: (decisions,), from 0 to 1: whether the decision is right.

    Returns:
        The line; that of the mean with the smallest slope where higher scores are not better.
    """
    if not len(targets) or (targets == targets[0]).all():
        return IDENTITY
    x, n_positive = logit(scores), float(targets.sum())
    high, low = (n_positive + 1) / (n_positive + 2), 1 / (len(targets) - n_positive + 2)
    smoothed = low + (high - low) * targets

    def loss(line: Numbers) -> float:
        z = line[0] * x + line[1]
        return float((np.logaddexp(0, z) - smoothed * z).sum())

    line = np.array([0.0, math.log((n_positive + 1) / (len(targets) - n_positive + 1))])
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(line[0] * x + line[1], -500, 500)))
        gradient = np.array([((p - smoothed) * x).sum(), (p - smoothed).sum()])
        if np.abs(gradient).max() < 1e-9 * len(x):
            break
        weight = p * (1 - p)
        hessian = np.array([[(weight * x * x).sum(), (weight * x).sum()], [(weight * x).sum(), weight.sum()]])
        direction = np.linalg.solve(hessian + 1e-12 * np.eye(2), gradient)
        step, before = 1.0, loss(line)
        while step > 1e-10 and loss(line - step * direction) > before - 1e-4 * step * float(gradient @ direction):
            step /= 2
        line = line - step * direction
    if line[0] < MIN_SLOPE:
        line = np.array([MIN_SLOPE, math.log(smoothed.mean() / (1 - smoothed.mean()))])
    return Platt((float(f"{line[0]:.6g}"),), (float(f"{line[1]:.6g}"),))


def fit_line(values: Numbers, targets: Numbers) -> tuple[float, float]:
    """Return slope and intercept of Platt's line over numbers of any scale.

    Args:
        values: (decisions,), higher where the decision is right more often.
        targets: (decisions,), from 0 to 1: whether the decision is right.
    """
    mean, scale = float(values.mean()), float(values.std()) or 1.0
    line = fit_platt(1 / (1 + np.exp(-(values - mean) / scale)), targets)
    slope = line.slopes[0] / scale
    return float(f"{slope:.6g}"), float(f"{line.intercepts[0] - slope * mean:.6g}")


def is_informative(function: ScoreFunction) -> bool:
    """Return whether higher scores are better ones."""
    return not isinstance(function, Platt) or min(function.slopes) > MIN_SLOPE


def fit_labels(scores: Numbers, targets: Numbers) -> Platt:
    """Return a line for each label with enough examples, and one line of all decisions for the others.

    Args:
        scores: (examples, labels), each by itself.
        targets: (examples, labels), from 0 to 1.
    """
    shared = fit_platt(scores.ravel(), targets.ravel())
    slopes: list[float] = []
    intercepts: list[float] = []
    for column in range(scores.shape[1]):
        line, n_positive = shared, float(targets[:, column].sum())
        if MIN_SUPPORT <= n_positive <= len(targets) - MIN_SUPPORT:
            own = fit_platt(scores[:, column], targets[:, column])
            line = own if is_informative(own) else shared
        slopes += line.slopes
        intercepts += line.intercepts
    return Platt(tuple(slopes), tuple(intercepts))


def fold_numbers(strata: Sequence[int]) -> NDArray[np.intp]:
    """Return the fold of each example: each stratum is spread evenly, in its order.

    >>> fold_numbers([0, 1, 0, 1, 0]).tolist()
    [0, 3, 1, 4, 2]
    """
    order = np.argsort(np.asarray(strata), kind="stable")
    folds = np.empty(len(order), dtype=np.intp)
    folds[order] = np.arange(len(order)) % N_FOLDS
    return folds


def out_of_fold(fit: Fit, scores: Numbers, targets: Numbers, folds: NDArray[np.intp]) -> Numbers:
    """Return calibrated scores, those of each fold by a function that was fitted on the other folds."""
    calibrated = np.empty(scores.shape)
    for fold in range(N_FOLDS):
        inside = folds == fold
        if inside.any():
            calibrated[inside] = fit(scores[~inside], targets[~inside])(scores[inside])
    return calibrated


@dataclass(frozen=True)
class Covered:
    """How many right labels were in the label sets of held-out examples."""

    n: int
    n_covered: int

    @property
    def share(self) -> float:
        """The coverage that was seen; NaN without examples."""
        return self.n_covered / self.n if self.n else float("nan")


def nonconformity(labels: Sequence[str], scores: Numbers, truths: NDArray[np.bool_]) -> LabelSets:
    """Return the nonconformity of every right label; rounded up, so that no set becomes smaller.

    Args:
        labels: of the model.
        scores: (examples, labels), calibrated out of fold.
        truths: (examples, labels), which labels are right.
    """
    rounded = np.minimum(1.0, np.ceil((1 - scores) * 1e6) / 1e6)
    by_label = {label: rounded[truths[:, column], column].tolist() for column, label in enumerate(labels)}
    return LabelSets.from_scores(labels, by_label)


def observed_coverage(
    labels: Sequence[str], scores: Numbers, truths: NDArray[np.bool_], coverage: float
) -> tuple[dict[str, Covered], float]:
    """Return, by label, how often the label sets hold a right label, and the mean size of the sets as they are served.

    Whether a right label is held is decided by the set that all other examples give. Folds would not do: with few
    examples of a label, four fifths of them give another quantile, and so another coverage, than all of them.

    Args:
        labels: of the model; `scores`, `truths` as in `nonconformity`.
        coverage: that was asked for.
    """
    sets = nonconformity(labels, scores, truths)
    pooled = np.array(sets.pooled)
    pooled_thresholds = _thresholds_without(pooled, coverage)
    by_label, n_chosen = {}, 0
    for column, label in enumerate(labels):
        n_chosen += int((1 - scores[:, column] <= sets.threshold(label, coverage)).sum())
        own = np.array(sets.by_label[label])
        thresholds = _thresholds_without(own, coverage)
        largest = np.where(np.arange(len(own)) < len(own) - 1, own[-1:], own[-2:-1] if len(own) > 1 else 0.0)
        shared = np.maximum(pooled_thresholds[np.searchsorted(pooled, own)], largest)
        values = np.sort(1 - scores[truths[:, column], column])  # in the order of `own`, which are these rounded up
        held = values <= np.where(np.isfinite(thresholds), thresholds, shared)
        by_label[label] = Covered(len(own), int(held.sum()))
    return by_label, n_chosen / len(scores)


def _thresholds_without(ascending: Numbers, coverage: float) -> Numbers:
    """Return, for each of n numbers, the ceil(n * coverage)-th smallest of the others; infinite where there is none."""
    n = len(ascending)
    rank = math.ceil(round(n * coverage, 9))
    if rank > n - 1:
        return np.full(n, np.inf)
    thresholds: Numbers = np.where(np.arange(n) < rank, ascending[rank], ascending[rank - 1])
    return thresholds
