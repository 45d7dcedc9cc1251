"""How answers stand changes of the text that leave its meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from handler.protocol import JSON
from scripts.evaluation.answering import Asker
from scripts.evaluation.judging import JudgedExample, judge
from scripts.evaluation.perturbations import PERTURBATIONS, WHOLE_TEXT, perturb
from scripts.evaluation.statistics import bootstrap, wilson
from scripts.evaluation.tasks.base import EvaluationTask, Located, TextEdit


def robustness(asker: Asker, task: EvaluationTask[Any], judged: Sequence[JudgedExample], seed: int) -> list[JSON]:
    """Return one row for each perturbation, the most harmful first.

    A row counts the texts that the perturbation changes; on those: the score before and after, kept accuracy (after /
    before) with its interval, and changed predictions.
    """
    rows = []
    for name in PERTURBATIONS:
        pairs = [(before, edited) for before in judged if (edited := edited_example(task, before.located, name, seed))]
        row: dict[str, JSON] = {"name": name, "changed_texts": len(pairs)}
        if pairs:
            after, _ = judge(asker, task, [edited for _, edited in pairs], f"robustness: {name}", brief=True)
            by_row = {item.position: item for item in after}
            kept = [(pair[0], by_row[number]) for number, pair in enumerate(pairs) if number in by_row]
            row |= compared(kept)
        rows.append(row)
    return sorted(rows, key=lambda row: row.get("kept", {}).get("value", 2.0))


def compared(pairs: Sequence[tuple[JudgedExample, JudgedExample]]) -> dict[str, JSON]:
    """Return the measures of examples before and after a perturbation."""
    if not pairs:
        return {}
    scores = {
        "before": np.array([before.outcome.score for before, _ in pairs]),
        "after": np.array([after.outcome.score for _, after in pairs]),
    }
    ratio = bootstrap(
        scores,
        lambda columns: {
            "kept": float(columns["after"].sum() / columns["before"].sum()) if columns["before"].sum() else float("nan")
        },
    )
    n_changed = sum(before.outcome.predicted != after.outcome.predicted for before, after in pairs)
    return {
        "score_before": float(scores["before"].mean()),
        "score_after": float(scores["after"].mean()),
        "kept": ratio["kept"].to_json(),
        "changed_predictions": wilson(n_changed, len(pairs)).to_json(),
    }


def edited_example(task: EvaluationTask[Any], located: Located[Any], name: str, seed: int) -> Located[Any] | None:
    """Return an example after a perturbation; None where it changes nothing, or what is right."""
    edited = task.edited(
        located.example, TextEdit(lambda text: perturb(text, name, seed), WHOLE_TEXT.get(name, "anywhere"))
    )
    if edited is None or edited == located.example or not task.texts(edited)[0].strip():
        return None
    return Located(located.row, edited, located.record)
