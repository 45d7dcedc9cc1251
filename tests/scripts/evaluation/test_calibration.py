"""Measures of calibration, against scikit-learn and by hand."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from scripts.evaluation import calibration

GENERATOR = np.random.default_rng(0)
CONFIDENCES = GENERATOR.beta(4, 2, 2000).round(3)  # rounded: many are equal
CORRECT = GENERATOR.random(2000) < CONFIDENCES**2


def test_examples_in_docstrings_are_true() -> None:
    """Examples in docstrings run."""
    assert doctest.testmod(calibration).failed == 0


@pytest.mark.parametrize(("equal_mass", "strategy"), [(False, "uniform"), (True, "quantile")])
def test_reliability_is_that_of_scikit_learn(equal_mass: bool, strategy: str) -> None:
    """Bins of both kinds have the means of `calibration_curve`."""
    bins = calibration.reliability(CONFIDENCES, CORRECT, n_bins=10, equal_mass=equal_mass)
    accuracies, confidences = calibration_curve(CORRECT, CONFIDENCES, n_bins=10, strategy=strategy)
    assert [part.accuracy for part in bins] == pytest.approx(accuracies)
    assert [part.confidence for part in bins] == pytest.approx(confidences)
    assert sum(part.count for part in bins) == 2000


@pytest.mark.parametrize("equal_mass", [False, True])
def test_calibration_error_is_near_zero_for_true_probabilities_and_large_for_others(equal_mass: bool) -> None:
    """Scores that are the chances of being right have a small error; scores that are too high have their gap."""
    scores = GENERATOR.random(100_000) * 0.7
    correct = GENERATOR.random(100_000) < scores
    assert calibration.expected_calibration_error(scores, correct, equal_mass=equal_mass) < 0.01
    raised = calibration.expected_calibration_error(scores + 0.3, correct, equal_mass=equal_mass)
    assert raised == pytest.approx(0.3, abs=0.005)


def test_calibration_error_by_hand() -> None:
    """Two bins of width 0.5: (0.2 against 0) and (0.7 against 0.75), weighted 1 to 4."""
    error = calibration.expected_calibration_error([0.2, 0.6, 0.6, 0.8, 0.8], [0, 1, 1, 1, 0], n_bins=2)
    assert error == pytest.approx(0.2 * 0.2 + 0.8 * 0.05)


def test_edges_belong_to_the_lower_bin() -> None:
    """A confidence of exactly 0.5 lies in (0, 0.5], and 0 and 1 are within the bins."""
    assert [part.count for part in calibration.reliability([0, 0.5, 0.51, 1], [0, 0, 1, 1], n_bins=2)] == [2, 2]


def test_brier_and_likelihood_are_those_of_scikit_learn() -> None:
    """The binary Brier score, and the log loss of several classes."""
    column = CONFIDENCES[:, None]
    expected = brier_score_loss(CORRECT, CONFIDENCES)
    assert calibration.brier_score(column, CORRECT[:, None]) == pytest.approx(expected)
    both = np.hstack([1 - column, column])  # Brier's original score counts both classes
    assert calibration.brier_score(both, calibration.one_hot(CORRECT, 2)) == pytest.approx(2 * expected)
    inner = np.clip(both, 0.01, 0.99)
    assert calibration.negative_log_likelihood(inner, CORRECT) == pytest.approx(log_loss(CORRECT, inner))
    assert np.isfinite(calibration.negative_log_likelihood([[1.0, 0.0]], [1]))


def test_coverage_curve_ends_with_every_answer() -> None:
    """At full coverage the accuracy is that of all; equal confidences stay together."""
    points = calibration.coverage_curve(CONFIDENCES, CORRECT)
    assert points[-1].coverage == 1
    assert points[-1].accuracy == pytest.approx(CORRECT.mean())
    assert len(points) == len(set(CONFIDENCES))
    kept = CONFIDENCES >= 0.8
    (point,) = (point for point in points if point.min_confidence == CONFIDENCES[kept].min())
    assert (point.coverage, point.accuracy) == pytest.approx((kept.mean(), CORRECT[kept].mean()))


def test_area_of_risk_rewards_order() -> None:
    """Wrong answers with the lowest scores give a smaller area than with the highest; a constant gives the risk."""
    good = calibration.risk_coverage_area([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0])
    assert good == pytest.approx(0.25 * (0 + 0 + 1 / 3 + 1 / 2))
    assert good < calibration.risk_coverage_area([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1])
    assert calibration.risk_coverage_area([0.5] * 4, [1, 0, 0, 1]) == pytest.approx(0.5)


def test_nothing_gives_no_number() -> None:
    """Without answers there is no error to report; vectors of other shapes are refused."""
    assert np.isnan(calibration.expected_calibration_error([], []))
    assert np.isnan(calibration.risk_coverage_area([], []))
    with pytest.raises(ValueError, match="one confidence and one flag"):
        calibration.reliability([0.5, 0.6], [1])
