"""Classify with labels of the request, by a model that judges whether the text entails "this is LABEL"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from handler.activations import softmax
from handler.config import ServingConfig
from handler.errors import InputTooLong, InvalidInput, ModelMismatch
from handler.model_folder import ModelFolder
from handler.protocol import JSON, AnswerFormat, json_type
from handler.sequences import EncodingOptions
from handler.tasks.base import SequenceTask
from handler.tasks.parameters import Boolean, Parameter, StringList
from handler.tasks.queries import Output, Query, SequenceOutput
from handler.tasks.scores import ranking_of, rankings_match
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig

PLACEHOLDER = "{}"  # in a hypothesis template


@dataclass(frozen=True, kw_only=True)
class HypothesisTemplate(Parameter):
    """A text with a placeholder for a label."""

    def read(self, name: str, value: JSON) -> str:
        if not isinstance(value, str) or PLACEHOLDER not in value:
            got = "a string without it" if isinstance(value, str) else json_type(value)
            raise InvalidInput(f"{name} must be a string that holds {PLACEHOLDER}, where a label stands, got {got}")
        return value

    def schema(self) -> dict[str, JSON]:
        return {"type": "string", "pattern": r"\{\}"}


class ZeroShotClassification(SequenceTask):
    """zero-shot-classification."""

    name = "zero-shot-classification"
    operation = "zero-shot"
    auto_classes = ("AutoModelForSequenceClassification",)
    answer_format = AnswerFormat(tensors="ranking")
    calibrated_parameters = ("raw", "min_confidence")
    self_test_items = (
        "The delivery came a day early and everything works.",
        "no",
        "L'écran est rayé, 屏幕坏了, экран разбит: wer hilft mir? 🙂",
        "again and " * 600,
    )
    self_test_parameters: ClassVar = {"candidate_labels": ["praise", "a complaint", "屏幕"]}

    def __init__(self, model: ModelFolder, config: ServingConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model, config, tokenizer)
        entailment = entailment_index(model.config)
        if entailment is None:
            raise ModelMismatch(f"no label in config.json starts with entail, which {self.name} needs")
        self.entailment = entailment
        self.contradiction = -1 if entailment == 0 else 0  # as transformers' pipeline assumes
        self.parameters = {
            "candidate_labels": StringList(string="commas", description="required"),
            "hypothesis_template": HypothesisTemplate(default=f"This example is {PLACEHOLDER}."),
            "multi_label": Boolean(default=False, description="whether each label is judged on its own"),
        }
        # The hypothesis is kept whole if possible.
        self.encoding_options = EncodingOptions(self.overflow, truncation_strategy="only_first")

    @classmethod
    def supports(cls, model: ModelFolder) -> bool:
        return super().supports(model) and entailment_index(model.config) is not None

    def parse(self, value: JSON, parameters: Mapping[str, JSON]) -> Query:
        text, values = self.read_item(value), self.read_parameters(parameters)
        labels, template = values["candidate_labels"], self.read_text(values["hypothesis_template"], "hypothesis")
        if labels is None:
            raise InvalidInput("candidate_labels is missing: give a list of strings or one string with commas")
        labels = self.read_texts(labels, "candidate_labels")
        if len(labels) > self.config.max_texts:
            raise InputTooLong(f"candidate_labels are {len(labels)}, accepted: at most {self.config.max_texts}")
        n_repeats = template.count(PLACEHOLDER)  # each may hold a label of any length
        self.limit_pairs(len(labels) * (len(text) + len(template)) + n_repeats * sum(map(len, labels)))
        # Not str.format, which would evaluate a template such as {0.__class__}.
        pairs = tuple((text, template.replace(PLACEHOLDER, label)) for label in labels)
        return Query(pairs, {**values, "candidate_labels": labels}, self.encoding_options)

    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        labels: list[str] = query.parameters["candidate_labels"]
        logits: Output = np.concatenate([window.values for window in windows])  # (candidates, labels of the model)
        by_itself = query.parameters["multi_label"] or len(labels) == 1
        if by_itself:
            scores = softmax(logits[:, [self.contradiction, self.entailment]])[:, 1]
        else:
            scores = softmax(logits[:, self.entailment])
        served = self.calibrated(scores, query, "multi_label" if by_itself else "softmax")
        best = np.argsort(-scores, kind="stable")
        ranking = [{"label": labels[index], "score": float(served[index])} for index in best]
        judge = self.abstain_from_each if by_itself else self.abstain_from_labels
        return judge(query, ranking, served)

    def judgements(self, query: Query, answer: JSON) -> list[tuple[str | None, float]]:
        by_itself = query.parameters["multi_label"] or len(query.parameters["candidate_labels"]) == 1
        is_calibrated = self.is_calibrated(query, "multi_label" if by_itself else "softmax")
        return [(None, ranking_of(answer)[0]["score"])] if is_calibrated else []

    def answers_match(self, expected: JSON, answer: JSON, tolerance: float) -> bool:
        return rankings_match(expected, answer, tolerance)

    def schema(self) -> dict[str, JSON]:
        ranked = {
            "type": "object",
            "properties": {"label": {"type": "string"}, "score": {"type": "number"}, **self.abstained_schema()},
            "required": ["label", "score"],
        }
        return {
            "item": self.item_schema(),
            "answer": self.answer_schema({"type": "array", "items": ranked}),
            "example": "My parcel has not arrived yet.",
            "parameters": {"candidate_labels": ["delivery", "payment", "repair"]},
        }


def entailment_index(model_config: PretrainedConfig) -> int | None:
    """Return the index of the entailment label; None where a model has none and is not for inference."""
    labels: dict[Any, str] = dict(model_config.id2label or {})
    return next((index for index, label in labels.items() if str(label).lower().startswith("entail")), None)
