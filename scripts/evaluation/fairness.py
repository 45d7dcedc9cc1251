"""Fairness: gaps between groups of a column, and whether swapped terms change answers.

Gaps are those of fairlearn: the difference of the scores of groups; for labels the largest difference of selection
rates (demographic parity) and of true or false positive rates (equalized odds; Hardt, Price, Srebro 2016).
Counterfactual swaps as in Garg et al. 2019, "Counterfactual Fairness in Text Classification".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from handler.protocol import JSON
from scripts.cli.console import ScriptError
from scripts.evaluation.answering import Asker
from scripts.evaluation.judging import JudgedExample, judge
from scripts.evaluation.slices import MIN_SUPPORT
from scripts.evaluation.statistics import N_RESAMPLES, adjusted, mean_interval, wilson
from scripts.evaluation.tasks.base import EvaluationTask, Located, TextEdit
from scripts.readers.formats import row_lines
from scripts.readers.tables import label_name

MAX_ROWS = 20  # rows named for a swap


def gaps(judged: Sequence[JudgedExample], columns: Sequence[str], n_labels: int) -> list[JSON]:
    """Return the scores of the groups of each column, their gap, and whether it may be chance."""
    reports: list[dict[str, JSON]] = []
    for column in columns:
        groups = np.array([label_name(item.located.record.get(column)) for item in judged], dtype=object)
        scores = np.array([item.outcome.score for item in judged])
        counts = Counter(groups.tolist())
        names = sorted(name for name, count in counts.items() if name and count >= MIN_SUPPORT)
        if len(names) < 2:
            raise ScriptError(f"--groups {column}: fewer than two groups of {MIN_SUPPORT} examples or more")
        by_group = {name: scores[groups == name] for name in names}
        report: dict[str, JSON] = {
            "column": column,
            "groups": sorted(
                (
                    {"group": name, "support": len(values), "score": mean_interval(values).to_json()}
                    for name, values in by_group.items()
                ),
                key=lambda row: row["score"]["value"],
            ),
            "too_small": sorted(name for name, count in counts.items() if name and count < MIN_SUPPORT),
            "gap": gap_interval(list(by_group.values())),
            "p_value": homogeneity(list(by_group.values())),
        }
        target_ids = [item.outcome.target_ids for item in judged]
        if n_labels and all(len(ids) == 1 for ids in target_ids) and judged[0].outcome.probabilities:
            targets = np.array([ids[0] for ids in target_ids])
            predictions = np.array([int(np.argmax(item.outcome.probabilities)) for item in judged])
            chosen = np.isin(groups, names)
            report |= label_gaps(targets[chosen], predictions[chosen], groups[chosen], n_labels)
        reports.append(report)
    for report, q_value in zip(reports, adjusted([report["p_value"] for report in reports]), strict=True):
        report["q_value"] = q_value
    return reports


def gap_interval(groups: Sequence[NDArray[np.float64]], seed: int = 0) -> dict[str, float]:
    """Return the difference between the highest and the lowest mean, with its percentile bootstrap within groups.

    Resampled gaps are never below 0, so that the interval alone does not show whether there is a gap.
    """
    generator = np.random.default_rng(seed)
    means = np.array(
        [
            [values[generator.integers(len(values), size=len(values))].mean() for values in groups]
            for _ in range(N_RESAMPLES)
        ]
    )
    exact = [float(values.mean()) for values in groups]
    lower, upper = np.quantile(np.ptp(means, axis=1), [0.025, 0.975])
    return {"value": max(exact) - min(exact), "lower": float(lower), "upper": float(upper)}


def homogeneity(groups: Sequence[NDArray[np.float64]]) -> float:
    """Return the p-value of "all groups have one mean": chi-square of shares, Kruskal and Wallis's test of scores."""
    together = np.concatenate(groups)
    if np.ptp(together) == 0:
        return 1.0
    if np.isin(together, (0, 1)).all():
        counts = np.array([[values.sum(), len(values) - values.sum()] for values in groups])
        return float(stats.chi2_contingency(counts).pvalue)
    return float(stats.kruskal(*groups).pvalue)


