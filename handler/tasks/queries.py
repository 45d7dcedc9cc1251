"""What a task and the engine exchange: parsed questions, pooled values, and the targets of explanations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from handler.arrays import Array
from handler.sequences import Encoding, EncodingOptions, Text

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.utils.generic import ModelOutput

    from handler.batching import Batch

Output: TypeAlias = NDArray[np.float32]  # the values of one encoding: (count, ...) of RaggedOutput.values


@dataclass(frozen=True)
class Query:
    """One parsed item: the texts to encode, and how to encode, compute and answer them."""

    texts: tuple[Text, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)  # every parameter of the task
    encoding_options: EncodingOptions = field(default_factory=EncodingOptions)
    pooler: Pooler | None = None  # the task itself by default; queries with the same pooler share a forward pass
    first: tuple[EncodingOptions, Pooler] | None = None  # of the first text, where it is read unlike the others

    def options_of(self, text: int) -> EncodingOptions:
        """Return how a text, by its index, is encoded."""
        return self.first[0] if self.first and text == 0 else self.encoding_options

    def pooler_of(self, text: int) -> Pooler | None:
        """Return what a text, by its index, is computed for; None: for the task itself."""
        return self.first[1] if self.first and text == 0 else self.pooler


@dataclass(frozen=True)
class SequenceOutput:
    """The values of one sequence of a query."""

    text_index: int  # among the texts of the query
    encoding: Encoding
    values: Output


@dataclass(frozen=True)
class RaggedOutput:
    """The values of all encodings, concatenated, so that one copy to the host serves every task."""

    values: Array  # (sum(counts), ...), of the kind that the model's output is
    counts: tuple[int, ...]  # of each encoding


@dataclass(frozen=True)
class AttributionTarget:
    """The score that an explanation attributes to tokens: one score of one window."""

    label: str
    window: int  # index among the windows of the query
    score: Callable[[ModelOutput, Batch], Tensor]  # differentiable; (n,) for a batch of n copies of the window


class Pooler(ABC):
    """The part of a task that the engine runs."""

    # What the forward pass computes: the whole model, the model without its head, or nothing at all.
    forward_scope: ClassVar[Literal["head", "encoder", "nothing"]] = "head"

    # Numbers that the head computes of each token; a batch has fewer tokens where they are many.
    logits_per_token: int = 0

    def token_positions(self, encoding: Encoding) -> Sequence[int] | None:
        """Return the indices of the tokens whose encoder output is needed, at least one; None for all of them."""
        return None

    @abstractmethod
    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        """Reduce a model's output, on the device, to the values that `decode` needs."""


def locate_token(windows: Sequence[SequenceOutput], index: int) -> tuple[int, int]:
    """Return the window of a token and its index there, from its index in the concatenation of all windows."""
    for window_index, window in enumerate(windows):
        if index < len(window.encoding):
            return window_index, index
        index -= len(window.encoding)
    raise IndexError(index)
