"""Return the tokens of a text as the model reads them; no model is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from handler.config import ServingConfig
from handler.model_folder import ModelFolder
from handler.protocol import JSON
from handler.sequences import EncodingOptions, TokenSpans
from handler.tasks.base import Task
from handler.tasks.queries import Query, RaggedOutput, SequenceOutput
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from transformers.utils.generic import ModelOutput

    from handler.batching import Batch


class Tokenize(Task):
    """tokenize: the tokens of a text, or a pair, as far as one sequence holds it."""

    name = "tokenize"
    operation = "tokenize"
    forward_scope = "nothing"
    self_test_items = (
        "It works.",
        {"text": "L'écran est rayé, 屏幕坏了.", "text_pair": "экран разбит: wer hilft mir? 🙂"},
        "again and " * 600,
    )

    def __init__(self, model: ModelFolder, config: ServingConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model, config, tokenizer)
        self.encoding_options = EncodingOptions(self.overflow, return_spans=True)

    def parse(self, value: JSON, parameters: Mapping[str, JSON]) -> Query:
        return Query((self.read_text_or_pair(value),), self.read_parameters(parameters), self.encoding_options)

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        return RaggedOutput(np.empty(0, np.float32), (0,) * len(batch.seq_lens))

    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        encoding = windows[0].encoding
        spans = encoding.spans or TokenSpans([], [], [], [])
        pairs = zip(spans.sequence_ids, spans.offsets, strict=True)
        return {
            "tokens": [self.tokenizer.id_to_token(token) for token in encoding.ids],
            "ids": encoding.ids,
            "offsets": [None if sequence_id is None else list(offsets) for sequence_id, offsets in pairs],
            "sequence_ids": spans.sequence_ids,
            "n_tokens": len(encoding),
            "n_truncated": encoding.n_truncated,
        }

    def schema(self) -> dict[str, JSON]:
        count = {"type": "integer", "minimum": 0}
        offsets = {"type": ["array", "null"], "items": count, "description": "start and end in its text, in characters"}
        sequence_id = {"type": ["integer", "null"], "description": "0: the text, 1: the pair; null: a special token"}
        fields = {
            "tokens": {"type": "array", "items": {"type": "string"}},
            "ids": {"type": "array", "items": count},
            "offsets": {"type": "array", "items": offsets},
            "sequence_ids": {"type": "array", "items": sequence_id},
            "n_tokens": count,
            "n_truncated": {**count, "description": "tokens that the model would not see"},
        }
        return {
            "item": self.item_schema("text_pair"),
            "answer": {"type": "object", "properties": fields, "required": [*fields]},
            "example": "My parcel has not arrived yet.",
        }
