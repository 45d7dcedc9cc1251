"""The interface between a task and the engine: three verbs.

`parse` turns one item of a request into texts, `pool` reduces a model's output on the device to the values that the
answer needs, `decode` turns those values into an answer on the CPU. `parse` and `decode` are pure.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from handler.config import Overflow, ServingConfig
from handler.errors import UnknownOperation
from handler.model_folder import ModelFolder
from handler.protocol import JSON, AnswerFormat
from handler.sequences import Encoding
from handler.tasks.items import ItemReader
from handler.tasks.judging import ScoreJudge
from handler.tasks.queries import AttributionTarget, Pooler, Query, RaggedOutput, SequenceOutput
from handler.tasks.scores import values_allclose
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.utils.generic import ModelOutput

    from handler.batching import Batch


class Task(Pooler, ItemReader, ScoreJudge):
    """One task of a model. To add one, write a subclass in a module of its own and add it to the registry."""

    name: ClassVar[str]  # in protocols and configuration
    hub_task: ClassVar[str | None] = None  # on the Hugging Face hub, where that is another name
    operation: ClassVar[str]  # in the path, for a model whose main task is another
    auto_classes: ClassVar[tuple[str, ...]] = ()  # of transformers, which load a model with the head of this task
    overflows: ClassVar[tuple[Overflow, ...]] = ("truncate", "refuse")  # supported for long texts, the default first
    fields: ClassVar[tuple[str, str]] = ("text", "text_pair")  # of an item that is a pair of texts
    answer_format: ClassVar[AnswerFormat] = AnswerFormat()  # where a codec has several forms of an answer
    self_test_items: tuple[JSON, ...]  # reach every branch of the task
    self_test_parameters: ClassVar[dict[str, JSON]] = {}
    model_parameters: Mapping[str, JSON] = MappingProxyType({})  # without which a text would not reach the model

    def __init__(self, model: ModelFolder, config: ServingConfig, tokenizer: Tokenizer) -> None:
        ItemReader.__init__(self, config)
        ScoreJudge.__init__(self)
        self.model = model
        self.model_config = model.config
        self.tokenizer = tokenizer
        self.overflow = config.overflow if config.overflow in self.overflows else self.overflows[0]

    @classmethod
    def auto_class_of(cls, model_config: PretrainedConfig) -> str | None:
        """Return the auto class of transformers that loads a model with the head of this task; None: it has another."""
        for auto_class in cls.auto_classes:
            head = auto_class.removeprefix("AutoModel") or "Model"  # e.g. ForSequenceClassification
            if any(architecture.endswith(head) for architecture in model_config.architectures or []):
                return auto_class
        return None

    @classmethod
    def supports(cls, model: ModelFolder) -> bool:
        """Return whether a model supports this task, by its head or e.g. by its labels."""
        return cls.forward_scope != "head" or cls.auto_class_of(model.config) is not None

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

    def n_repeated(self, answer: JSON) -> int:
        """Return the characters of an answer that repeat its text, for the limit of a request."""
        return 0

    def answers_match(self, expected: JSON, answer: JSON, tolerance: float) -> bool:
        """Return whether two answers to one item are equal up to `tolerance` on every number."""
        return values_allclose(expected, answer, tolerance)

    @abstractmethod
    def schema(self) -> dict[str, JSON]:
        """Describe "item" and "answer" as JSON Schemas, with an "example" of an item, for OpenAPI."""


class SequenceTask(Task):
    """A task whose head computes one vector of logits for each sequence, from its first token."""

    output_names: ClassVar[tuple[str, ...]] = ("logits",)  # of the head; the first one present is used

    def token_positions(self, encoding: Encoding) -> Sequence[int]:
        return (0,)

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        name = next(name for name in self.output_names if name in output)
        return RaggedOutput(output[name], (1,) * len(batch.seq_lens))
