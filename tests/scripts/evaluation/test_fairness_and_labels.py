"""Gaps between groups against fairlearn, suspicious labels against cleanlab, duplicates, membership, swapped terms."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from cleanlab.filter import find_label_issues
from fairlearn.metrics import MetricFrame, demographic_parity_difference, equalized_odds_difference
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score

from scripts.evaluation import duplicates, fairness, label_issues


def noisy(
    n: int, n_labels: int, flipped: float, seed: int
) -> tuple[NDArray[np.int_], NDArray[np.int_], NDArray[np.float64]]:
    """Return true labels, labels with some flipped, and the probabilities of a model that is mostly right."""
    generator = np.random.default_rng(seed)
    true = generator.integers(0, n_labels, n)
    logits = generator.normal(size=(n, n_labels)) + 4 * np.eye(n_labels)[true]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    given = true.copy()
    wrong = generator.choice(n, int(flipped * n), replace=False)
    given[wrong] = (given[wrong] + generator.integers(1, n_labels, len(wrong))) % n_labels
    return true, given, probabilities


@pytest.mark.parametrize("n_labels", [2, 5, 12])
def test_suspicious_labels_are_those_of_cleanlab(n_labels: int) -> None:
    """The same rows in the same order, and most of the flipped ones are among them."""
    true, given, probabilities = noisy(600, n_labels, 0.08, n_labels)
    found = label_issues.label_issues(given, probabilities)
    theirs = find_label_issues(
        given, probabilities, filter_by="prune_by_class", return_indices_ranked_by="self_confidence", n_jobs=1
    )
    assert len(set(found) ^ set(theirs.tolist())) <= max(2, 0.05 * len(theirs))
    flipped = set(np.flatnonzero(true != given).tolist())
    assert len(flipped & set(found)) >= 0.7 * len(flipped)
    assert probabilities[found, given[found]].tolist() == sorted(probabilities[found, given[found]])


def test_right_labels_are_not_suspected() -> None:
    """A model that is right and sure suspects none; a label of one example is kept."""
    true, _, probabilities = noisy(300, 3, 0.0, 7)
    sure = probabilities.argmax(1) == true
    assert label_issues.label_issues(true[sure], probabilities[sure]) == []
    assert label_issues.label_issues(np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.8, 0.2], [0.9, 0.1]])) == []


def test_gaps_are_those_of_fairlearn() -> None:
    """Differences of accuracy, selection rates, and true and false positive rates."""
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 2, 900)
    groups = np.array(["x", "y", "z"], dtype=object)[generator.integers(0, 3, 900)]
    predictions = np.where((generator.random(900) < 0.3) & (groups == "z"), 1 - targets, targets)
    scores = (predictions == targets).astype(float)
    frame = MetricFrame(metrics=accuracy_score, y_true=targets, y_pred=predictions, sensitive_features=groups)
    gap = fairness.gap_interval([scores[groups == name] for name in "xyz"])
    assert gap["value"] == pytest.approx(frame.difference())
    assert gap["lower"] <= gap["value"] <= gap["upper"]
    measured = fairness.label_gaps(targets, predictions, groups, 2)
    features = {"y_true": targets, "y_pred": predictions, "sensitive_features": groups}
    assert measured["demographic_parity_difference"]["value"] == pytest.approx(
        demographic_parity_difference(**features)
    )
    assert measured["equalized_odds_difference"]["value"] == pytest.approx(equalized_odds_difference(**features))


def test_a_group_without_a_label_is_no_gap() -> None:
    """A rate that one group has no examples for counts as 0 for fairlearn: the worst gap, without a mistake."""
    targets, groups = np.array([0] * 10 + [1] * 10 + [0] * 10), np.array(["x"] * 20 + ["y"] * 10, dtype=object)
    features = {"y_true": targets, "y_pred": targets, "sensitive_features": groups}
    assert equalized_odds_difference(**features) == 1.0
    assert fairness.label_gaps(targets, targets, groups, 2)["equalized_odds_difference"]["value"] == 0.0


def test_a_planted_gap_is_beyond_chance_and_none_is_not() -> None:
    """Ninety against seventy of a hundred, and twice the same."""
    ninety, seventy = (np.array([1.0] * n + [0.0] * (100 - n)) for n in (90, 70))
    assert fairness.homogeneity([ninety, seventy]) < 0.01
    assert fairness.homogeneity([ninety, ninety]) == pytest.approx(1)
    assert fairness.homogeneity([np.array([0.1, 0.2, 0.3] * 20), np.array([0.5, 0.6, 0.7] * 20)]) < 0.01


@pytest.mark.parametrize("module", [fairness, duplicates, label_issues])
def test_examples_in_docstrings_are_true(module: object) -> None:
    """Examples in docstrings run."""
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


def test_swaps_keep_case_and_words() -> None:
    """Only whole words are swapped."""
    assert fairness.swapped_texts("HE met the hero; he left", "he", "she") == "SHE met the hero; she left"


def test_duplicates_and_leakage_are_found_by_row() -> None:
    """Case and marks do not count; a text with one more word is nearly equal; others are not."""
    texts = ["Where is my parcel?", "where is my parcel", "The screen of my phone is broken since Monday morning", "Hi"]
    found = duplicates.duplicates([2, 3, 4, 5], texts, ["a", "b", "c", "d"])
    assert (found["repeated"], found["conflicting"]) == (1, [[2, 3]])
    known = ["WHERE is my parcel", "The screen of my phone is broken since a Monday morning", "Something else entirely"]
    leak = duplicates.leakage([2, 3, 4, 5], texts, known)
    assert (leak["equal_rows"], leak["near_rows"]) == ([2, 3], [4])
