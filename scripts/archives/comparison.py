"""Compare the answers of a quantized model with those in fp32, and refuse a model that loses too much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handler.predictor import Predictor
from handler.protocol import JSON
from handler.tasks import Task
from scripts.archives.examples import Example
from scripts.cli.console import ScriptError, say
from scripts.client.predictions import predicted_label

CHUNK = 256  # examples that are answered at once, which bounds the memory
MIN_COSINE = 0.99  # of vectors that count as unchanged


@dataclass(frozen=True)
class Comparison:
    """How a quantized model answers, compared with fp32."""

    n_calibration: int
    n_evaluation: int
    agreement: float  # mean agreement of the answers, 0..1
    n_changed: int  # answers with another prediction
    accuracy: tuple[float, float] | None  # of fp32 and of the quantized model, where labels are known
    precision: str = "int8"

    @property
    def ratio(self) -> float:
        """Accuracy of the quantized model over that in fp32; without labels, the agreement."""
        if self.accuracy is None:
            return self.agreement
        return self.accuracy[1] / self.accuracy[0] if self.accuracy[0] else 0.0

    def lines(self) -> list[str]:
        """Return the lines for the console and the model card."""
        lines = [f"- calibrated on {self.n_calibration} examples, evaluated on {self.n_evaluation} others"]
        if not self.n_calibration:
            lines = [f"- evaluated on {self.n_evaluation} examples"]
        if self.accuracy is not None:
            exact, quantized = self.accuracy
            lines.append(f"- accuracy: fp32 {exact:.4f}, {self.precision} {quantized:.4f} (ratio {self.ratio:.4f})")
        agreement = f"- agreement with fp32: {self.agreement:.4f}"
        return [*lines, f"{agreement}; {self.n_changed} of {self.n_evaluation} predictions change"]

    def require(self, min_accuracy_ratio: float) -> None:
        """Print the result; raises ScriptError below the smallest accepted ratio."""
        say("\n".join(self.lines()))
        if self.ratio < min_accuracy_ratio:
            measure = "accuracy" if self.accuracy else "agreement"
            raise ScriptError(
                f"{self.precision} keeps {self.ratio:.4f} of the {measure} of fp32, less than --min-accuracy-ratio "
                f"{min_accuracy_ratio:g}: give more, and more typical, examples, or pack with --precision bf16"
            )


def compare(exact: Predictor, quantized: Predictor, examples: Sequence[Example], n_calibration: int) -> Comparison:
    """Answer examples in fp32 and quantized."""
    items = [example.item for example in examples]
    expected, answers = (_answers(predictor, items) for predictor in (exact, quantized))
    agreements = [agreement(exact.task, *pair) for pair in zip(expected, answers, strict=True)]
    labels = [example.label for example in examples]
    accuracy = None
    if all(label in exact.task.labels for label in labels):
        accuracy = _accuracy(expected, labels), _accuracy(answers, labels)
    elif exact.task.name == "text-classification" and exact.task.model_config.problem_type != "regression":
        n_unknown = sum(label not in exact.task.labels for label in labels)
        say(
            f"note: accuracy is not compared: {n_unknown} of {len(labels)} examples have no label of the model in the "
            "column label, or that of --label-column"
        )
    limits = [MIN_COSINE if _is_vector(answer) or _is_multi_vector(answer) else 1 for answer in expected]
    n_changed = sum(value < limit for value, limit in zip(agreements, limits, strict=True))
    return Comparison(n_calibration, len(examples), float(np.mean(agreements)), n_changed, accuracy)


def agreement(task: Task, expected: JSON, answer: JSON) -> float:
    """Return 1 for answers with the same prediction, 0 for others; of vectors, sparse ones too, the cosine.

    Of the vectors of tokens it is the mean of their cosines.
    """
    if _is_multi_vector(expected):
        return float(np.mean([agreement(task, *pair) for pair in zip(expected, answer, strict=True)]))
    if _is_vector(expected):
        a, b = _vectors(expected, answer)
        return float(a @ b / max(1e-12, float(np.linalg.norm(a) * np.linalg.norm(b))))
    if task.model_config.problem_type == "regression":
        return float(task.answers_match(expected, answer, 0.05))
    if task.model_config.problem_type == "multi_label_classification":
        assigned = [{scored["label"] for scored in ranked if scored["score"] >= 0.5} for ranked in (expected, answer)]
        return float(assigned[0] == assigned[1])
    return float(predicted_label(expected) == predicted_label(answer))


def _accuracy(answers: Sequence[JSON], labels: Sequence[str | None]) -> float:
    return float(np.mean([predicted_label(answer) == label for answer, label in zip(answers, labels, strict=True)]))


def _answers(predictor: Predictor, items: Sequence[JSON]) -> list[JSON]:
    chunks = (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))
    return [answer for chunk in chunks for answer in predictor.answer_items(chunk, predictor.task.model_parameters)]


def _is_multi_vector(answer: JSON) -> bool:
    return isinstance(answer, list) and bool(answer) and all(map(_is_vector, answer))


def _is_vector(answer: JSON) -> bool:
    if not isinstance(answer, list):
        return False
    is_sparse = bool(answer) and all(isinstance(entry, dict) and {"index", "value"} <= entry.keys() for entry in answer)
    return is_sparse or (len(answer) > 1 and all(isinstance(number, float) for number in answer))


def _vectors(*answers: JSON) -> list[NDArray[np.float64]]:
    """Return answers that are vectors as arrays of one length."""
    if all(isinstance(entry, float) for answer in answers for entry in answer):
        return [np.array(answer) for answer in answers]
    by_index = [{entry["index"]: entry["value"] for entry in answer} for answer in answers]
    indices = sorted({index for weights in by_index for index in weights})
    return [np.array([weights.get(index, 0.0) for index in indices]) for weights in by_index]
