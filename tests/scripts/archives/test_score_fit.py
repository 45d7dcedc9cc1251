"""The fits against scipy, scikit-learn and the theorem of split conformal prediction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]
from scipy.special import log_softmax, logsumexp, softmax  # type: ignore[import-untyped]
from scipy.stats import binom  # type: ignore[import-untyped]
from sklearn.calibration import _SigmoidCalibration
from sklearn.linear_model import LogisticRegression

from handler.confidence import LabelSets, Temperature, logit
from scripts.archives import score_fit
from scripts.evaluation.calibration import expected_calibration_error


def labelled_logits(n: int, k: int, sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (n, k) that are `sharpness` times too large, and labels drawn from the true probabilities."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (n, k))
    labels = np.array([generator.choice(k, p=p) for p in softmax(logits, axis=1)])
    return logits * sharpness, labels


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_a_temperature_is_the_minimum_that_scipy_finds(sharpness: float) -> None:
    logits, labels = labelled_logits(3000, 7, sharpness)

    def loss(temperature: float) -> float:
        return -float(log_softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels].mean())

    expected = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-8}).x
    fitted = score_fit.fit_temperature(softmax(logits, axis=1), labels)
    assert fitted.value == pytest.approx(expected, rel=1e-4)
    assert fitted.value == pytest.approx(sharpness, rel=0.1)


def test_a_temperature_on_scores_is_one_on_logits() -> None:
    """Also in float32, as scores are served."""
    logits, _ = labelled_logits(200, 5, 2.0)
    scores = softmax(logits.astype(np.float32), axis=1).astype(np.float32)
    assert Temperature(2.5)(scores) == pytest.approx(softmax(logits / 2.5, axis=1), abs=1e-6)


def test_no_temperature_is_fitted_to_predictions_without_a_mistake() -> None:
    """The likelihood would rise for ever."""
    assert score_fit.fit_temperature(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1])).value == 1.0


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.4, -1.0), (2.5, 0.7)])
def test_platts_line_is_that_of_scikit_learn(slope: float, intercept: float) -> None:
    generator = np.random.default_rng(1)
    scores = generator.beta(0.7, 0.7, 2000)
    targets = (generator.random(2000) < 1 / (1 + np.exp(-(slope * logit(scores) + intercept)))).astype(float)
    fitted = score_fit.fit_platt(scores, targets)
    reference = _SigmoidCalibration().fit(logit(scores), targets)
    assert fitted.slopes[0] == pytest.approx(-reference.a_, rel=1e-3)
    assert fitted.intercepts[0] == pytest.approx(-reference.b_, rel=1e-3, abs=1e-3)
    regression = LogisticRegression(C=np.inf).fit(logit(scores)[:, None], targets)
    assert fitted.slopes[0] == pytest.approx(regression.coef_[0, 0], rel=0.02)  # without Platt's smoothing
    assert fitted(scores) == pytest.approx(reference.predict(logit(scores)), abs=1e-4)


def test_scores_that_say_nothing_get_the_mean() -> None:
    """And targets without a difference change nothing."""
    generator = np.random.default_rng(2)
    scores = generator.random(500)
    targets = (generator.random(500) > scores).astype(float)
    line = score_fit.fit_platt(scores, targets)
    assert not score_fit.is_informative(line)
    assert line(scores) == pytest.approx(targets.mean(), abs=0.01)
    assert score_fit.fit_platt(scores, np.ones(500)) == score_fit.IDENTITY


def test_a_rare_label_shares_the_line_of_all() -> None:
    generator = np.random.default_rng(3)
    scores = generator.random((400, 3))
    targets = (generator.random((400, 3)) < scores**2).astype(float)
    targets[:, 2] = 0
    targets[:5, 2] = 1
    fitted = score_fit.fit_labels(scores, targets)
    shared = score_fit.fit_platt(scores.ravel(), targets.ravel())
    assert (fitted.slopes[2], fitted.intercepts[2]) == (shared.slopes[0], shared.intercepts[0])
    assert fitted.slopes[0] == score_fit.fit_platt(scores[:, 0], targets[:, 0]).slopes[0] != shared.slopes[0]


def test_calibration_out_of_fold_lowers_the_error_and_sees_no_example_twice() -> None:
    logits, labels = labelled_logits(2000, 5, 3.0)
    scores = softmax(logits, axis=1)
    folds = score_fit.fold_numbers(labels.tolist())
    assert np.bincount(folds).tolist() == [400] * 5
    calibrated = score_fit.out_of_fold(score_fit.fit_temperature, scores, labels, folds)
    hits = scores.argmax(1) == labels
    before = expected_calibration_error(scores.max(1), hits)
    after = expected_calibration_error(calibrated.max(1), hits)
    assert after < before / 3
    first = score_fit.fit_temperature(scores[folds != 0], labels[folds != 0])
    assert calibrated[folds == 0].tolist() == first(scores[folds == 0]).tolist()


def test_thresholds_are_quantiles_with_the_correction_for_finite_samples() -> None:
    """The ceil((n + 1) * coverage)-th of n, which numpy has as a quantile of its own."""
    generator = np.random.default_rng(4)
    scores = generator.random(99)
    sets = LabelSets.from_scores(["a"], {"a": scores})
    for coverage in (0.5, 0.9, 0.95):
        level = np.ceil((99 + 1) * coverage) / 99
        assert sets.threshold("a", coverage) == np.quantile(scores, level, method="inverted_cdf")
    assert sets.threshold("a", 0.995) == np.inf  # 99 examples do not promise so much


def test_a_higher_coverage_never_gives_a_smaller_set() -> None:
    """Also where the label has too few examples, and all of them together are used."""
    generator = np.random.default_rng(7)
    sets = LabelSets.from_scores(["rare", "common"], {"rare": [0.2, 0.7, 0.95], "common": generator.random(60)})
    for label in ("rare", "common"):
        thresholds = [sets.threshold(label, coverage) for coverage in np.linspace(0.01, 0.999, 300)]
        assert thresholds == sorted(thresholds)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_sets_hold_the_right_label_as_often_as_they_promise(coverage: float) -> None:
    """By label too, on examples that were not seen, however wrong the scores are."""
    labels = ["a", "b", "c"]
    logits, targets = labelled_logits(24000, 3, 4.0, seed=5)
    scores = softmax(logits + np.array([2.0, 0.0, -1.0]), axis=1)
    truths = np.eye(3, dtype=bool)[targets]
    sets = score_fit.nonconformity(labels, scores[:4000], truths[:4000])
    chosen = np.array(
        [[label in sets.choose(labels, row, coverage) for label in labels] for row in scores[4000:].tolist()]
    )
    for column in range(3):
        held = chosen[truths[4000:, column], column]
        # The coverage of one calibration set is itself random: Beta(k, n + 1 - k).
        n = int(truths[:4000, column].sum())
        k = int(np.ceil((n + 1) * coverage))
        spread = np.sqrt(k * (n + 1 - k) / ((n + 1) ** 2 * (n + 2)))
        low, high = binom.interval(0.9999, len(held), coverage)
        assert low - 4 * spread * len(held) <= held.sum() <= high + 4 * spread * len(held)


@pytest.mark.parametrize("n_labels", [1, 3, 30])
@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.97])
def test_observed_coverage_is_that_of_the_other_examples(n_labels: int, coverage: float) -> None:
    """Labels of many examples, of few, of one and of none; the sets are made anew without each example."""
    labels = [f"label {number}" for number in range(n_labels)]
    logits, targets = labelled_logits(90, n_labels, 1.0, seed=n_labels)
    targets[:45] //= 2
    scores, truths = softmax(logits, axis=1), np.eye(n_labels, dtype=bool)[targets]
    by_label, size = score_fit.observed_coverage(labels, scores, truths, coverage)
    expected = dict.fromkeys(labels, 0)
    for row, target in enumerate(targets):
        others = np.arange(90) != row
        sets = score_fit.nonconformity(labels, scores[others], truths[others])
        expected[labels[target]] += labels[target] in sets.choose(labels, scores[row].tolist(), coverage)
    assert {label: covered.n_covered for label, covered in by_label.items()} == expected
    assert [covered.n for covered in by_label.values()] == truths.sum(0).tolist()
    served = score_fit.nonconformity(labels, scores, truths)
    assert size == np.mean([len(served.choose(labels, row, coverage)) for row in scores.tolist()])


def test_observed_coverage_of_twenty_examples_a_label_is_what_was_asked_for() -> None:
    """Not that of sixteen examples, four fifths of them, whose 0.9-quantile is the largest and holds 94 %."""
    labels = [f"label {number}" for number in range(50)]
    logits, targets = labelled_logits(40_000, 50, 1.0, seed=6)
    rows = np.concatenate([np.flatnonzero(targets == label)[:20] for label in range(50)])
    scores, truths = softmax(logits[rows], axis=1), np.eye(50, dtype=bool)[targets[rows]]
    by_label, _ = score_fit.observed_coverage(labels, scores, truths, 0.9)
    assert sum(covered.n_covered for covered in by_label.values()) == pytest.approx(900, abs=5)


def test_logits_are_finite_where_a_score_is_0_or_1() -> None:
    assert np.isfinite(logit([0.0, 1.0])).all()
    assert logsumexp(logit([0.5])) == 0
