"""Classification of texts and pairs: one label, several labels, a number; zero-shot labels and next sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from handler.protocol import JSON
from scripts.evaluation.statistics import Columns, wilson
from scripts.evaluation.tasks.base import EvaluationTask, ModelQuestion, Outcome, TextEdit, answer_error
from scripts.training.tasks.classification import LabelledText

T = TypeVar("T", int, float, list[float])
THRESHOLD = 0.5  # of the score of a label that is assigned, where a text may have several
SMALLEST = float(np.finfo(np.float32).tiny)
MAX_CONFUSIONS = 40


class TextEvaluation(EvaluationTask[LabelledText[T]], Generic[T]):
    """Base of the tasks about one text or a pair with labels and scores."""

    served_as = "text-classification"
    parameters: ClassVar[Mapping[str, JSON]] = {"top_k": None}

    def questions(self, example: LabelledText[T]) -> list[ModelQuestion]:
        item = example.text if example.pair is None else {"text": example.text, "text_pair": example.pair}
        return [ModelQuestion(item, self.parameters)]

    def texts(self, example: LabelledText[T]) -> tuple[str, ...]:
        return (example.text,) if example.pair is None else (example.text, example.pair)

    def edited(self, example: LabelledText[T], edit: TextEdit) -> LabelledText[T] | None:
        return replace(example, text=edit(example.text))

    def scores_of(self, answer: JSON) -> NDArray[np.float64]:
        """Return the score of every label, in the order of the model's."""
        if not isinstance(answer, list) or not all(isinstance(item, dict) and "label" in item for item in answer):
            raise answer_error(answer, "labels with scores")
        scores = np.zeros(len(self.labels))
        for item in answer:
            if item["label"] not in self.index:
                raise answer_error(answer, "only labels of the model")
            scores[self.index[item["label"]]] = item["score"]
        return scores


class SingleLabelEvaluation(TextEvaluation[int]):
    """Exactly one label for each text."""

    title = "Classification"
    metric_titles: ClassVar = {"accuracy": "accuracy", "macro_f1": "macro F1", "nll": "NLL", "brier": "Brier score"}
    main_metric = "accuracy"
    lower_is_better = frozenset({"nll", "brier"})
    brief: ClassVar[Mapping[str, JSON]] = {"top_k": 1}

    def outcome(self, example: LabelledText[int], answers: Sequence[JSON]) -> Outcome:
        scores = self.scores_of(answers[0])
        predicted, target = int(scores.argmax()), example.target
        loss = -math.log(max(scores[target], SMALLEST))
        brier = float(((scores - np.eye(len(scores))[target]) ** 2).sum())
        hit = float(predicted == target)
        return Outcome(
            hit,
            {"target": target, "predicted": predicted, "nll": loss, "brier": brier},
            self.labels[target],
            self.labels[predicted],
            [float(scores[predicted])],
            [hit],
            loss,
            scores.tolist(),
            [target],
        )

    def measure(self, columns: Columns) -> dict[str, float]:
        targets, predictions = columns["target"].astype(int), columns["predicted"].astype(int)
        return {
            "accuracy": float((targets == predictions).mean()),
            "macro_f1": macro_f1(targets, predictions, len(self.labels)),
            "nll": float(columns["nll"].mean()),
            "brier": float(columns["brier"].mean()),
        }

    def details(self, outcomes: Sequence[Outcome]) -> dict[str, JSON]:
        targets = np.array([outcome.columns["target"] for outcome in outcomes], dtype=int)
        predictions = np.array([outcome.columns["predicted"] for outcome in outcomes], dtype=int)
        matrix = np.zeros((len(self.labels), len(self.labels)), dtype=int)
        np.add.at(matrix, (targets, predictions), 1)
        wrong = matrix * (1 - np.eye(len(self.labels), dtype=int))
        order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSIONS]
        pairs = [divmod(int(index), len(self.labels)) for index in order if wrong.flat[index]]
        by_label = [
            label_row(self.labels[n], matrix[n, n], matrix[n].sum(), matrix[:, n].sum()) for n in present(matrix)
        ]
        return {
            "labels": sorted(by_label, key=lambda row: row["f1"]),
            "confusion": {"labels": list(self.labels), "matrix": matrix.tolist()},
            "confusions": [
                {"target": self.labels[a], "predicted": self.labels[b], "count": int(wrong[a, b])} for a, b in pairs
            ],
        }


