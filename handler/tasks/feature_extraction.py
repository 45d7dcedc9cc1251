"""Compute one embedding vector for a text, with any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from handler.batching import Batch
from handler.config import ServingConfig
from handler.protocol import JSON, AnswerFormat
from handler.sequences import Encoding, EncodingOptions
from handler.tasks.base import Output, Pooler, Query, RaggedOutput, SequenceOutput, Task
from handler.tasks.parameters import Boolean, Choice, Integer, Parameter
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.utils.generic import ModelOutput


class ClsPooler(Pooler):
    """Take the output of the first token of a sequence, BERT's [CLS]."""

    forward_scope = "encoder"

    def token_positions(self, encoding: Encoding) -> Sequence[int]:
        return (0,)

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        return RaggedOutput(batch.tokens(output[0]), batch.counts)


class MeanPooler(Pooler):
    """Take the mean over all tokens of a sequence, special ones included, as sentence-transformers does."""

    forward_scope = "encoder"

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        states = batch.tokens(output[0])  # (total tokens, width), in fp32
        # No synchronisation with a GPU: the lengths of an unpadded batch are on the device already.
        lengths = batch.varlen.cu_seqlens.diff() if batch.varlen else torch.tensor(batch.seq_lens).to(states.device)
        rows = torch.arange(len(lengths), device=states.device).repeat_interleave(lengths, output_size=len(states))
        sums = states.new_zeros(len(lengths), states.shape[-1]).index_add_(0, rows, states)
        return RaggedOutput(sums / lengths.unsqueeze(-1), (1,) * len(lengths))


# One instance of each, so that tasks with the same pooling share forward passes.
POOLINGS: dict[str, Pooler] = {"mean": MeanPooler(), "cls": ClsPooler()}
POOLING = Choice(accepted=tuple(POOLINGS), default="mean", description="mean of all tokens, or the first one")

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

    def __init__(self, model_config: PretrainedConfig, config: ServingConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model_config, config, tokenizer)
        self.parameters: dict[str, Parameter] = {
            "pooling": POOLING,
            "normalize": Boolean(default=False, description="whether to scale to length 1"),
            "dimensions": Integer(
                le=model_config.hidden_size, description="the first so many numbers only; all by default"
            ),
            "truncate": Boolean(description="what happens to a long text: true cuts it, false refuses it"),
        }
        self.encoding_options = embedding_options(self)

    def parse(self, value: JSON, parameters: Mapping[str, JSON]) -> Query:
        text = self.read_item(value)
        ignored = {name for name, unset in IGNORED_PARAMETERS.items() if parameters.get(name) in (None, unset)}
        values = self.read_parameters({name: parameters[name] for name in parameters if name not in ignored})
        options = self.encoding_options
        overflow = {None: options.overflow, True: "truncate", False: "refuse"}[values["truncate"]]
        options = options if overflow == options.overflow else replace(options, overflow=overflow)
        return Query(((text, None),), values, options, POOLINGS[values["pooling"]])

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        return POOLINGS["mean"].pool(output, batch)

    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        vector = merge_windows(windows)[: query.parameters["dimensions"]]
        return (normalize(vector) if query.parameters["normalize"] else vector).tolist()

    def answers_match(self, expected: JSON, answer: JSON, tolerance: float) -> bool:
        """Compare as vectors: the norm of the difference may be `tolerance` of the expected norm."""
        if len(expected) != len(answer):
            return False
        vectors = [np.array(vector, dtype=np.float64) for vector in (expected, answer)]
        return bool(np.linalg.norm(vectors[1] - vectors[0]) <= tolerance * np.linalg.norm(vectors[0]))

    def schema(self) -> dict[str, JSON]:
        return {
            "item": self.item_schema(),
            "answer": {"type": "array", "items": {"type": "number"}},
            "example": "My parcel has not arrived yet.",
        }


def embedding_options(task: Task) -> EncodingOptions:
    """Return how texts are encoded for embeddings: windows share no token, so that each token counts once."""
    return EncodingOptions(task.overflow, stride=0)


def merge_windows(windows: Sequence[SequenceOutput]) -> Output:
    """Return the vector of one text: the mean of the vectors of its windows, weighted by their numbers of tokens.

    With the pooling `mean` this is the mean over all tokens of the text and the special tokens of every window.
    """
    if len(windows) == 1:
        vector: Output = windows[0].values[0]
        return vector
    vectors = np.stack([window.values[0] for window in windows])
    mean: Output = np.average(vectors, axis=0, weights=[len(window.encoding) for window in windows]).astype(np.float32)
    return mean


def normalize(vector: Output) -> Output:
    """Scale a vector to length 1.

    >>> normalize(np.array([3.0, 4.0], dtype=np.float32))
    array([0.6, 0.8], dtype=float32)
    """
    scaled: Output = vector / max(np.float32(np.linalg.norm(vector)), np.float32(1e-12))
    return scaled
