"""Compute a sparse embedding of a text: a weight for each word piece of the vocabulary, as SPLADE models do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from handler.config import ServingConfig
from handler.model_folder import ModelFolder
from handler.protocol import JSON
from handler.sentence_router import INPUT_TYPES
from handler.tasks.base import Task
from handler.tasks.embedding import Embedder, embedding_options
from handler.tasks.feature_extraction import FeatureExtraction
from handler.tasks.parameters import Boolean, Choice, Integer
from handler.tasks.queries import Query, RaggedOutput, SequenceOutput
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from transformers.utils.generic import ModelOutput

    from handler.batching import Batch


class SparseEmbedding(Task):
    """sparse-embedding: of a SparseEncoder's folder, or of any masked language model with the pooling of SPLADE v2."""

    name = "sparse-embedding"
    operation = "embed-sparse"
    hub_task = "feature-extraction"
    auto_classes = ("AutoModelForMaskedLM",)
    overflows = ("truncate", "window", "refuse")
    self_test_items: tuple[JSON, ...] = FeatureExtraction.self_test_items

    def __init__(self, model: ModelFolder, config: ServingConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model, config, tokenizer)
        self.embedder = Embedder(model, tokenizer)
        self.logits_per_token = self.embedder.pooler().logits_per_token
        self.parameters = {
            "top_k": Integer(
                default=self.embedder.modules.n_kept,
                description="word pieces to keep, those of the highest weights; all unless the model's folder says",
            ),
            "return_tokens": Boolean(default=False, description="whether to name the word piece of each index"),
            **self.embedder.prompt_parameters(),
        }
        self.encoding_options = embedding_options(self)
        self.input_types: Choice | None = None
        if self.embedder.modules.table:
            described = "what texts are; an item may have its own; by default as the model's folder says"
            self.input_types = Choice(accepted=INPUT_TYPES, description=described)
            self.parameters["input_type"] = self.input_types
            by_model = next((kind for kind in INPUT_TYPES if kind not in self.embedder.modules.table_inputs), None)
            self.model_parameters = {"input_type": by_model}
            items = FeatureExtraction.self_test_items
            self.self_test_items = (
                *items,
                *({"text": text, "input_type": kind} for kind in INPUT_TYPES for text in items),
            )

    @classmethod
    def supports(cls, model: ModelFolder) -> bool:
        return model.embedding.splade is not None and super().supports(model)

    def parse(self, value: JSON, parameters: Mapping[str, JSON]) -> Query:
        values, input_type = self.read_parameters(parameters), None
        if self.input_types is None:
            text = self.read_item(value)
        else:
            text, own = self.read_typed_item(value, self.input_types)
            input_type = own or values["input_type"]
            values = {**values, "input_type": input_type}
        prompt = self.embedder.prompt(values, input_type)
        text = self.read_text(prompt + text) if prompt else text
        return Query(((text, None),), values, *self.embedder.reading(self.encoding_options, input_type))

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        return self.embedder.pooler().pool(output, batch)

    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        weights = self.embedder.embed(windows, query.parameters.get("input_type"))
        weights = self.embedder.keep(weights, query.parameters["top_k"])
        indices = np.flatnonzero(weights)
        pairs = zip(indices.tolist(), weights[indices].tolist(), strict=True)
        if query.parameters["return_tokens"]:
            return [{"index": i, "token": self.tokenizer.id_to_token(i), "value": weight} for i, weight in pairs]
        return [{"index": i, "value": weight} for i, weight in pairs]

    def answers_match(self, expected: JSON, answer: JSON, tolerance: float) -> bool:
        """Compare as vectors: the norm of the difference may be `tolerance` of the expected norm."""
        vectors = [{entry["index"]: entry["value"] for entry in entries} for entries in (expected, answer)]
        indices = sorted(vectors[0].keys() | vectors[1].keys())
        first, second = (np.array([vector.get(i, 0.0) for i in indices]) for vector in vectors)
        return bool(np.linalg.norm(second - first) <= tolerance * np.linalg.norm(first))

    def schema(self) -> dict[str, JSON]:
        value = {"type": "number", "format": "float"}
        fields = {"index": {"type": "integer"}, "token": {"type": "string"}, "value": value}
        entry = {"type": "object", "properties": fields, "required": ["index", "value"]}
        return {
            "item": self.typed_item_schema(self.input_types) if self.input_types else self.item_schema(),
            "answer": {"type": "array", "items": entry},
            "example": "My parcel has not arrived yet.",
        }
