"""The interface between a task and the engine: three verbs.

`parse` turns one item of a request into texts, `pool` reduces a model's output on the device to the values that the
answer needs, `decode` turns those values into an answer on the CPU. `parse` and `decode` are pure.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from handler.batching import Batch
from handler.confidence import ScoreCalibration
from handler.config import Overflow, ServingConfig
from handler.errors import InputTooLong, InvalidInput, UnknownOperation
from handler.model_folder import ModelFolder
from handler.protocol import JSON, AnswerFormat, json_type
from handler.sequences import Encoding, EncodingOptions, Text
from handler.tasks import parameters
from handler.tasks.parameters import Boolean, Parameter, Share
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.utils.generic import ModelOutput

MAX_PAIRS_FACTOR = 10  # characters of all pairs of one item, as a multiple of max_characters

JUDGING = ("min_confidence", "coverage")  # parameters that judge calibrated scores

# A character that is not white space, a control or ignorable (Default_Ignorable_Code_Point, BMP). A text without one
# has no tokens, and would get a confident label. Regular expressions of Python and of JSON Schema (ECMA 262)
# differ in \s, so the ranges are written out: one pattern for the answer and the schema.
VISIBLE = re.compile(
    r"[^\u0000-\u0020\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f"
    r"\u2028-\u202f\u205f-\u206f\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb]"
)

# Parameters of a task whose scores were calibrated; `Task.calibrated_parameters` says which of them a task has.
CALIBRATED_PARAMETERS: dict[str, Parameter] = {
    "raw": Boolean(default=False, description="whether to return scores as the model computes them, not calibrated"),
    "min_confidence": Share(description="calibrated score below which the answer is marked as abstained"),
    "coverage": Share(below_one=True, description="probability with which the set of labels holds the right one"),
}

Output: TypeAlias = NDArray[np.float32]  # the values of one encoding: (count, ...) of RaggedOutput.values


@dataclass(frozen=True)
class Query:
    """One parsed item: the texts to encode, and how to encode, compute and answer them."""

    texts: tuple[Text, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)  # every parameter of the task
    encoding_options: EncodingOptions = field(default_factory=EncodingOptions)
    pooler: Pooler | None = None  # the task itself by default; queries with the same pooler share a forward pass


@dataclass(frozen=True)
class SequenceOutput:
    """The values of one sequence of a query."""

    text_index: int  # among the texts of the query
    encoding: Encoding
    values: Output


@dataclass(frozen=True)
class RaggedOutput:
    """The values of all encodings, concatenated, so that one copy to the host serves every task."""

    values: Tensor  # (sum(counts), ...)
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

    def token_positions(self, encoding: Encoding) -> Sequence[int] | None:
        """Return the indices of the tokens whose encoder output is needed, at least one; None for all of them."""
        return None

    @abstractmethod
    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        """Reduce a model's output, on the device, to the values that `decode` needs."""


