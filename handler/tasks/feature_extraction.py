"""Compute one embedding vector for a text, with any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from handler.config import ServingConfig
from handler.model_folder import ModelFolder
from handler.protocol import JSON, AnswerFormat
from handler.sentence_layers import normalize
from handler.sequences import Encoding
from handler.tasks.base import Task
from handler.tasks.embedding import Embedder, embedding_options
from handler.tasks.parameters import Boolean, Integer
from handler.tasks.queries import Query, RaggedOutput, SequenceOutput
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from transformers.utils.generic import ModelOutput

    from handler.batching import Batch

# Parameters that Hugging Face's clients send too, each with the value that means the same as null, "not set".
IGNORED_PARAMETERS = {"prompt_name": None, "truncation_direction": None, "encoding_format": "float"}


class FeatureExtraction(Task):
    """feature-extraction."""

    name = "feature-extraction"
    operation = "embed"
    forward_scope = "encoder"
    auto_classes = ("AutoModel",)
    overflows = ("truncate", "window", "refuse")
    answer_format = AnswerFormat(tensors="embedding")
    self_test_items = (
        "The delivery came a day early and everything works.",
        "no",
        "L'écran est rayé, 屏幕坏了, экран разбит: wer hilft mir? 🙂",
        "again and " * 600,
    )

    def __init__(self, model: ModelFolder, config: ServingConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model, config, tokenizer)
        self.embedder = Embedder(model, tokenizer)
        n_kept, width = self.embedder.modules.n_kept, self.embedder.width
        self.parameters = self.embedder.parameters(
            normalize=Boolean(default=False, description="whether to scale to length 1"),
            dimensions=Integer(
                default=n_kept and min(n_kept, width),
                le=width,
                description="the first so many numbers only; all unless the model's folder says",
            ),
            truncate=Boolean(description="what happens to a long text: true cuts it, false refuses it"),
        )
        self.encoding_options = embedding_options(self)

    @classmethod
    def supports(cls, model: ModelFolder) -> bool:
        return model.embedding.splade is None and model.embedding.late is None

    def parse(self, value: JSON, parameters: Mapping[str, JSON]) -> Query:
        text = self.read_item(value)
        ignored = {name for name, unset in IGNORED_PARAMETERS.items() if parameters.get(name) in (None, unset)}
        values = self.read_parameters({name: parameters[name] for name in parameters if name not in ignored})
        options = self.encoding_options
        overflow = {None: options.overflow, True: "truncate", False: "refuse"}[values["truncate"]]
        options = options if overflow == options.overflow else replace(options, overflow=overflow)
        prompt = self.embedder.prompt(values)
        text = self.read_text(prompt + text) if prompt else text
        return Query(((text, None),), values, options, self.embedder.pooler(values, prompt))

    def token_positions(self, encoding: Encoding) -> Sequence[int] | None:
        return self.embedder.pooler().token_positions(encoding)

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        return self.embedder.pooler().pool(output, batch)

    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        vector = self.embedder.keep(self.embedder.embed(windows), query.parameters["dimensions"])
        return normalize(vector) if query.parameters["normalize"] else vector

    def answers_match(self, expected: JSON, answer: JSON, tolerance: float) -> bool:
        """Compare as vectors: the norm of the difference may be `tolerance` of the expected norm."""
        if len(expected) != len(answer):
            return False
        vectors = [np.array(vector, dtype=np.float64) for vector in (expected, answer)]
        return bool(np.linalg.norm(vectors[1] - vectors[0]) <= tolerance * np.linalg.norm(vectors[0]))

    def schema(self) -> dict[str, JSON]:
        return {
            "item": self.item_schema(),
            "answer": {"type": "array", "items": {"type": "number", "format": "float"}},
            "example": "My parcel has not arrived yet.",
        }
