"""One vector for a text, from any model."""

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


class FirstToken(Pooler):
    """The first token of a sequence: BERT's [CLS]."""

    forward_scope = "encoder"

    def token_positions(self, encoding: Encoding) -> Sequence[int]:
        return (0,)

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        return RaggedOutput(batch.tokens(output[0]), batch.counts)


class Mean(Pooler):
    """The mean of all tokens of a sequence, special ones included, as sentence-transformers takes it."""

    forward_scope = "encoder"

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        states = batch.tokens(output[0])  # (total tokens, width), in fp32
        # Nothing here waits for a GPU: of a packed batch the lengths lie there already.
        lengths = batch.varlen.offsets.diff() if batch.varlen else torch.tensor(batch.lengths).to(states.device)
        rows = torch.arange(len(lengths), device=states.device).repeat_interleave(lengths, output_size=len(states))
        sums = states.new_zeros(len(lengths), states.shape[-1]).index_add_(0, rows, states)
        return RaggedOutput(sums / lengths.unsqueeze(-1), (1,) * len(lengths))


# One of each, so that every task that asks for them shares forward passes.
POOLINGS: dict[str, Pooler] = {"mean": Mean(), "cls": FirstToken()}
POOLING = Choice(accepted=tuple(POOLINGS), default="mean", about="mean of all tokens, or the first one")

# What Hugging Face's clients name beside these, and what means no more than null does, "not set".
FOREIGN = {"prompt_name": None, "truncation_direction": None, "encoding_format": "float"}


class FeatureExtraction(Task):
    """feature-extraction."""

    name = "feature-extraction"
    operation = "embed"
    forward_scope = "encoder"
    auto_classes = ("AutoModel",)
    overflows = ("truncate", "window", "refuse")
    form = AnswerFormat(tensors="embedding")
    golden_items = (
        "The delivery came a day early and everything works.",
        "no",
        "L'écran est rayé, 屏幕坏了, экран разбит: wer hilft mir? 🙂",
        "again and " * 600,
    )

    def __init__(self, model_config: PretrainedConfig, config: ServingConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model_config, config, tokenizer)
        self.parameters: dict[str, Parameter] = {
            "pooling": POOLING,
            "normalize": Boolean(default=False, about="whether to scale to length 1"),
            "dimensions": Integer(
                most=model_config.hidden_size, about="the first so many numbers only; all by default"
            ),
            "truncate": Boolean(about="what happens to a long text: true cuts it, false refuses it"),
        }
        self.layout = embedding_layout(self)

    def parse(self, value: JSON, given: Mapping[str, JSON]) -> Query:
        text = self.read_item(value)
        asked = {name: its for name, its in given.items() if name not in FOREIGN or its not in (None, FOREIGN[name])}
        options = self.read_parameters(asked)
        wanted = {None: self.layout.overflow, True: "truncate", False: "refuse"}[options["truncate"]]
        layout = self.layout if wanted == self.layout.overflow else replace(self.layout, overflow=wanted)
        return Query(((text, None),), options, layout, POOLINGS[options["pooling"]])

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        return POOLINGS["mean"].pool(output, batch)

    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        vector = pooled(windows)[: query.options["dimensions"]]
        return (unit(vector) if query.options["normalize"] else vector).tolist()

    def agree(self, expected: JSON, answer: JSON, tolerance: float) -> bool:
        """Compare as points: their distance may be `tolerance` of the expected length. Single numbers may stray."""
        if len(expected) != len(answer):
            return False
        known, found = (np.array(vector, dtype=np.float64) for vector in (expected, answer))
        return bool(np.linalg.norm(found - known) <= tolerance * np.linalg.norm(known))

    def schema(self) -> dict[str, JSON]:
        return {
            "item": self.item_schema(),
            "answer": {"type": "array", "items": {"type": "number"}},
            "example": "My parcel has not arrived yet.",
        }


def embedding_layout(task: Task) -> EncodingOptions:
    """Return how texts are laid out to be embedded: windows share no token, so that each of a text counts once."""
    return EncodingOptions(task.overflow, stride=0)


def pooled(windows: Sequence[SequenceOutput]) -> Output:
    """Return the vector of one text: the mean of its windows' vectors, each counting by its tokens.

    With the pooling `mean`, that is the mean over all tokens of the text, and the special ones of every window.
    """
    if len(windows) == 1:
        vector: Output = windows[0].values[0]
        return vector
    vectors = np.stack([window.values[0] for window in windows])
    mean: Output = np.average(vectors, axis=0, weights=[len(window.encoding) for window in windows]).astype(np.float32)
    return mean


def unit(vector: Output) -> Output:
    """Return a vector of length 1 in its direction.

    >>> unit(np.array([3.0, 4.0], dtype=np.float32))
    array([0.6, 0.8], dtype=float32)
    """
    scaled: Output = vector / max(np.float32(np.linalg.norm(vector)), np.float32(1e-12))
    return scaled