class Task(Pooler):
    """One task of a model. To add one, write a subclass in a module of its own and add it to the registry."""

    name: ClassVar[str]  # in protocols and configuration
    operation: ClassVar[str]  # in the path, for a model whose main task is another
    auto_classes: ClassVar[tuple[str, ...]] = ()  # of transformers, which load a model with the head of this task
    overflows: ClassVar[tuple[Overflow, ...]] = ("truncate", "refuse")  # supported for long texts, the default first
    fields: ClassVar[tuple[str, str]] = ("text", "text_pair")  # of an item that is a pair of texts
    answer_format: ClassVar[AnswerFormat] = AnswerFormat()  # where a codec has several forms of an answer
    self_test_items: tuple[JSON, ...]  # reach every branch of the task
    self_test_parameters: ClassVar[dict[str, JSON]] = {}
    calibrated_parameters: ClassVar[tuple[str, ...]] = ()  # of CALIBRATED_PARAMETERS; empty: no score is a probability
    same_scores: ClassVar[tuple[str, ...]] = ()  # other tasks whose scores are those of this one

    def __init__(self, model: ModelFolder, config: ServingConfig, tokenizer: Tokenizer) -> None:
        self.model = model
        self.model_config = model.config
        self.config = config
        self.tokenizer = tokenizer
        self.overflow = config.overflow if config.overflow in self.overflows else self.overflows[0]
        self.labels: list[str] = []
        self.parameters: dict[str, Parameter] = {}
        self.calibration: ScoreCalibration | None = None

    @classmethod
    def auto_class_of(cls, model_config: PretrainedConfig) -> str | None:
        """Return the auto class of transformers that loads a model with the head of this task; None: it has another."""
        for auto_class in cls.auto_classes:
            head = auto_class.removeprefix("AutoModel") or "Model"  # e.g. ForSequenceClassification
            if any(architecture.endswith(head) for architecture in model_config.architectures or []):
                return auto_class
        return None

    @classmethod
    def supports(cls, model_config: PretrainedConfig) -> bool:
        """Return whether a model supports this task, by its head or e.g. by its labels."""
        return cls.forward_scope != "head" or cls.auto_class_of(model_config) is not None

    @abstractmethod
    def parse(self, value: JSON, parameters: Mapping[str, JSON]) -> Query:
        """Turn one item and the parameters of its request into a query.

        Raises:
            InvalidInput: not an item of this task, or an unknown parameter.
            InputTooLong: more characters than the operator allows.
        """

    @abstractmethod
    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        """Turn the values of a query's windows into its answer; a text that was not split has one window."""

    def attribution_targets(
        self, query: Query, windows: Sequence[SequenceOutput], target: JSON
    ) -> list[AttributionTarget]:
        """Return the scores that an explanation attributes to tokens: those of `target`, by default of the answer.

        Raises:
            InvalidInput: a target that the answer does not have.
            UnknownOperation: answers of this task are not explained.
        """
        raise UnknownOperation(f"{self.name} has no explanations")

    @property
    def explains(self) -> bool:
        """Whether answers of this task can be explained."""
        return type(self).attribution_targets is not Task.attribution_targets

    def top_label(self, answer: JSON) -> tuple[str, float] | None:
        """Return the label of an answer with the highest score, and that score, for the metrics of label drift."""
        return None

    def answers_match(self, expected: JSON, answer: JSON, tolerance: float) -> bool:
        """Return whether two answers to one item are equal up to `tolerance` on every number."""
        return values_allclose(expected, answer, tolerance)

    @abstractmethod
    def schema(self) -> dict[str, JSON]:
        """Describe "item" and "answer" as JSON Schemas, with an "example" of an item, for OpenAPI."""

    def calibrate(self, calibration: ScoreCalibration) -> None:
        """Serve calibrated scores from now on, if they are those of this task, and accept their parameters."""
        if calibration.task in (self.name, *self.same_scores) and self.calibrated_parameters:
            self.calibration = calibration
            names = [name for name in self.calibrated_parameters if name != "coverage" or calibration.label_sets]
            self.parameters |= {name: CALIBRATED_PARAMETERS[name] for name in names}

    def judgements(self, query: Query, answer: JSON) -> list[tuple[str | None, float]]:
        """Return what an answer with calibrated scores says: a label, where labels are the model's, and its score.

        Empty where the scores of the answer are not calibrated.
        """
        return []

    def read_parameters(self, values: Mapping[str, JSON]) -> dict[str, Any]:
        """Return every parameter of the task, by default where `values` has none.

        Raises:
            InvalidInput: an unknown parameter, a value that is not valid, or a parameter of scores that are calibrated.
        """
        for name in self.calibrated_parameters:
            if name in values and name not in self.parameters:
                raise InvalidInput(
                    f"{name} needs calibrated scores, which this archive does not have for {self.name}: pack the "
                    "model with --calibrate-scores FILE"
                )
        read = parameters.read(self.parameters, values)
        judging = [name for name in JUDGING if read.get(name) is not None]
        if judging and read.get("raw"):
            raise InvalidInput(f"{judging[0]} is about calibrated scores: leave out raw, or {judging[0]}")
        return read

    def is_calibrated(self, query: Query, variant: str) -> bool:
        """Return whether the scores of an answer are calibrated ones.

        Args:
            query: whose parameters may ask for raw scores.
            variant: of the scores, by the parameters of the request.

        Raises:
            InvalidInput: raw scores are to be judged.
        """
        if self.calibration and variant in self.calibration.functions and not query.parameters.get("raw"):
            return True
        if judging := [name for name in JUDGING if query.parameters.get(name) is not None]:
            raise InvalidInput(
                f"{judging[0]} needs calibrated scores, which this archive has only for {self._variants()}"
            )
        return False

    def _variants(self) -> str:
        return ", ".join(self.calibration.functions) if self.calibration else "none"

    def calibrated(self, scores: NDArray[Any], query: Query, variant: str) -> NDArray[Any]:
        """Return the scores to serve: calibrated, where the archive can and the request does not ask for raw ones.

        Args:
            scores: after windows were merged, each from 0 to 1.
            query: as `is_calibrated`, with `variant`.
        """
        if self.calibration is None or not self.is_calibrated(query, variant):
            return scores
        return self.calibration.functions[variant](scores)

    def abstains(self, query: Query, confidence: float) -> dict[str, JSON]:
        """Return the field `abstained` of an answer, or of a part of one; nothing where no confidence is required."""
        least = query.parameters.get("min_confidence")
        return {} if least is None else {"abstained": bool(confidence < least)}

    def abstain_from_labels(self, query: Query, ranking: list[JSON], scores: NDArray[Any]) -> JSON:
        """Return the ranking of labels that exclude each other; an object that holds it where it is to be judged.

        Args:
            ranking: the best labels with their scores.
            scores: (labels,), of all labels.
        """
        judged = self.abstains(query, float(scores.max()))
        coverage = query.parameters.get("coverage")
        if coverage is not None and self.calibration and self.calibration.label_sets:
            chosen = self.calibration.label_sets.choose(self.labels, scores.tolist(), coverage)
            judged |= {"set": chosen or [self.labels[int(scores.argmax())]], "coverage": coverage}
        return {"ranking": ranking, **judged} if judged else ranking

    def read_fields(self, value: JSON, *names: str) -> dict[str, JSON]:
        """Return the fields of an item, which must be an object with no other fields; raises InvalidInput."""
        if not isinstance(value, dict):
            raise InvalidInput(f"a question must be an object with {' and '.join(names)}, got {json_type(value)}")
        parameters.refuse_unknown(value, names, "field")
        return {name: value.get(name) for name in names}

    def read_item(self, value: JSON) -> str:
        """Return the text of an item: a string, or an object with only a `text`. Raises RequestError."""
        return self.read_text(self.read_fields(value, "text")["text"] if isinstance(value, dict) else value)

    def read_text_or_pair(self, value: JSON) -> Text:
        """Return the text or pair of an item: a string, or an object with `text` and optionally `text_pair`.

        Raises:
            RequestError: what is wrong with the item.
        """
        if not isinstance(value, dict):
            return self.read_text(value), None
        fields = self.read_fields(value, "text", "text_pair")
        pair = self.read_text(fields["text_pair"], "text_pair") if "text_pair" in value else None
        return self.read_text(fields["text"]), pair

    def limit_pairs(self, characters: int) -> None:
        """Refuse an item whose pairs, which repeat a text, have too many characters; raises InputTooLong."""
        limit = MAX_PAIRS_FACTOR * self.config.max_characters
        if characters > limit:
            raise InputTooLong(f"the pairs of a question have {characters} characters, accepted: at most {limit}")

    def read_text(self, value: JSON, name: str = "text") -> str:
        """Return a text that can be tokenised; raises InvalidInput or InputTooLong."""
        if not isinstance(value, str):
            raise InvalidInput(f"{name} must be a string, got {json_type(value)}")
        if not value.strip():
            raise InvalidInput(f"{name} is empty")
        if not VISIBLE.search(value):
            raise InvalidInput(f"{name} holds no visible character")
        if len(value) > self.config.max_characters:
            raise InputTooLong(f"{name} has {len(value)} characters, accepted: at most {self.config.max_characters}")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidInput(f"{name} holds half of a surrogate pair, which is no character")
        return value

    def read_texts(self, value: JSON, name: str) -> list[str]:
        """Return a list of texts; a string is a list of one. Raises InvalidInput or InputTooLong."""
        if isinstance(value, str):
            return [self.read_text(value, name)]
        if not isinstance(value, list) or not value:
            raise InvalidInput(f"{name} must be a list of strings, got {'none' if value == [] else json_type(value)}")
        return [self.read_text(text, f"{name}[{index}]") for index, text in enumerate(value)]

    def text_schema(self) -> dict[str, JSON]:
        """Describe a text as a JSON Schema."""
        return {"type": "string", "minLength": 1, "maxLength": self.config.max_characters, "pattern": VISIBLE.pattern}

    def item_schema(self, *optional: str) -> dict[str, JSON]:
        """Describe an item that is a text, or an object with `text` and `optional` fields, as a JSON Schema."""
        text = self.text_schema()
        fields = {"type": "object", "properties": dict.fromkeys(("text", *optional), text), "required": ["text"]}
        return {"oneOf": [text, {**fields, "additionalProperties": False}]}

    def abstain_from_each(self, query: Query, ranking: list[JSON], scores: NDArray[Any]) -> JSON:
        """Return a ranking of labels of which each is true or not; an object that holds it where it is to be judged.

        The absence of a label is as confident as 1 - its score. The answer abstains where any label does.

        Args:
            ranking: the best labels with their scores.
            scores: (labels,), of all labels.
        """
        judged = self.abstains(query, float(np.maximum(scores, 1 - scores).min()))
        if judged:
            ranking = [ranked | self.abstains(query, max(ranked["score"], 1 - ranked["score"])) for ranked in ranking]
        coverage = query.parameters.get("coverage")
        if coverage is not None and self.calibration and self.calibration.label_sets:
            chosen = self.calibration.label_sets.choose(self.labels, scores.tolist(), coverage)
            judged |= {"set": chosen, "coverage": coverage}
        return {"ranking": ranking, **judged} if judged else ranking

    def abstained_schema(self) -> dict[str, JSON]:
        """Describe the field `abstained` of a part of an answer; empty where scores are not calibrated."""
        description = "only with min_confidence: whether the score is less"
        return {"abstained": {"type": "boolean", "description": description}} if self.calibration else {}

    def answer_schema(self, answer: dict[str, JSON]) -> dict[str, JSON]:
        """Describe an answer that is a ranking, or an object that holds it where it is judged, as a JSON Schema."""
        if self.calibration is None:
            return answer
        judged = {
            "ranking": answer,
            "abstained": {"type": "boolean", "description": "whether it is less confident than min_confidence"},
            "set": {"type": "array", "items": {"type": "string"}, "description": "holds the right label in `coverage`"},
            "coverage": {"type": "number"},
        }
        return {"oneOf": [answer, {"type": "object", "properties": judged, "required": ["ranking"]}]}


