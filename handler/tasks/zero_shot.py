"""Labels that the request brings, by a model of natural language inference: does the text entail "this is <label>"?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from handler.config import ServingConfig
from handler.errors import InputTooLong, InvalidInput, ModelMismatch
from handler.protocol import JSON, AnswerFormat, json_type
from handler.sequences import EncodingOptions
from handler.tasks.base import Output, Query, SequenceOutput, SequenceTask, alike, softmax
from handler.tasks.parameters import Boolean, Parameter, StringList
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig

PLACE = "{}"  # of the label in a hypothesis


@dataclass(frozen=True, kw_only=True)
class Template(Parameter):
    """A text with a place for a label."""

    def read(self, name: str, value: JSON) -> str:
        if not isinstance(value, str) or PLACE not in value:
            got = "a string without it" if isinstance(value, str) else json_type(value)
            raise InvalidInput(f"{name} must be a string that holds {PLACE}, where a label stands, got {got}")
        return value

    def schema(self) -> dict[str, JSON]:
        return {"type": "string", "pattern": r"\{\}"}


class ZeroShotClassification(SequenceTask):
    """zero-shot-classification."""

    name = "zero-shot-classification"
    operation = "zero-shot"
    auto_classes = ("AutoModelForSequenceClassification",)
    form = AnswerFormat(tensors="ranking")
    golden_items = (
        "The delivery came a day early and everything works.",
        "no",
        "L'écran est rayé, 屏幕坏了, экран разбит: wer hilft mir? 🙂",
        "again and " * 600,
    )
    golden_parameters: ClassVar = {"candidate_labels": ["praise", "a complaint", "屏幕"]}

    def __init__(self, model_config: PretrainedConfig, config: ServingConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model_config, config, tokenizer)
        found = entailment(model_config)
        if found is None:
            raise ModelMismatch(f"no label in config.json starts with entail, which {self.name} needs")
        self.entailment = found
        self.contradiction = -1 if found == 0 else 0  # as transformers' pipeline assumes
        self.parameters = {
            "candidate_labels": StringList(alone="commas", about="required"),
            "hypothesis_template": Template(default=f"This example is {PLACE}."),
            "multi_label": Boolean(default=False, about="whether each label is judged on its own"),
        }
        self.layout = EncodingOptions(
            self.overflow, gives="first"
        )  # the hypothesis is read whole where that leaves room

    @classmethod
    def fits(cls, model_config: PretrainedConfig) -> bool:
        return super().fits(model_config) and entailment(model_config) is not None

    def parse(self, value: JSON, given: Mapping[str, JSON]) -> Query:
        text, options = self.read_item(value), self.read_parameters(given)
        labels, template = options["candidate_labels"], self.read_text(options["hypothesis_template"], "hypothesis")
        if labels is None:
            raise InvalidInput("candidate_labels is missing: give a list of strings or one string with commas")
        labels = self.read_texts(labels, "candidate_labels")
        if len(labels) > self.config.max_texts:
            raise InputTooLong(f"candidate_labels are {len(labels)}, accepted: at most {self.config.max_texts}")
        self.limit_pairs(len(labels) * (len(text) + len(template)) + sum(map(len, labels)))
        # Not str.format: a template such as {0.__class__} would be obeyed.
        pairs = tuple((text, template.replace(PLACE, label)) for label in labels)
        return Query(pairs, {**options, "candidate_labels": labels}, self.layout)

    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        labels: list[str] = query.options["candidate_labels"]
        logits: Output = np.concatenate([window.values for window in windows])  # (candidates, labels of the model)
        if query.options["multi_label"] or len(labels) == 1:
            scores = softmax(logits[:, [self.contradiction, self.entailment]])[:, 1]
        else:
            scores = softmax(logits[:, self.entailment])
        best = np.argsort(-scores, kind="stable")
        return [{"label": labels[index], "score": float(scores[index])} for index in best]

    def agree(self, expected: JSON, answer: JSON, tolerance: float) -> bool:
        """Compare by label: two labels of nearly one score may change places."""
        by_label = [{item["label"]: item["score"] for item in ranked} for ranked in (expected, answer)]
        return alike(by_label[0], by_label[1], tolerance)

    def schema(self) -> dict[str, JSON]:
        ranked = {
            "type": "object",
            "properties": {"label": {"type": "string"}, "score": {"type": "number"}},
            "required": ["label", "score"],
        }
        return {
            "item": self.item_schema(),
            "answer": {"type": "array", "items": ranked},
            "example": "My parcel has not arrived yet.",
            "parameters": {"candidate_labels": ["delivery", "payment", "repair"]},
        }


def entailment(model_config: PretrainedConfig) -> int | None:
    """Return the place of the label that says yes; None: this is no model of natural language inference."""
    labels: dict[Any, str] = dict(model_config.id2label or {})
    return next((index for index, label in labels.items() if str(label).lower().startswith("entail")), None)
