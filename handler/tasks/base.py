"""The contract between a task and the engine: three verbs.

`parse` turns one question into sequences, `reduce` brings a model's output on the device down to the least that
answers, `decode` turns those values into an answer on the CPU. `parse` and `decode` are pure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from handler.batching import Batch
from handler.config import ServingConfig
from handler.errors import InputTooLong, InvalidInput, ModelMismatch
from handler.tokenization import Text
from handler.wire import JSON, kind_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.utils.generic import ModelOutput

Row: TypeAlias = NDArray[np.float32]  # the values of one encoding: (count, ...) of Packed.values


@dataclass(frozen=True)
class Query:
    """One question, parsed: what to encode, and how to answer."""

    texts: tuple[Text, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Packed:
    """Values end to end; encoding i owns `counts[i]` of them, so one copy to the host serves every task."""

    values: Tensor  # (sum(counts), ...)
    counts: tuple[int, ...]


class Task(ABC):
    """One use of a model."""

    name: ClassVar[str]  # on the wire
    auto_class: ClassVar[str]  # of transformers
    first_token_only: ClassVar[bool] = False  # the head reads nothing but the first token of each sequence
    nested: ClassVar[bool] = False  # Hugging Face clients expect the answer of one text inside a list
    golden_items: ClassVar[tuple[JSON, ...]]  # questions that reach every branch of the task
    golden_parameters: ClassVar[dict[str, JSON]] = {}

    def __init__(self, model_config: PretrainedConfig, config: ServingConfig) -> None:
        self.model_config = model_config
        self.config = config
        labels: dict[Any, str] = dict(model_config.id2label or {})
        if sorted(labels) != list(range(len(labels))):
            raise ModelMismatch("id2label in config.json does not number the labels from 0 without gaps")
        self.labels: list[str] = [str(labels[index]) for index in range(len(labels))]

    @abstractmethod
    def parse(self, value: JSON, parameters: Mapping[str, JSON]) -> Query:
        """Turn one item of a question into a query.

        Raises:
            InvalidInput: not a question of this task, or an unknown parameter.
            InputTooLong: more characters than the operator allows.
        """

    @abstractmethod
    def reduce(self, output: ModelOutput, batch: Batch) -> Packed:
        """Bring a model's output down to the least that answers, on the device."""

    @abstractmethod
    def decode(self, query: Query, rows: Sequence[Row]) -> JSON:
        """Turn the values of a query's encodings into its answer."""

    def agree(self, expected: JSON, answer: JSON, tolerance: float) -> bool:
        """Tell whether two answers to one question are the same up to `tolerance` on every number."""
        return alike(expected, answer, tolerance)

    @abstractmethod
    def schema(self) -> dict[str, JSON]:
        """Describe item, parameters and answer as JSON Schemas, with an example of an item, for OpenAPI."""

    def read_text(self, value: JSON, name: str) -> str:
        """Return a text that can be tokenised, or raise what is wrong with it."""
        if not isinstance(value, str):
            raise InvalidInput(f"{name} must be a string, got {kind_of(value)}")
        if not value.strip():
            raise InvalidInput(f"{name} is empty")
        if len(value) > self.config.max_characters:
            raise InputTooLong(f"{name} has {len(value)} characters, accepted: at most {self.config.max_characters}")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidInput(f"{name} holds half of a surrogate pair, which is no character")
        return value


def alike(expected: JSON, answer: JSON, tolerance: float) -> bool:
    """Compare two JSON values; numbers may differ by `tolerance`, those beyond 1 by that part of their size.

    >>> alike({"score": [0.5]}, {"score": [0.51]}, 0.02), alike([1.0], [1.0, 2.0], 0.1)
    (True, False)
    """
    if isinstance(expected, dict) and isinstance(answer, dict):
        same_keys = expected.keys() == answer.keys()
        return same_keys and all(alike(expected[key], answer[key], tolerance) for key in expected)
    if isinstance(expected, list) and isinstance(answer, list):
        return len(expected) == len(answer) and all(
            alike(*pair, tolerance) for pair in zip(expected, answer, strict=True)
        )
    if isinstance(expected, float) and isinstance(answer, float):
        return abs(expected - answer) <= tolerance * max(1.0, abs(expected))
    return bool(expected == answer)


def refuse_unknown(given: Mapping[str, JSON], accepted: Sequence[str], what: str) -> None:
    """Refuse a key that nobody would obey; its name is not repeated, for it may be a user's text."""
    if any(key not in accepted for key in given):
        said = ", ".join(accepted) if accepted else "none"
        raise InvalidInput(f"unknown {what}, accepted: {said}")
