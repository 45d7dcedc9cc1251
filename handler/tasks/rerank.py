"""Rank texts by their relevance to a query, with a cross-encoder: a model with one score for a pair of texts.

`handler.tasks.late_interaction` has the same form of question and answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from handler.activations import sigmoid
from handler.config import ServingConfig
from handler.model_folder import ModelFolder
from handler.protocol import JSON
from handler.sequences import EncodingOptions
from handler.tasks.base import SequenceTask, Task
from handler.tasks.parameters import Boolean, Integer
from handler.tasks.queries import Query, SequenceOutput
from handler.tasks.scores import rankings_match
from handler.tokenization import Tokenizer


class RankingTask(Task):
    """A question of a query and texts, and its answer: the texts by their scores."""

    name = "rerank"
    operation = "rerank"
    hub_task = "text-ranking"
    fields = ("query", "texts")
    self_test_items = (
        {
            "query": "Where is my parcel?",
            "texts": ["It is on its way.", "no", "L'écran est rayé, 屏幕坏了 🙂", "again and " * 600],
        },
    )

    def read_ranking(self, value: JSON) -> tuple[str, list[str]]:
        """Return the query and the texts of an item; raises RequestError."""
        fields = self.read_fields(value, *self.fields)
        return self.read_text(fields["query"], "query"), self.read_texts(fields["texts"], "texts")

    def ranked(
        self, query: Query, order: NDArray[np.floating], scores: NDArray[np.floating], texts: Sequence[str]
    ) -> list[JSON]:
        """Return the answer.

        Args:
            query: with the parameters top_k and return_text.
            order: numbers by which the texts are sorted, the largest first.
            scores: of the texts.
            texts: of the question.
        """
        best = np.argsort(-order, kind="stable")[: query.parameters["top_k"]].tolist()
        ranked = [{"index": index, "score": float(scores[index])} for index in best]
        ranked = [item | self.abstains(query, item["score"]) for item in ranked]
        if query.parameters["return_text"]:
            return [item | {"text": texts[item["index"]]} for item in ranked]
        return ranked

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


class Rerank(RankingTask, SequenceTask):
    """rerank."""

    auto_classes = ("AutoModelForSequenceClassification",)
    calibrated_parameters = ("raw", "min_confidence")
    same_scores = ("text-classification",)

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
        query, texts = self.read_ranking(value)
        self.limit_pairs(sum(map(len, texts)) + len(texts) * len(query))
        return Query(tuple((query, text) for text in texts), self.read_parameters(parameters), self.encoding_options)

    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        logits = np.concatenate([window.values[0] for window in windows])
        scores = logits if self._are_logits(query) else sigmoid(logits)
        if self.is_calibrated(query, self._variant(query)):
            scores = self.calibrated(sigmoid(logits), query, self._variant(query))
        return self.ranked(query, logits, scores, [text or "" for _, text in query.texts])

    def _are_logits(self, query: Query) -> bool:
        return query.parameters["raw_scores"] or self.model.activation == "none"

    def _variant(self, query: Query) -> str:
        """Return the variant of the scores, as text-classification names it; none has that name for `raw_scores`."""
        if query.parameters["raw_scores"]:
            return "raw_scores"
        return "none" if self.model.activation == "none" else "sigmoid"

    def judgements(self, query: Query, answer: JSON) -> list[tuple[str | None, float]]:
        return [(None, answer[0]["score"])] if self.is_calibrated(query, self._variant(query)) else []
