"""The contract between a task and the engine: three verbs.

`parse` turns one question into texts, `reduce` brings a model's output on the device down to the least that answers,
`decode` turns those values into an answer on the CPU. `parse` and `decode` are pure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from handler.batching import Batch
from handler.config import Overflow, ServingConfig
from handler.errors import InputTooLong, InvalidInput, ModelMismatch, UnknownOperation
from handler.protocol import JSON, AnswerFormat, json_type
from handler.sequences import Encoding, EncodingOptions, Text
from handler.tasks import parameters
from handler.tasks.parameters import Parameter
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.utils.generic import ModelOutput

REPEATED = 10  # times max_characters: all that the pairs of one question may come to

Output: TypeAlias = NDArray[np.float32]  # the values of one encoding: (count, ...) of Packed.values


@dataclass(frozen=True)
class Query:
    """One question, parsed: what to encode, how to lay it out, and how to answer."""

    texts: tuple[Text, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    layout: EncodingOptions = field(default_factory=EncodingOptions)
    pooler: Pooler | None = (
        None  # how it is computed, by default as the task says; queries of one use share a forward pass
    )


@dataclass(frozen=True)
class SequenceOutput:
    """One computed sequence of a query: which of its texts it shows, its tokens, and its values."""

    text: int
    encoding: Encoding
    values: Output


@dataclass(frozen=True)
class RaggedOutput:
    """Values end to end; encoding i owns `counts[i]` of them, so one copy to the host serves every task."""

    values: Tensor  # (sum(counts), ...)
    counts: tuple[int, ...]


@dataclass(frozen=True)
class AttributionTarget:
    """What an explanation explains: one score of one window."""

    label: str
    window: int  # its index among the windows of the query
    score: Callable[[ModelOutput, Batch], Tensor]  # of a batch of n copies of the window, differentiable: (n,)


class Pooler(ABC):
    """What the engine needs to know of a task."""

    forward_scope: ClassVar[Literal["head", "encoder", "nothing"]] = (
        "head"  # the whole model, all but its head, or no model
    )

    def token_positions(self, encoding: Encoding) -> Sequence[int] | None:
        """Return the places of the tokens that are read behind the encoder, one at least; None: all of them."""
        return None

    @abstractmethod
    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        """Bring a model's output down to the least that answers, on the device."""