def ranking_of(answer: JSON) -> list[JSON]:
    """Return the ranking of an answer, which may be an object that holds it."""
    ranking: list[JSON] = answer["ranking"] if isinstance(answer, dict) else answer
    return ranking


class SequenceTask(Task):
    """A task whose head computes one vector of logits for each sequence, from its first token."""

    output_names: ClassVar[tuple[str, ...]] = ("logits",)  # of the head; the first one present is used

    def token_positions(self, encoding: Encoding) -> Sequence[int]:
        return (0,)

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        name = next(name for name in self.output_names if name in output)
        return RaggedOutput(output[name], (1,) * len(batch.seq_lens))


def locate_token(windows: Sequence[SequenceOutput], index: int) -> tuple[int, int]:
    """Return the window of a token and its index there, from its index in the concatenation of all windows."""
    for window_index, window in enumerate(windows):
        if index < len(window.encoding):
            return window_index, index
        index -= len(window.encoding)
    raise IndexError(index)


def softmax(logits: Output) -> Output:
    """Return exp(x - max) / sum over the last axis: probabilities with the sum 1.

    >>> softmax(np.array([0.0, 0.0], dtype=np.float32))
    array([0.5, 0.5], dtype=float32)
    """
    exponentials: Output = np.exp(logits - logits.max(-1, keepdims=True))
    scores: Output = exponentials / exponentials.sum(-1, keepdims=True)
    return scores


