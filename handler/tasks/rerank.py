"""Rank texts by their relevance to a query, with a cross-encoder: a model with one score for a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from handler.config import ServingConfig
from handler.model_folder import ModelFolder
from handler.protocol import JSON
from handler.sequences import EncodingOptions
from handler.tasks.base import SequenceTask
from handler.tasks.parameters import Boolean, Integer
from handler.tasks.queries import Query, SequenceOutput
from handler.tasks.scores import rankings_match, sigmoid
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    pass


class Rerank(SequenceTask):
    """rerank."""

    name = "rerank"
    operation = "rerank"
    hub_task = "text-ranking"
    auto_classes = ("AutoModelForSequenceClassification",)
    fields = ("query", "texts")
    calibrated_parameters = ("raw", "min_confidence")
    same_scores = ("text-classification",)
    self_test_items = (
        {
            "query": "Where is my parcel?",
            "texts": ["It is on its way.", "no", "L'écran est rayé, 屏幕坏了 🙂", "again and " * 600],
        },
    )

    def __init__(self, model: ModelFolder, config: ServingConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model, config, tokenizer)
        self.parameters = {
            "top_k": Integer(description="the best so many; all by default"),
            "raw_scores": Boolean(default=False, description="whether to return logits"),
            "return_text": Boolean(default=False, description="whether to repeat each text"),
        }
        # The query is kept whole if possible.
        self.encoding_options = EncodingOptions(self.overflow, truncation_strategy="only_second", fields=self.fields)

    @classmethod
    def supports(cls, model: ModelFolder) -> bool:
        return super().supports(model) and model.config.num_labels == 1

    def parse(self, value: JSON, parameters: Mapping[str, JSON]) -> Query:
        fields = self.read_fields(value, *self.fields)
        query, texts = self.read_text(fields["query"], "query"), self.read_texts(fields["texts"], "texts")
        self.limit_pairs(sum(map(len, texts)) + len(texts) * len(query))
        return Query(tuple((query, text) for text in texts), self.read_parameters(parameters), self.encoding_options)

    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        logits = np.concatenate([window.values[0] for window in windows])
        best = np.argsort(-logits, kind="stable")[: query.parameters["top_k"]].tolist()
        scores = logits if self._are_logits(query) else sigmoid(logits)
        if self.is_calibrated(query, self._variant(query)):
            scores = self.calibrated(sigmoid(logits), query, self._variant(query))
        ranked = [{"index": index, "score": float(scores[index])} for index in best]
        ranked = [item | self.abstains(query, item["score"]) for item in ranked]
        if query.parameters["return_text"]:
            return [item | {"text": query.texts[item["index"]][1]} for item in ranked]
        return ranked

    def _are_logits(self, query: Query) -> bool:
        return query.parameters["raw_scores"] or self.model.activation == "none"

    def _variant(self, query: Query) -> str:
        """Return the variant of the scores, as text-classification names it; none has that name for `raw_scores`."""
        if query.parameters["raw_scores"]:
            return "raw_scores"
        return "none" if self.model.activation == "none" else "sigmoid"

    def judgements(self, query: Query, answer: JSON) -> list[tuple[str | None, float]]:
        return [(None, answer[0]["score"])] if self.is_calibrated(query, self._variant(query)) else []

    def answers_match(self, expected: JSON, answer: JSON, tolerance: float) -> bool:
        return rankings_match(expected, answer, tolerance, key="index")

    def schema(self) -> dict[str, JSON]:
        text = self.text_schema()
        texts = {"type": "array", "items": text, "minItems": 1, "maxItems": self.config.max_texts}
        fields = {"index": {"type": "integer"}, "score": {"type": "number"}, "text": {"type": "string"}}
        ranked = {
            "type": "object",
            "properties": fields | self.abstained_schema(),
            "required": ["index", "score"],
        }
        return {
            "item": {
                "type": "object",
                "properties": {"query": text, "texts": texts},
                "required": [*self.fields],
                "additionalProperties": False,
            },
            "answer": {"type": "array", "items": ranked},
            "example": {"query": "Where is my parcel?", "texts": ["It is on its way.", "The battery is broken."]},
        }