class Task(Pooler):
    """One use of a model. A new one is a subclass in a file of its own and a line in the registry."""

    name: ClassVar[str]  # on the wire
    operation: ClassVar[str]  # in the path, for a model whose main task is another
    auto_classes: ClassVar[tuple[str, ...]] = ()  # of transformers: those that load a model with the head it reads
    overflows: ClassVar[tuple[Overflow, ...]] = ("truncate", "refuse")  # what it can do with a long text; default first
    fields: ClassVar[tuple[str, str]] = ("text", "text_pair")  # of an item that is a pair of texts
    form: ClassVar[AnswerFormat] = AnswerFormat()  # of answers, where a dialect leaves a choice
    golden_items: tuple[JSON, ...]  # questions that reach every branch of the task
    golden_parameters: ClassVar[dict[str, JSON]] = {}

    def __init__(self, model_config: PretrainedConfig, config: ServingConfig, tokenizer: Tokenizer) -> None:
        self.model_config = model_config
        self.config = config
        self.tokenizer = tokenizer
        self.overflow = config.overflow if config.overflow in self.overflows else self.overflows[0]
        self.labels: list[str] = []
        self.parameters: dict[str, Parameter] = {}

    @classmethod
    def head_of(cls, model_config: PretrainedConfig) -> str | None:
        """Return the class of transformers that loads this model with the head the task reads; None: it has another."""
        for auto_class in cls.auto_classes:
            head = auto_class.removeprefix("AutoModel") or "Model"  # e.g. ForSequenceClassification
            if any(architecture.endswith(head) for architecture in model_config.architectures or []):
                return auto_class
        return None

    @classmethod
    def fits(cls, model_config: PretrainedConfig) -> bool:
        """Tell whether a model can be used so: by its head, where the task reads one, or e.g. by its labels."""
        return cls.forward_scope != "head" or cls.head_of(model_config) is not None

    @abstractmethod
    def parse(self, value: JSON, given: Mapping[str, JSON]) -> Query:
        """Turn one item of a question and the parameters given with it into a query.

        Raises:
            InvalidInput: not a question of this task, or an unknown parameter.
            InputTooLong: more characters than the operator allows.
        """

    @abstractmethod
    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        """Turn the values of a query's windows into its answer; a text that was not windowed has one window."""

    def attribution_targets(
        self, query: Query, windows: Sequence[SequenceOutput], target: JSON
    ) -> list[AttributionTarget]:
        """Choose the scores that an explanation explains: those of `target`, by default of the answer.

        Raises:
            InvalidInput: a target that the answer does not have.
            UnknownOperation: answers of this task are not explained.
        """
        raise UnknownOperation(f"{self.name} has no explanations")

    @property
    def explains(self) -> bool:
        """Whether its answers can be explained."""
        return type(self).attribution_targets is not Task.attribution_targets

    def leading(self, answer: JSON) -> tuple[str, float] | None:
        """Return the label that a client would act on, and its score, whose shares tell when texts begin to differ."""
        return None

    def agree(self, expected: JSON, answer: JSON, tolerance: float) -> bool:
        """Tell whether two answers to one question are the same up to `tolerance` on every number."""
        return alike(expected, answer, tolerance)

    @abstractmethod
    def schema(self) -> dict[str, JSON]:
        """Describe "item" and "answer" as JSON Schemas, with an "example" of an item, for OpenAPI."""

    def read_parameters(self, given: Mapping[str, JSON]) -> dict[str, Any]:
        """Return every parameter of the task, given or by default; raises InvalidInput."""
        return parameters.read(self.parameters, given)

    def read_fields(self, value: JSON, *names: str) -> dict[str, JSON]:
        """Return the fields of an item that must be an object of exactly these; raises InvalidInput."""
        if not isinstance(value, dict):
            raise InvalidInput(f"a question must be an object with {' and '.join(names)}, got {json_type(value)}")
        parameters.refuse_unknown(value, names, "field")
        return {name: value.get(name) for name in names}

    def read_item(self, value: JSON) -> str:
        """Return the text of an item that is one, or an object of that alone; raises what is wrong with it."""
        return self.read_text(self.read_fields(value, "text")["text"] if isinstance(value, dict) else value)

    def read_text_or_pair(self, value: JSON) -> Text:
        """Return an item that is a text, or an object with one and perhaps a `text_pair`; raises what is wrong."""
        if not isinstance(value, dict):
            return self.read_text(value), None
        fields = self.read_fields(value, "text", "text_pair")
        pair = self.read_text(fields["text_pair"], "text_pair") if "text_pair" in value else None
        return self.read_text(fields["text"]), pair

    def limit_pairs(self, characters: int) -> None:
        """Refuse a question whose pairs repeat a text until there are too many characters; raises InputTooLong."""
        most = REPEATED * self.config.max_characters
        if characters > most:
            raise InputTooLong(f"the pairs of a question have {characters} characters, accepted: at most {most}")

    def read_text(self, value: JSON, name: str = "text") -> str:
        """Return a text that can be tokenised, or raise what is wrong with it."""
        if not isinstance(value, str):
            raise InvalidInput(f"{name} must be a string, got {json_type(value)}")
        if not value.strip():
            raise InvalidInput(f"{name} is empty")
        if len(value) > self.config.max_characters:
            raise InputTooLong(f"{name} has {len(value)} characters, accepted: at most {self.config.max_characters}")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidInput(f"{name} holds half of a surrogate pair, which is no character")
        return value

    def read_texts(self, value: JSON, name: str) -> list[str]:
        """Return a list of texts; one alone is a list of one. Raises what is wrong with it."""
        if isinstance(value, str):
            return [self.read_text(value, name)]
        if not isinstance(value, list) or not value:
            raise InvalidInput(f"{name} must be a list of strings, got {'none' if value == [] else json_type(value)}")
        return [self.read_text(text, f"{name}[{index}]") for index, text in enumerate(value)]

    def text_schema(self) -> dict[str, JSON]:
        """Describe a text as a JSON Schema."""
        return {"type": "string", "minLength": 1, "maxLength": self.config.max_characters, "pattern": r"\S"}

    def item_schema(self, *more: str) -> dict[str, JSON]:
        """Describe an item that is a text, or an object with `text` and perhaps `more` of them, as a JSON Schema."""
        text = self.text_schema()
        fields = {"type": "object", "properties": dict.fromkeys(("text", *more), text), "required": ["text"]}
        return {"oneOf": [text, {**fields, "additionalProperties": False}]}


class SequenceTask(Task):
    """A task whose head says something of each sequence as a whole, which it reads off the first token."""

    output: ClassVar[tuple[str, ...]] = ("logits",)  # what the head calls it: the first of these that there is

    def token_positions(self, encoding: Encoding) -> Sequence[int]:
        return (0,)

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        name = next(name for name in self.output if name in output)
        return RaggedOutput(output[name], (1,) * len(batch.lengths))


def locate(windows: Sequence[SequenceOutput], at: int) -> tuple[int, int]:
    """Return window and place in it of a token, given its place in the windows laid end to end."""
    for index, window in enumerate(windows):
        if at < len(window.encoding):
            return index, at
        at -= len(window.encoding)
    raise IndexError(at)


def labels_of(model_config: PretrainedConfig) -> list[str]:
    """Return the names of a model's labels, in their order; raises ModelMismatch where there are gaps."""
    labels: dict[Any, str] = dict(model_config.id2label or {})
    if sorted(labels) != list(range(len(labels))):
        raise ModelMismatch("id2label in config.json does not number the labels from 0 without gaps")
    return [str(labels[index]) for index in range(len(labels))]


def softmax(logits: Output) -> Output:
    """Return exp(x - max) / sum over the last axis: probabilities that add up to one.

    >>> softmax(np.array([0.0, 0.0], dtype=np.float32))
    array([0.5, 0.5], dtype=float32)
    """
    exponentials: Output = np.exp(logits - logits.max(-1, keepdims=True))
    scores: Output = exponentials / exponentials.sum(-1, keepdims=True)
    return scores


def sigmoid(logits: Output) -> Output:
    """Return 1 / (1 + exp(-x)): each label's own probability."""
    scores: Output = np.float32(1) / (np.float32(1) + np.exp(-logits))
    return scores


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
