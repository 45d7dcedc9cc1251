"""A model against another one on the same examples: changed predictions, McNemar, calibration and slices of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handler.protocol import JSON
from scripts.evaluation import calibration
from scripts.evaluation.judging import JudgedExample
from scripts.evaluation.slices import FALSE_DISCOVERIES, Features, memberships
from scripts.evaluation.statistics import adjusted, bootstrap, is_binary, mcnemar, wilson
from scripts.evaluation.tasks.base import EvaluationTask, Outcome, columns_of

MAX_ROWS = 100
MAX_CHANGES = 20
SAME_SHARE = 0.05  # of the range of a number: a smaller difference is no change


def compare(
    task: EvaluationTask[Any], judged: Sequence[JudgedExample], others: Sequence[JudgedExample], features: Features
) -> dict[str, JSON]:
    """Return how a model differs from another one; positive differences speak for the model.

    `features` are those of `judged`, example by example. Examples that only one of both answered are left out.
    """
    by_position = {item.position: item.outcome for item in others}
    both = [index for index, item in enumerate(judged) if item.position in by_position]
    pairs = [(judged[index].outcome, by_position[judged[index].position]) for index in both]
    rows = [judged[index].located.row for index in both]
    scores, other_scores = (np.array([pair[n].score for pair in pairs]) for n in (0, 1))
    changed = [index for index, pair in enumerate(pairs) if differs(*pair)]
    changes = Counter((pairs[index][1].predicted, pairs[index][0].predicted) for index in changed)
    report: dict[str, JSON] = {
        "examples": len(pairs),
        "changed_predictions": wilson(len(changed), len(pairs)).to_json(),
        "changed_rows": [rows[index] for index in changed[:MAX_ROWS]],
        "changes": [
            {"from": before, "to": after, "count": count} for (before, after), count in changes.most_common(MAX_CHANGES)
        ],
        "score": {"model": float(scores.mean()), "other": float(other_scores.mean())},
        "difference": difference(scores, other_scores),
        "metrics": {
            "model": task.measure(columns_of([pair[0] for pair in pairs])),
            "other": task.measure(columns_of([pair[1] for pair in pairs])),
        },
        "calibration": [calibration_of([pair[n] for pair in pairs]) for n in (0, 1)],
    }
    if is_binary(scores) and is_binary(other_scores):
        report["mcnemar"] = mcnemar(scores == 1, other_scores == 1).to_json()
    kept = {name: [values[index] for index in both] for name, values in features.items()}
    report["slices"] = slice_differences(kept, scores, other_scores)
    return report


def differs(outcome: Outcome, other: Outcome) -> bool:
    """Return whether two answers say something else; numbers that are nearly equal do not."""
    if "predicted" in outcome.columns and "target" in outcome.columns and not outcome.probabilities:
        return abs(outcome.score - other.score) > SAME_SHARE
    return outcome.predicted != other.predicted if outcome.predicted else abs(outcome.score - other.score) > SAME_SHARE


def difference(scores: NDArray[np.float64], other_scores: NDArray[np.float64]) -> dict[str, float]:
    """Return the mean difference of paired scores with its bootstrap interval."""
    columns = {"difference": scores - other_scores}
    return bootstrap(columns, lambda sampled: {"mean": float(sampled["difference"].mean())})["mean"].to_json()


def calibration_of(outcomes: Sequence[Outcome]) -> dict[str, float] | None:
    """Return the calibration errors of outcomes; None where they have no confidence."""
    confidences = np.concatenate([np.asarray(outcome.confidences, dtype=float) for outcome in outcomes])
    correct = np.concatenate([np.asarray(outcome.correct, dtype=float) for outcome in outcomes])
    if not len(confidences):
        return None
    return {
        "ece": calibration.expected_calibration_error(confidences, correct),
        "ece_equal_mass": calibration.expected_calibration_error(confidences, correct, equal_mass=True),
        "mean_confidence": float(confidences.mean()),
        "accuracy": float(correct.mean()),
    }


def slice_differences(
    features: Features, scores: NDArray[np.float64], other_scores: NDArray[np.float64]
) -> list[dict[str, JSON]]:
    """Return every slice with the scores of both models, those that got worst first.

    The p-value is McNemar's where scores are right or wrong, else Wilcoxon's signed-rank test; corrected for many.
    """
    rows: list[dict[str, JSON]] = []
    for (feature, value), inside in memberships(features).items():
        a, b = scores[inside], other_scores[inside]
        rows.append(
            {
                "feature": feature,
                "value": value,
                "support": int(inside.sum()),
                "model": float(a.mean()),
                "other": float(b.mean()),
                "difference": float(a.mean() - b.mean()),
                "p_value": paired_p_value(a, b),
            }
        )
    for row, q_value in zip(rows, adjusted([row["p_value"] for row in rows]), strict=True):
        row["q_value"] = q_value
        row["worse"] = q_value < FALSE_DISCOVERIES and row["difference"] < 0
    return sorted(rows, key=lambda row: (not row["worse"], row["difference"]))


def paired_p_value(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the two-sided p-value of "both have the same scores"."""
    if is_binary(a) and is_binary(b):
        return mcnemar(a == 1, b == 1).p_value
    if np.array_equal(a, b):
        return 1.0
    from scipy.stats import wilcoxon  # type: ignore[import-untyped]

    return float(wilcoxon(a, b).pvalue)