def label_gaps(
    targets: NDArray[np.int_], predictions: NDArray[np.int_], groups: NDArray[Any], n_labels: int
) -> dict[str, JSON]:
    """Return the largest differences between groups over all labels, each label against the others.

    A label counts for a rate where each group has `MIN_SUPPORT` examples that the rate is a share of.
    """
    names = sorted(set(groups.tolist()))
    inside = [groups == name for name in names]
    parity, odds = (0.0, -1), (0.0, -1)
    for label in range(n_labels):
        selected, positive = predictions == label, targets == label
        parity = max(parity, (spread([selected[group] for group in inside]), label))
        for flag in (positive, ~positive):
            rates = [selected[group & flag] for group in inside]
            if all(len(rate) >= MIN_SUPPORT for rate in rates):
                odds = max(odds, (spread(rates), label))
    return {
        "demographic_parity_difference": {"value": parity[0], "label_index": parity[1]},
        "equalized_odds_difference": {"value": odds[0], "label_index": odds[1]},
    }


def spread(rates: Sequence[NDArray[np.bool_]]) -> float:
    """Return the difference between the highest and the lowest share."""
    shares = [float(rate.mean()) for rate in rates]
    return max(shares) - min(shares)


# --- swapped terms ---------------------------------------------------------------------------------------------------


def read_terms(path: Path) -> list[list[str]]:
    """Return the lines of a file of terms, each with terms that stand for one another, between commas."""
    with path.open("rb") as file:
        lines = [line.strip() for line in row_lines(str(path), file)]
    groups = [[term.strip() for term in line.split(",") if term.strip()] for line in lines if line and line[0] != "#"]
    if not groups or any(len(set(map(str.lower, group))) < 2 for group in groups):
        raise ScriptError(f"{path}: each line needs two different terms or more, between commas: he, she")
    return groups


def swapped_texts(text: str, term: str, other: str) -> str:
    """Return a text with every occurrence of a term, as a word, replaced; the case of the first letter stays.

    >>> swapped_texts("He said that he left.", "he", "she")
    'She said that she left.'
    """

    def replaced(match: re.Match[str]) -> str:
        word = match.group()
        if word.isupper() and len(word) > 1:
            return other.upper()
        return other[0].upper() + other[1:] if word[0].isupper() else other

    return re.sub(rf"(?<!\w){re.escape(term)}(?!\w)", replaced, text, flags=re.IGNORECASE)


def swaps(
    asker: Asker, task: EvaluationTask[Any], judged: Sequence[JudgedExample], terms: list[list[str]]
) -> list[JSON]:
    """Return, for each pair of terms, how many answers change where one stands for the other, worst first."""
    rows = []
    for group in terms:
        for term in group:
            for other in group:
                if term.lower() != other.lower():
                    rows.append(swap(asker, task, judged, term, other))
    return sorted(rows, key=lambda row: -row.get("changed_predictions", {}).get("value", -1.0))


def swap(
    asker: Asker, task: EvaluationTask[Any], judged: Sequence[JudgedExample], term: str, other: str
) -> dict[str, JSON]:
    """Return what changes where `other` stands for `term`."""
    edit = TextEdit(lambda text: swapped_texts(text, term, other))
    pairs = []
    for item in judged:
        edited = task.edited(item.located.example, edit)
        if edited is not None and edited != item.located.example:
            pairs.append((item, Located(item.located.row, edited, item.located.record)))
    row: dict[str, JSON] = {"from": term, "to": other, "texts": len(pairs)}
    if not pairs:
        return row
    after, _ = judge(asker, task, [edited for _, edited in pairs], f"terms: {term}, {other}", brief=True)
    kept = [(pairs[item.position][0], item) for item in after]
    if kept:
        changed = [before for before, item in kept if before.outcome.predicted != item.outcome.predicted]
        differences = [item.outcome.score - before.outcome.score for before, item in kept]
        row["changed_predictions"] = wilson(len(changed), len(kept)).to_json()
        row["score_difference"] = float(np.mean(differences))
        row["rows"] = [item.located.row for item in changed[:MAX_ROWS]]
    return row
