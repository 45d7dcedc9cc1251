"""Labels that are likely wrong: confident learning, by its published method.

Source: Northcutt, Jiang, Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels": the confident
joint, calibrated to the counts of the labels, and pruning by class. The authors' library, cleanlab, finds the same
rows (a test holds that), but its import brings `datasets` and pandas, 2,186 modules.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from handler.protocol import JSON
from scripts.evaluation.judging import JudgedExample
from scripts.evaluation.tasks.base import EvaluationTask


def confident_joint(labels: NDArray[np.int_], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many examples with each label (rows) are confidently of each label (columns).

    An example is confidently of a label where its probability is at least the mean probability of that label among the
    examples that have it; of several such labels, of the most probable one.
    """
    n_labels = probabilities.shape[1]
    thresholds = np.array(
        [probabilities[labels == k, k].mean() if (labels == k).any() else np.inf for k in range(n_labels)]
    )
    confident = probabilities >= thresholds - 1e-6
    chosen = np.where(confident, probabilities, -1.0).argmax(axis=1)
    counted = confident.any(axis=1)
    joint = np.zeros((n_labels, n_labels))
    np.add.at(joint, (labels[counted], chosen[counted]), 1)
    diagonal = np.einsum("ii->i", joint)
    diagonal[:] = np.maximum(diagonal, np.bincount(labels, minlength=n_labels) > 0)  # no row of zeros
    return joint


def calibrated_joint(joint: NDArray[np.float64], labels: NDArray[np.int_]) -> NDArray[np.float64]:
    """Return the joint scaled so that its rows sum to the counts of the labels."""
    counts = np.bincount(labels, minlength=len(joint))
    sums = joint.sum(axis=1, keepdims=True)
    shares: NDArray[np.float64] = np.divide(joint, sums, out=np.zeros_like(joint), where=sums > 0)
    return shares * counts[:, None]


def label_issues(labels: NDArray[np.int_], probabilities: NDArray[np.float64]) -> list[int]:
    """Return the examples whose label is likely wrong, the least likely label first.

    Of each label as many examples are taken as the joint estimates to be of others: those with the lowest probability
    of the label. One is kept at least. Where the model predicts the label itself, none is taken.
    """
    joint = calibrated_joint(confident_joint(labels, probabilities), labels)
    suspicious = np.zeros(len(labels), dtype=bool)
    for label in range(len(joint)):
        members = np.flatnonzero(labels == label)
        n_wrong = min(round(joint[label].sum() - joint[label, label]), len(members) - 1)
        if n_wrong > 0:
            confidence = probabilities[members, label]
            suspicious[members[confidence < np.partition(confidence, n_wrong)[n_wrong]]] = True
    suspicious &= probabilities.argmax(axis=1) != labels
    found = np.flatnonzero(suspicious)
    return [int(index) for index in found[np.argsort(probabilities[found, labels[found]], kind="stable")]]


def suspicious_rows(task: EvaluationTask[object], judged: Sequence[JudgedExample]) -> list[JSON] | None:
    """Return the rows whose label is likely wrong, and the label that the model would give; None without labels.

    Where a text may have several labels, each label is looked at alone.
    """
    if not judged or not judged[0].outcome.probabilities:
        return None
    probabilities = np.array([item.outcome.probabilities for item in judged])
    if all(len(item.outcome.target_ids) == 1 for item in judged) and np.allclose(
        probabilities.sum(axis=1), 1, atol=1e-3
    ):
        labels = np.array([item.outcome.target_ids[0] for item in judged])
        return [
            {
                "row": judged[index].located.row,
                "label": task.labels[labels[index]],
                "suggested": task.labels[int(probabilities[index].argmax())],
                "probability_of_label": float(probabilities[index, labels[index]]),
            }
            for index in label_issues(labels, probabilities)
        ]
    rows: list[JSON] = []
    for number, name in enumerate(task.labels):
        flags = np.array([number in item.outcome.target_ids for item in judged], dtype=int)
        pair = np.column_stack([1 - probabilities[:, number], probabilities[:, number]])
        rows += [
            {
                "row": judged[index].located.row,
                "label": name if flags[index] else f"not {name}",
                "suggested": f"not {name}" if flags[index] else name,
                "probability_of_label": float(pair[index, flags[index]]),
            }
            for index in (label_issues(flags, pair) if 0 < flags.sum() < len(flags) else [])
        ]
    return sorted(rows, key=lambda row: row["probability_of_label"])
