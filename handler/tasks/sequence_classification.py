"""Classify a text or a pair of texts: single-label, multi-label or regression, by the model's `problem_type`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from handler.activations import sigmoid, softmax
from handler.config import ServingConfig
from handler.errors import InvalidInput
from handler.labels import label_names
from handler.model_folder import ModelFolder
from handler.protocol import JSON, AnswerFormat
from handler.sequences import EncodingOptions
from handler.tasks.base import SequenceTask
from handler.tasks.parameters import Choice, Integer
from handler.tasks.queries import AttributionTarget, Output, Query, SequenceOutput
from handler.tasks.scores import ranking_of, rankings_match
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.utils.generic import ModelOutput

    from handler.batching import Batch

ACTIVATIONS: dict[str, Callable[[Output], Output]] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "none": lambda logits: logits,
}

TORCH_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": lambda logits: logits.sigmoid(),
    "none": lambda logits: logits,
}
MAX_COUNTED_LABELS = 100  # each label is a time series of the metrics


class SequenceClassification(SequenceTask):
    """text-classification."""

    name = "text-classification"
    operation = "classify"
    auto_classes = ("AutoModelForSequenceClassification",)
    overflows = ("truncate", "window", "refuse")
    answer_format = AnswerFormat(nested=True, tensors="ranking")
    calibrated_parameters = ("raw", "min_confidence", "coverage")
    same_scores = ("rerank",)
    self_test_items: tuple[JSON, ...] = (
        "The delivery came a day early and everything works.",
        "no",
        {"text": "It stopped charging after a week.", "text_pair": "The battery is broken."},
        "L'écran est rayé, 屏幕坏了, экран разбит: wer hilft mir? 🙂",
        "again and " * 600,
    )
    self_test_parameters: ClassVar = {"top_k": None}

    def __init__(self, model: ModelFolder, config: ServingConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model, config, tokenizer)
        self.labels = label_names(model.config)
        self.parameters = {
            "top_k": Integer(default=config.top_k, nullable=True, description="null for all labels"),
            "function_to_apply": Choice(accepted=tuple(ACTIVATIONS), default=self.default_function),
        }
        self.encoding_options = EncodingOptions(self.overflow, stride=config.stride)

    @property
    def default_function(self) -> str:
        """The activation of a CrossEncoder's folder, else the one that the pipeline of transformers chooses."""
        if self.model.activation is not None:
            return self.model.activation
        problem_type = self.model_config.problem_type
        if problem_type == "regression":
            return "none"
        return "sigmoid" if self.is_multi_label else "softmax"

    def parse(self, value: JSON, parameters: Mapping[str, JSON]) -> Query:
        return Query((self.read_text_or_pair(value),), self.read_parameters(parameters), self.encoding_options)

    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        function, windows = query.parameters["function_to_apply"], self.read_logits(windows)
        logits = [window.values[0] for window in windows]
        scores, confidence = self.merge(logits, function, windows), None
        if self.is_calibrated(query, function):
            if self.calibration and self.calibration.abstention and query.parameters.get("min_confidence") is not None:
                confidence = float(self.calibration.abstention(scores, self.merge(logits, "none", windows)))
            scores = self.calibrated(sigmoid(scores) if function == "none" else scores, query, function)
        best = np.argsort(-scores, kind="stable")[: query.parameters["top_k"]]
        ranking = [
            {"label": self.labels[i], "score": score} for i, score in zip(best, scores[best].tolist(), strict=True)
        ]
        if not self.is_multi_label:
            return self.abstain_from_labels(query, ranking, scores, confidence)
        return self.abstain_from_each(query, ranking, scores)

    @property
    def is_multi_label(self) -> bool:
        """Whether each label is true or not by itself."""
        return self.model_config.problem_type == "multi_label_classification" or len(self.labels) == 1

    def judgements(self, query: Query, answer: JSON) -> list[tuple[str | None, float]]:
        if not self.is_calibrated(query, query.parameters["function_to_apply"]):
            return []
        best = ranking_of(answer)[0]
        label, score = best["label"], best["score"]
        if len(self.labels) == 1 and score < 0.5:
            label, score = f"not {label}", 1 - score
        return [(label if len(self.labels) <= MAX_COUNTED_LABELS else None, score)]

    def read_logits(self, windows: Sequence[SequenceOutput]) -> Sequence[SequenceOutput]:
        """Return windows whose values are logits (1, labels), from what `pool` gave."""
        return windows

    def logits(self, output: ModelOutput, batch: Batch) -> Tensor:
        """Return the logits (n, labels) of a batch of n sequences; has gradients."""
        logits: Tensor = output["logits"]
        return logits

    def merge(self, logits: list[Output], function: str, windows: Sequence[SequenceOutput]) -> Output:
        """Return the scores (labels,) of a text from the logits (labels,) of its windows.

        mean: the mean of the scores of the windows. max: the maximum for each label; of softmax scores scaled to the
        sum 1. weighted: the scores of the mean logits, windows weighted by their numbers of tokens.
        """
        activation = ACTIVATIONS[function]
        if len(logits) == 1:
            return activation(logits[0])
        if self.config.window_merge == "weighted":
            lengths = [len(window.encoding) for window in windows]
            mean: Output = np.average(logits, axis=0, weights=lengths).astype(np.float32)
            return activation(mean)
        scores = np.stack([activation(window) for window in logits])
        if self.config.window_merge == "mean":
            averaged: Output = scores.mean(0)
            return averaged
        best: Output = scores.max(0)
        return best / best.sum() if function == "softmax" else best

    def attribution_targets(
        self, query: Query, windows: Sequence[SequenceOutput], target: JSON
    ) -> list[AttributionTarget]:
        """Return the score of a label, by default the best one, in the window where it is highest."""
        function, windows = query.parameters["function_to_apply"], self.read_logits(windows)
        scores = np.stack([ACTIVATIONS[function](window.values[0]) for window in windows])
        if target is None:
            target = self.labels[int(self.merge([window.values[0] for window in windows], function, windows).argmax())]
        if target not in self.labels:
            raise InvalidInput(f"target must be one of the labels: {', '.join(self.labels)}")
        label = self.labels.index(target)

        def score(output: ModelOutput, batch: Batch) -> Tensor:
            scored: Tensor = TORCH_ACTIVATIONS[function](self.logits(output, batch))[:, label]
            return scored

        return [AttributionTarget(target, int(scores[:, label].argmax()), score)]

    def top_label(self, answer: JSON) -> tuple[str, float] | None:
        is_counted = len(self.labels) <= MAX_COUNTED_LABELS
        best = ranking_of(answer)[0]
        return (best["label"], best["score"]) if is_counted else None

    def answers_match(self, expected: JSON, answer: JSON, tolerance: float) -> bool:
        return rankings_match(expected, answer, tolerance)

    def schema(self) -> dict[str, JSON]:
        label = {"type": "string", "enum": self.labels}
        ranked = {
            "type": "object",
            "properties": {"label": label, "score": {"type": "number"}, **self.abstained_schema()},
            "required": ["label", "score"],
        }
        return {
            "item": self.item_schema("text_pair"),
            "answer": self.answer_schema({"type": "array", "items": ranked}),
            "example": "My parcel has not arrived yet.",
        }