def present(matrix: NDArray[np.int_]) -> list[int]:
    """Return the labels that are a target or a prediction of any example."""
    return [int(n) for n in np.flatnonzero(matrix.sum(0) + matrix.sum(1))]


def label_row(name: str, hits: int, n_targets: int, n_predicted: int) -> dict[str, JSON]:
    """Return precision, recall with its interval, F1 and support of one label."""
    recall = wilson(int(hits), int(n_targets))
    precision = wilson(int(hits), int(n_predicted))
    total = int(n_targets + n_predicted)
    return {
        "label": name,
        "support": int(n_targets),
        "precision": precision.to_json() if n_predicted else None,
        "recall": recall.to_json() if n_targets else None,
        "f1": 2 * int(hits) / total if total else 0.0,
    }


def macro_f1(targets: NDArray[np.int_], predictions: NDArray[np.int_], n_labels: int) -> float:
    """Return the mean F1 of the labels that are a target or a prediction, as scikit-learn's f1_score has it."""
    hits = np.bincount(targets[targets == predictions], minlength=n_labels)
    totals = np.bincount(targets, minlength=n_labels) + np.bincount(predictions, minlength=n_labels)
    occurs = totals > 0
    return float((2 * hits[occurs] / totals[occurs]).mean())


class ZeroShotEvaluation(SingleLabelEvaluation):
    """Labels that the model was never trained on: those of the data."""

    title = "Zero-shot classification"
    served_as = "zero-shot-classification"
    brief: ClassVar[Mapping[str, JSON]] = {}

    def questions(self, example: LabelledText[int]) -> list[ModelQuestion]:
        return [ModelQuestion(example.text, {"candidate_labels": list(self.labels)})]


class NextSentenceEvaluation(SingleLabelEvaluation):
    """Whether a sentence follows another: neighbours of the data, and random pairs of it."""

    title = "Next sentence"
    unit_name = "pairs"
    served_as = "next-sentence-prediction"
    brief: ClassVar[Mapping[str, JSON]] = {}

    def questions(self, example: LabelledText[int]) -> list[ModelQuestion]:
        return [ModelQuestion({"text": example.text, "next_sentence": example.pair or ""}, {})]


class MultiLabelEvaluation(TextEvaluation[list[float]]):
    """Any number of labels for each text; each label is one decision."""

    title = "Classification with several labels"
    metric_titles: ClassVar = {
        "micro_f1": "micro F1",
        "macro_f1": "macro F1",
        "subset_accuracy": "all labels right",
        "brier": "Brier score",
    }
    main_metric = "micro_f1"
    lower_is_better = frozenset({"brier"})
    score_title = "all labels right"
    parameters: ClassVar[Mapping[str, JSON]] = {"top_k": None}

    def outcome(self, example: LabelledText[list[float]], answers: Sequence[JSON]) -> Outcome:
        scores, targets = self.scores_of(answers[0]), np.array(example.target) > THRESHOLD
        predicted = scores >= THRESHOLD
        decisions = np.where(predicted, scores, 1 - scores)
        chances = np.maximum(np.where(targets, scores, 1 - scores), SMALLEST)
        return Outcome(
            float((predicted == targets).all()),
            {
                "targets": targets.astype(float).tolist(),
                "predictions": predicted.astype(float).tolist(),
                "brier": float(((scores - targets) ** 2).sum()),
            },
            ", ".join(self.labels[n] for n in np.flatnonzero(targets)) or "none",
            ", ".join(self.labels[n] for n in np.flatnonzero(predicted)) or "none",
            decisions.tolist(),
            (predicted == targets).astype(float).tolist(),
            float(-np.log(chances).mean()),
            scores.tolist(),
            np.flatnonzero(targets).tolist(),
        )

    def measure(self, columns: Columns) -> dict[str, float]:
        targets, predictions = columns["targets"], columns["predictions"]
        hits, totals = (targets * predictions).sum(0), targets.sum(0) + predictions.sum(0)
        f1 = np.divide(2 * hits, totals, out=np.zeros(len(hits)), where=totals > 0)
        return {
            "micro_f1": float(2 * hits.sum() / totals.sum()) if totals.sum() else 0.0,
            "macro_f1": float(f1.mean()),
            "subset_accuracy": float((targets == predictions).all(axis=1).mean()),
            "brier": float(columns["brier"].mean()),
        }

    def details(self, outcomes: Sequence[Outcome]) -> dict[str, JSON]:
        targets = np.array([outcome.columns["targets"] for outcome in outcomes], dtype=int)
        predictions = np.array([outcome.columns["predictions"] for outcome in outcomes], dtype=int)
        hits = (targets * predictions).sum(0)
        rows = [
            label_row(label, hits[n], targets[:, n].sum(), predictions[:, n].sum())
            for n, label in enumerate(self.labels)
        ]
        return {"labels": sorted(rows, key=lambda row: row["f1"])}


