"""Intervals and tests, against published examples and scikit-learn."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]
from sklearn.metrics import roc_auc_score

from scripts.evaluation import statistics
from scripts.evaluation.statistics import adjusted, auroc, bootstrap, mcnemar, mean_interval, p_lower, wilson


def test_examples_in_docstrings_are_true() -> None:
    """Examples in docstrings run."""
    assert doctest.testmod(statistics).failed == 0


@pytest.mark.parametrize(
    ("successes", "n", "lower", "upper"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_that_of_newcombe(successes: int, n: int, lower: float, upper: float) -> None:
    """The four examples of Newcombe 1998, table I, method 3."""
    interval = wilson(successes, n)
    assert (interval.lower, interval.upper) == pytest.approx((lower, upper), abs=5e-5)


def test_wilson_without_examples_knows_nothing() -> None:
    """Nothing was seen, so the share may be anything."""
    assert (wilson(0, 0).lower, wilson(0, 0).upper) == (0, 1)


def test_bootstrap_is_that_of_scipy() -> None:
    """The percentile interval of a mean and of a correlation."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=200)
    y = x + generator.normal(size=200)
    ours = bootstrap(
        {"x": x, "y": y},
        lambda columns: {"mean": float(columns["x"].mean()), "r": float(np.corrcoef(columns["x"], columns["y"])[0, 1])},
    )
    for name, statistic, data in (("mean", np.mean, (x,)), ("r", lambda a, b: np.corrcoef(a, b)[0, 1], (x, y))):
        theirs = stats.bootstrap(
            data, statistic, paired=True, vectorized=False, method="percentile", n_resamples=2000, rng=1
        ).confidence_interval
        width = theirs.high - theirs.low
        assert (ours[name].lower, ours[name].upper) == pytest.approx((theirs.low, theirs.high), abs=0.12 * width)


def test_bootstrap_leaves_out_what_is_not_defined() -> None:
    """A resample of one value has no correlation; the others still give an interval."""

    def measure(columns: statistics.Columns) -> dict[str, float]:
        varied = np.ptp(columns["x"]) > 0
        return {"r": float(np.corrcoef(columns["x"], columns["y"])[0, 1]) if varied else float("nan")}

    interval = bootstrap({"x": np.array([0.0, 1.0, 2.0]), "y": np.array([0.0, 2.0, 1.0])}, measure)["r"]
    assert interval.value == pytest.approx(0.5)
    assert -1 <= interval.lower <= interval.upper <= 1


def test_mean_interval_of_shares_is_wilsons_and_of_scores_is_not() -> None:
    """Zeros and ones are a share."""
    assert mean_interval([1, 1, 0, 1]) == wilson(3, 4)
    assert mean_interval([0.5, 1, 0, 1]) != wilson(3, 4)


def test_mcnemar_is_exact_for_few_and_corrected_for_many() -> None:
    """Eight against two by the binomial distribution; Agresti's ratings (86, 150) by Edwards's chi-square."""
    few = mcnemar([True] * 8 + [False] * 2 + [True] * 5, [False] * 8 + [True] * 2 + [True] * 5)
    assert (few.only_first, few.only_second, few.exact) == (8, 2, True)
    assert few.p_value == pytest.approx(2 * sum((1, 10, 45)) / 1024)
    many = mcnemar([True] * 86 + [False] * 150, [False] * 86 + [True] * 150)
    assert not many.exact
    assert many.p_value == pytest.approx(stats.chi2.sf(63**2 / 236, 1))
    assert mcnemar([True, False], [True, False]).p_value == 1


def test_correction_is_that_of_benjamini_and_hochberg() -> None:
    """Their example of 15 p-values (1995, section 4): four are below 0.05 after the correction."""
    p_values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528]
    p_values += [0.7590, 1.0]
    assert [q < 0.05 for q in adjusted(p_values)] == [True] * 4 + [False] * 11
    assert adjusted([]) == []


def test_a_lower_slice_has_a_small_p_value() -> None:
    """One-sided: shares by Fisher's test (the tea of 1935: 1 of 4 against 3 of 4 has 17/70), scores by ranks."""
    tea = p_lower(np.array([1.0, 0, 0, 0]), np.array([1.0, 1, 1, 0]))
    assert tea == pytest.approx(17 / 70)
    assert p_lower(np.array([0.1, 0.2, 0.3] * 5), np.array([0.7, 0.8, 0.9] * 5)) < 1e-4
    assert p_lower(np.array([0.7, 0.8, 0.9] * 5), np.array([0.1, 0.2, 0.3] * 5)) > 0.99
    assert p_lower(np.array([0.5] * 5), np.array([0.5] * 5)) == 1


def test_auroc_is_that_of_scikit_learn() -> None:
    """Equal scores count half; the interval of Hanley and McNeil holds the value."""
    generator = np.random.default_rng(1)
    flags = generator.random(300) < 0.3
    scores = (generator.normal(size=300) + flags).round(1)
    area = auroc(scores, flags)
    assert area is not None
    assert area.value == pytest.approx(roc_auc_score(flags, scores))
    assert area.lower < area.value < area.upper
    assert auroc([0.1, 0.2], [True, True]) is None
