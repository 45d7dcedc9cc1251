"""Labels of a text or of a pair of texts: single-label, multi-label or regression, by the model's `problem_type`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from handler.batching import Batch
from handler.errors import InvalidInput
from handler.tasks.base import Packed, Query, Row, Task, alike, refuse_unknown
from handler.wire import JSON, kind_of

if TYPE_CHECKING:
    from transformers.utils.generic import ModelOutput


def softmax(logits: Row) -> Row:
    """Return exp(x - max) / sum: probabilities that add up to one.

    >>> softmax(np.array([0.0, 0.0], dtype=np.float32))
    array([0.5, 0.5], dtype=float32)
    """
    exponentials: Row = np.exp(logits - logits.max())
    scores: Row = exponentials / exponentials.sum()
    return scores


def sigmoid(logits: Row) -> Row:
    """Return 1 / (1 + exp(-x)): each label's own probability."""
    scores: Row = np.float32(1) / (np.float32(1) + np.exp(-logits))
    return scores


FUNCTIONS: dict[str, Callable[[Row], Row]] = {"softmax": softmax, "sigmoid": sigmoid, "none": lambda logits: logits}


class SequenceClassification(Task):
    """text-classification."""

    name = "text-classification"
    auto_class = "AutoModelForSequenceClassification"
    first_token_only = True
    nested = True
    golden_items = (
        "The delivery came a day early and everything works.",
        "no",
        {"text": "It stopped charging after a week.", "text_pair": "The battery is broken."},
        "L'écran est rayé, 屏幕坏了, экран разбит: wer hilft mir? 🙂",
        "again and " * 600,
    )
    golden_parameters: ClassVar = {"top_k": None}

    def parse(self, value: JSON, parameters: Mapping[str, JSON]) -> Query:
        if isinstance(value, dict):
            refuse_unknown(value, ("text", "text_pair"), "field")
            text = self.read_text(value.get("text"), "text")
            pair = self.read_text(value["text_pair"], "text_pair") if "text_pair" in value else None
        else:
            text, pair = self.read_text(value, "text"), None
        refuse_unknown(parameters, ("top_k", "function_to_apply"), "parameter")
        top_k = parameters.get("top_k", self.config.top_k)
        if top_k is not None and (type(top_k) is not int or top_k < 1):
            shown = top_k if type(top_k) is int else kind_of(top_k)
            raise InvalidInput(f"top_k must be a whole number of 1 or more, or null for all labels, got {shown}")
        function = parameters.get("function_to_apply")
        function = self.default_function if function is None else function
        if not isinstance(function, str) or function not in FUNCTIONS:
            raise InvalidInput(f"function_to_apply must be one of {', '.join(FUNCTIONS)}")
        return Query(((text, pair),), {"top_k": top_k, "function": function})

    def reduce(self, output: ModelOutput, batch: Batch) -> Packed:
        return Packed(output["logits"], (1,) * len(batch.lengths))

    def decode(self, query: Query, rows: Sequence[Row]) -> JSON:
        scores = FUNCTIONS[query.options["function"]](rows[0][0])
        best = np.argsort(-scores, kind="stable")[: query.options["top_k"]]
        return [{"label": self.labels[i], "score": score} for i, score in zip(best, scores[best].tolist(), strict=True)]

    def agree(self, expected: JSON, answer: JSON, tolerance: float) -> bool:
        """Compare by label: two labels of nearly one score may change places."""
        by_label = [{item["label"]: item["score"] for item in ranked} for ranked in (expected, answer)]
        return alike(by_label[0], by_label[1], tolerance)

    @property
    def default_function(self) -> str:
        """Choose as `transformers`' pipeline does."""
        problem = self.model_config.problem_type
        if problem == "regression":
            return "none"
        multi = problem == "multi_label_classification" or len(self.labels) == 1
        return "sigmoid" if multi else "softmax"

    def schema(self) -> dict[str, JSON]:
        text = {"type": "string", "minLength": 1, "maxLength": self.config.max_characters}
        pair = {
            "type": "object",
            "properties": {"text": text, "text_pair": text},
            "required": ["text"],
            "additionalProperties": False,
        }
        label = {"type": "string", "enum": self.labels}
        ranked = {
            "type": "object",
            "properties": {"label": label, "score": {"type": "number"}},
            "required": ["label", "score"],
        }
        return {
            "item": {"oneOf": [text, pair]},
            "parameters": {
                "top_k": {"type": ["integer", "null"], "minimum": 1, "default": self.config.top_k},
                "function_to_apply": {"type": "string", "enum": list(FUNCTIONS), "default": self.default_function},
            },
            "answer": {"type": "array", "items": ranked},
            "example": "My parcel has not arrived yet.",
        }
