"""Calibration with intervals, the most confident mistakes, and texts that no label fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handler.protocol import JSON
from scripts.client.answers import is_error
from scripts.evaluation import calibration
from scripts.evaluation.answering import Asker
from scripts.evaluation.data import EvaluationData
from scripts.evaluation.judging import JudgedExample
from scripts.evaluation.statistics import auroc
from scripts.evaluation.tasks.base import Located, ModelQuestion, Outcome
from scripts.evaluation.tasks.classification import SingleLabelEvaluation

MAX_MISTAKES = 200
MAX_POINTS = 200  # of the curve of accuracy against coverage
N_RESAMPLES = 200


def calibration_report(outcomes: Sequence[Outcome], seed: int) -> dict[str, JSON] | None:
    """Return calibration errors with intervals, bins, accuracy against coverage; None without scores."""
    counts = [len(outcome.confidences) for outcome in outcomes]
    if not sum(counts):
        return None
    confidences = np.concatenate([np.asarray(outcome.confidences, dtype=float) for outcome in outcomes])
    correct = np.concatenate([np.asarray(outcome.correct, dtype=float) for outcome in outcomes])
    owners = np.repeat(np.arange(len(outcomes)), counts)
    points = calibration.coverage_curve(confidences, correct)
    shown = (
        points if len(points) <= MAX_POINTS else [points[int(i)] for i in np.linspace(0, len(points) - 1, MAX_POINTS)]
    )
    ranked = auroc(confidences, correct > 0)
    report: dict[str, JSON] = {
        "decisions": len(confidences),
        "mean_confidence": float(confidences.mean()),
        "accuracy": float(correct.mean()),
        "binary_brier": float(((confidences - correct) ** 2).mean()),
        "aurc": calibration.risk_coverage_area(confidences, correct),
        "auroc_right_wrong": ranked.to_json() if ranked else None,
        "bins": [vars(part) for part in calibration.reliability(confidences, correct)],
        "coverage": [vars(point) for point in shown],
    }
    for name, equal_mass in (("ece", False), ("ece_equal_mass", True)):
        report[name] = ece_interval(confidences, correct, owners, equal_mass=equal_mass, seed=seed)
    return report


def ece_interval(
    confidences: NDArray[np.float64],
    correct: NDArray[np.float64],
    owners: NDArray[np.intp],
    *,
    equal_mass: bool,
    seed: int,
) -> dict[str, float]:
    """Return the calibration error with its bootstrap interval; decisions of one example are drawn together.

    The interval is centred by the bootstrap's estimate of the bias, which is upwards where examples are few.
    """
    value = calibration.expected_calibration_error(confidences, correct, equal_mass=equal_mass)
    generator = np.random.default_rng(seed)
    order = np.argsort(owners, kind="stable")
    starts = np.searchsorted(owners[order], np.arange(owners.max() + 2))
    members = [order[starts[n] : starts[n + 1]] for n in range(owners.max() + 1)]
    alone = all(len(member) == 1 for member in members)
    resampled = []
    for _ in range(N_RESAMPLES):
        drawn = generator.integers(len(members), size=len(members))
        indices = order[drawn] if alone else np.concatenate([members[n] for n in drawn])
        resampled.append(
            calibration.expected_calibration_error(confidences[indices], correct[indices], equal_mass=equal_mass)
        )
    lower, upper = np.quantile(resampled, [0.025, 0.975])
    bias = float(np.mean(resampled)) - value
    return {"value": value, "lower": max(0.0, float(lower) - bias), "upper": max(0.0, float(upper) - bias)}


def mistakes(judged: Sequence[JudgedExample]) -> list[JSON]:
    """Return the examples that are not right, the most confident first, by row."""
    wrong = [item for item in judged if item.outcome.score < 1]
    has_confidence = any(len(item.outcome.confidences) for item in wrong)
    wrong.sort(key=lambda item: -item.outcome.confidence if has_confidence else item.outcome.score)
    return [
        {
            "row": item.located.row,
            "target": item.outcome.target,
            "predicted": item.outcome.predicted,
            "confidence": None if np.isnan(item.outcome.confidence) else item.outcome.confidence,
            "score": item.outcome.score,
        }
        for item in wrong[:MAX_MISTAKES]
    ]


def out_of_scope(asker: Asker, data: EvaluationData, judged: Sequence[JudgedExample]) -> JSON:
    """Return how well confidence tells texts that no label fits from the others; None without such texts.

    It is the confidence that `min_confidence` is compared with, where the archive has one of its own, else the best
    score.
    """
    if not data.out_of_scope or not isinstance(data.task, SingleLabelEvaluation):
        return None
    by = asker.model.description.get("abstain_by")
    if by:
        located = [item.located for item in judged]
        inside, outside = (_confidences(asker, data, items) for items in (located, data.out_of_scope))
    else:
        inside = [item.outcome.confidence for item in judged]
        answers = _answers(asker, data, data.out_of_scope, {})
        outside = [float(data.task.scores_of(answer).max()) for answer in answers]
    area = auroc([*inside, *outside], [True] * len(inside) + [False] * len(outside))
    return area and {
        "texts": len(outside),
        "abstain_by": by or "score",
        "auroc": area.to_json(),
        "mean_confidence": float(np.mean(outside)),
        "mean_confidence_in_scope": float(np.mean(inside)),
    }


def _confidences(asker: Asker, data: EvaluationData, items: Sequence[Located[Any]]) -> list[float]:
    """Return the confidence that answers say beside `abstained`."""
    answers = _answers(asker, data, items, {"top_k": 1, "min_confidence": 0.5})
    return [float(answer["confidence"]) for answer in answers]


def _answers(
    asker: Asker, data: EvaluationData, items: Sequence[Located[Any]], parameters: Mapping[str, JSON]
) -> list[JSON]:
    """Return the answers to examples with further parameters, without the errors."""
    extra = {**asker.model.parameters_for(data.task.served_as), **parameters}
    questions = [question for item in items for question in data.task.questions(item.example)]
    asked = [ModelQuestion(question.item, {**question.parameters, **extra}) for question in questions]
    return [answer for answer in asker.ask(asked, "texts out of scope") if not is_error(answer)]
