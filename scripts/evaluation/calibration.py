"""How far scores are probabilities, and how good the answers above a confidence are. Pure numbers, no model.

A confidence is the score of the predicted label; `correct` says, for each answer, whether that label is the right one.

Sources: expected calibration error with bins of equal width: Naeini, Cooper, Hauskrecht 2015 and Guo et al. 2017, "On
Calibration of Modern Neural Networks"; with bins of equal mass: Nixon et al. 2019, "Measuring Calibration in Deep
Learning"; Brier 1950, "Verification of Forecasts Expressed in Terms of Probability"; accuracy against coverage and its
area: Geifman, El-Yaniv 2017, "Selective Classification for Deep Neural Networks".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_BINS = 15  # as Guo et al.


@dataclass(frozen=True)
class ReliabilityBin:
    """The answers whose confidence lies in (lower, upper]; the first bin of equal width includes 0."""

    lower: float
    upper: float
    count: int
    confidence: float  # mean
    accuracy: float  # the fraction that is correct


@dataclass(frozen=True)
class CoveragePoint:
    """What is gained where answers below a confidence are withheld."""

    min_confidence: float
    coverage: float  # the fraction of answers that remain
    accuracy: float  # of those


def reliability(
    confidences: ArrayLike, correct: ArrayLike, *, n_bins: int = N_BINS, equal_mass: bool = False
) -> list[ReliabilityBin]:
    """Return the bins that are not empty, by confidence.

    Bins of equal mass have their edges at quantiles of the confidences, so that equal confidences share a bin.

    >>> [(part.count, part.accuracy) for part in reliability([0.2, 0.3, 0.9], [0, 1, 1], n_bins=2)]
    [(2, 0.5), (1, 1.0)]
    """
    values, hits = _vectors(confidences, correct)
    if not len(values):
        return []
    edges = np.linspace(0, 1, n_bins + 1)
    if equal_mass:
        edges = np.quantile(values, edges)
    index = np.searchsorted(edges[1:-1], values)
    return [
        ReliabilityBin(
            float(edges[number]),
            float(edges[number + 1]),
            int(inside.sum()),
            float(values[inside].mean()),
            float(hits[inside].mean()),
        )
        for number in range(n_bins)
        if (inside := index == number).any()
    ]


def expected_calibration_error(
    confidences: ArrayLike, correct: ArrayLike, *, n_bins: int = N_BINS, equal_mass: bool = False
) -> float:
    """Return the mean over all answers of |confidence - accuracy| of their bin, 0..1; NaN without answers.

    >>> round(expected_calibration_error([0.9, 0.9, 0.9, 0.9], [1, 1, 0, 1]), 4)
    0.15
    """
    bins = reliability(confidences, correct, n_bins=n_bins, equal_mass=equal_mass)
    total = sum(part.count for part in bins)
    return sum(part.count * abs(part.confidence - part.accuracy) for part in bins) / total if total else float("nan")


def brier_score(probabilities: ArrayLike, targets: ArrayLike) -> float:
    """Return the mean over the rows of the squared distance between probabilities and targets, each (rows, labels).

    0 is perfect. One label in a column of its own gives Brier's score of a binary event, from 0 to 1; labels that
    exclude each other give Brier's original score, from 0 to 2.

    >>> brier_score([[1.0, 0.0], [0.5, 0.5]], [[1, 0], [0, 1]])
    0.25
    """
    differences = np.asarray(probabilities, dtype=float) - np.asarray(targets, dtype=float)
    return float((differences**2).reshape(len(differences), -1).sum(axis=1).mean())


def one_hot(classes: ArrayLike, n_labels: int) -> NDArray[np.float64]:
    """Return classes (rows,) as targets (rows, labels)."""
    return np.eye(n_labels)[np.asarray(classes, dtype=np.intp)]


def negative_log_likelihood(probabilities: ArrayLike, classes: ArrayLike) -> float:
    """Return the mean of -log of the probability of the right class; probabilities are (rows, labels).

    A probability of 0 counts as the smallest that float32 distinguishes from it, as scores are served in float32.
    """
    chosen = np.asarray(probabilities, dtype=float)[
        np.arange(len(np.asarray(classes))), np.asarray(classes, dtype=np.intp)
    ]
    return float(-np.log(np.maximum(chosen, np.finfo(np.float32).tiny)).mean())


def coverage_curve(confidences: ArrayLike, correct: ArrayLike) -> list[CoveragePoint]:
    """Return accuracy against coverage, one point for each different confidence, from the highest on.

    >>> [(point.coverage, point.accuracy) for point in coverage_curve([0.9, 0.5, 0.7, 0.7], [1, 0, 1, 0])]
    [(0.25, 1.0), (0.75, 0.6666666666666666), (1.0, 0.5)]
    """
    values, hits = _vectors(confidences, correct)
    order = np.argsort(-values, kind="stable")
    values, hits = values[order], hits[order]
    last = np.flatnonzero(np.append(np.diff(values) != 0, True)) if len(values) else np.empty(0, dtype=np.intp)
    accuracies = np.cumsum(hits)[last] / (last + 1)
    return [
        CoveragePoint(float(values[index]), float((index + 1) / len(values)), float(accuracy))
        for index, accuracy in zip(last, accuracies, strict=True)
    ]


def risk_coverage_area(confidences: ArrayLike, correct: ArrayLike) -> float:
    """Return the area under the error rate against coverage (AURC), 0..1; lower is better, NaN without answers.

    Answers of one confidence are kept or withheld together: each has the error rate of all of them and those above.
    """
    points = coverage_curve(confidences, correct)
    shares = np.diff([0.0, *(point.coverage for point in points)])
    risks = np.array([1 - point.accuracy for point in points])
    return float((shares * risks).sum()) if points else float("nan")


def _vectors(confidences: ArrayLike, correct: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values, hits = np.asarray(confidences, dtype=float), np.asarray(correct, dtype=float)
    if values.ndim != 1 or values.shape != hits.shape:
        raise ValueError(f"one confidence and one flag for each answer are needed, not {values.shape} and {hits.shape}")
    return values, hits