def sigmoid(logits: Output) -> Output:
    """Return 1 / (1 + exp(-x)): independent probabilities."""
    scores: Output = np.float32(1) / (np.float32(1) + np.exp(-logits))
    return scores


def rankings_match(expected: JSON, answer: JSON, tolerance: float, key: str = "label") -> bool:
    """Return whether two rankings have the same scores by `key`; items of nearly one score may change places."""
    scores = [{item[key]: item["score"] for item in ranking} for ranking in (expected, answer)]
    return values_allclose(scores[0], scores[1], tolerance)


def values_allclose(expected: JSON, answer: JSON, tolerance: float) -> bool:
    """Return whether two JSON values are equal up to `tolerance`, absolute up to 1 and relative above, on every number.

    >>> values_allclose({"score": [0.5]}, {"score": [0.51]}, 0.02), values_allclose([1.0], [1.0, 2.0], 0.1)
    (True, False)
    """
    if isinstance(expected, dict) and isinstance(answer, dict):
        same_keys = expected.keys() == answer.keys()
        return same_keys and all(values_allclose(expected[key], answer[key], tolerance) for key in expected)
    if isinstance(expected, list) and isinstance(answer, list):
        return len(expected) == len(answer) and all(
            values_allclose(*pair, tolerance) for pair in zip(expected, answer, strict=True)
        )
    if isinstance(expected, float) and isinstance(answer, float):
        return abs(expected - answer) <= tolerance * max(1.0, abs(expected))
    return bool(expected == answer)
