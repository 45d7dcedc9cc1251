"""Classify a text by its embedding: a linear layer over the pooled outputs of all tokens, as SetFit trains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from handler.config import ServingConfig
from handler.errors import ConfigError
from handler.model_folder import ModelFolder
from handler.protocol import JSON
from handler.sequences import Encoding, EncodingOptions
from handler.tasks.embedding import Embedder
from handler.tasks.feature_extraction import FeatureExtraction
from handler.tasks.queries import Query, RaggedOutput, SequenceOutput
from handler.tasks.sequence_classification import SequenceClassification
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.utils.generic import ModelOutput

    from handler.batching import Batch


class PooledClassification(SequenceClassification):
    """text-classification, of a folder with a classifier over its embeddings.

    The folder's own prompt stands before each text. Windows of a long text have logits of their own, as with a head.
    """

    forward_scope = "encoder"
    auto_classes = ("AutoModel",)
    self_test_items = FeatureExtraction.self_test_items  # no pairs

    def __init__(self, model: ModelFolder, config: ServingConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model, config, tokenizer)
        self.embedder = Embedder(model, tokenizer)
        self.pooler = self.embedder.pooler(prompt=self.embedder.modules.default_prompt)
        if self.overflow == "window" and self.pooler.n_excluded:
            raise ConfigError(
                "handler.overflow is window, but the Pooling of this folder has include_prompt false: accepted are "
                "truncate and refuse"
            )
        self.encoding_options = EncodingOptions(self.overflow, stride=config.stride)

    def parse(self, value: JSON, parameters: Mapping[str, JSON]) -> Query:
        text, prompt = self.read_item(value), self.embedder.modules.default_prompt
        text = self.read_text(prompt + text) if prompt else text
        return Query(((text, None),), self.read_parameters(parameters), self.encoding_options, self.pooler)

    def token_positions(self, encoding: Encoding) -> Sequence[int] | None:  # type: ignore[override]
        return self.pooler.token_positions(encoding)

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        return self.pooler.pool(output, batch)

    def read_logits(self, windows: Sequence[SequenceOutput]) -> list[SequenceOutput]:
        return [replace(window, values=self.model.embedding.logits(window.values)) for window in windows]

    def logits(self, output: ModelOutput, batch: Batch) -> Tensor:
        pooled: Tensor = self.pool(output, batch).values
        logits: Tensor = self.model.embedding.logits(pooled.float().cpu())
        return logits

    def item_schema(self, *_: str) -> dict[str, JSON]:
        return super().item_schema()
