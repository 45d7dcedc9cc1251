"""Predict whether one text continues another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from handler.activations import softmax
from handler.config import ServingConfig
from handler.model_folder import ModelFolder
from handler.protocol import JSON, AnswerFormat
from handler.sequences import EncodingOptions
from handler.tasks.base import SequenceTask
from handler.tasks.fill_mask import pretraining_head
from handler.tasks.queries import Query, SequenceOutput
from handler.tasks.scores import ranking_of, rankings_match
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class NextSentencePrediction(SequenceTask):
    """next-sentence-prediction."""

    name = "next-sentence-prediction"
    operation = "next-sentence"
    auto_classes = ("AutoModelForNextSentencePrediction", "AutoModelForPreTraining")
    output_names = ("seq_relationship_logits", "logits")  # of BertForPreTraining, of BertForNextSentencePrediction
    fields = ("text", "next_sentence")
    answer_format = AnswerFormat(tensors="ranking")
    calibrated_parameters = ("raw", "min_confidence", "coverage")
    self_test_items = (
        {"text": "The parcel was to come on Monday.", "next_sentence": "It has still not arrived."},
        {"text": "The parcel was to come on Monday.", "next_sentence": "Penguins cannot fly."},
        {"text": "L'écran est rayé, 屏幕坏了.", "next_sentence": "экран разбит: wer hilft mir? 🙂"},
        {"text": "again and " * 600, "next_sentence": "no"},
    )

    def __init__(self, model: ModelFolder, config: ServingConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model, config, tokenizer)
        self.labels = ["is_next", "not_next"]  # the order of BERT's pretraining; config.json does not name them
        self.encoding_options = EncodingOptions(self.overflow, fields=("text", "next_sentence"))

    @classmethod
    def auto_class_of(cls, model_config: PretrainedConfig) -> str | None:
        return pretraining_head(super().auto_class_of(model_config), model_config)

    def parse(self, value: JSON, parameters: Mapping[str, JSON]) -> Query:
        fields = self.read_fields(value, *self.fields)
        text, next_sentence = (self.read_text(fields[name], name) for name in fields)
        return Query(((text, next_sentence),), self.read_parameters(parameters), self.encoding_options)

    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        scores = self.calibrated(softmax(windows[0].values[0]), query, "softmax")
        ranked = np.argsort(-scores, kind="stable")
        ranking = [{"label": self.labels[index], "score": float(scores[index])} for index in ranked]
        return self.abstain_from_labels(query, ranking, scores)

    def judgements(self, query: Query, answer: JSON) -> list[tuple[str | None, float]]:
        best = ranking_of(answer)[0]
        return [(best["label"], best["score"])] if self.is_calibrated(query, "softmax") else []

    def answers_match(self, expected: JSON, answer: JSON, tolerance: float) -> bool:
        return rankings_match(expected, answer, tolerance)

    def schema(self) -> dict[str, JSON]:
        text = self.text_schema()
        pair = {
            "type": "object",
            "properties": dict.fromkeys(self.fields, text),
            "required": [*self.fields],
            "additionalProperties": False,
        }
        fields = {"label": {"type": "string", "enum": self.labels}, "score": {"type": "number"}}
        ranked = {"type": "object", "properties": fields, "required": [*fields]}
        return {
            "item": pair,
            "answer": self.answer_schema({"type": "array", "items": ranked}),
            "example": {"text": "My parcel has not arrived.", "next_sentence": "Where is it?"},
        }