class RegressionEvaluation(TextEvaluation[float]):
    """A number for each text. The score of an example is 1 - its error as a share of the range of the targets."""

    title = "Regression"
    metric_titles: ClassVar = {"mae": "mean error", "rmse": "RMSE", "pearson": "Pearson", "spearman": "Spearman"}
    main_metric = "spearman"
    lower_is_better = frozenset({"mae", "rmse"})
    score_title = "closeness"

    def __init__(self, labels: Sequence[str], lowest: float = 0.0, highest: float = 1.0) -> None:
        super().__init__(labels)
        self.lowest, self.range = lowest, (highest - lowest) or 1.0

    def prediction(self, answers: Sequence[JSON]) -> float:
        """Return the number that the model predicts."""
        (answer,) = answers
        if not (isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], dict) and "score" in answer[0]):
            raise answer_error(answer, "one number")
        return float(answer[0]["score"])

    def outcome(self, example: LabelledText[float], answers: Sequence[JSON]) -> Outcome:
        predicted = self.prediction(answers)
        error = abs(predicted - example.target)
        return Outcome(
            self.closeness(predicted, example.target),
            {"target": example.target, "predicted": predicted},
            f"{example.target:g}",
            f"{predicted:.4g}",
            loss=error**2,
        )

    def closeness(self, predicted: float, target: float) -> float:
        """Return 1 for the right number, 0 for one that is the whole range away."""
        return max(0.0, 1 - abs(predicted - target) / self.range)

    def measure(self, columns: Columns) -> dict[str, float]:
        targets, predictions = columns["target"], columns["predicted"]
        errors = predictions - targets
        return {
            "mae": float(np.abs(errors).mean()),
            "rmse": float(np.sqrt((errors**2).mean())),
            "pearson": correlation(targets, predictions),
            "spearman": correlation(ranks(targets), ranks(predictions)),
        }


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return Pearson's correlation; NaN where one of both is constant."""
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt(float((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm else float("nan")


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks, equal values with their mean rank; Spearman's correlation is Pearson's of these."""
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    return np.asarray(rankdata(values), dtype=float)


class SimilarityEvaluation(RegressionEvaluation):
    """Embeddings by the similarity of two texts: Spearman's correlation with the targets, as in STS."""

    title = "Similarity"
    unit_name = "pairs"
    served_as = "sentence-similarity"
    metric_titles: ClassVar = {"spearman": "Spearman", "pearson": "Pearson"}
    lower_is_better = frozenset()

    def questions(self, example: LabelledText[float]) -> list[ModelQuestion]:
        return [ModelQuestion({"source_sentence": example.text, "sentences": [example.pair or ""]}, {})]

    def prediction(self, answers: Sequence[JSON]) -> float:
        (answer,) = answers
        if not (isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], (int, float))):
            raise answer_error(answer, "one similarity")
        return float(answer[0])

    def closeness(self, predicted: float, target: float) -> float:
        """Compare the similarity with the target as a share of the targets' range."""
        return max(0.0, 1 - abs(predicted - (target - self.lowest) / self.range))

    def measure(self, columns: Columns) -> dict[str, float]:
        measured = super().measure(columns)
        return {name: measured[name] for name in self.metric_titles}
