"""The base of every training task: its data, its examples, what the model sees of them, its metrics.

A task is one class in one module of this package; the registry is in __init__.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar

from scripts.readers.formats import TABLES, Reader, Record
from scripts.readers.tables import ColumnMapping, Table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE_INDEX = -100  # the label of a token that the loss leaves out, as in PyTorch
LOWER_IS_BETTER = frozenset({"loss", "mse", "perplexity"})  # of the metrics of all tasks

E = TypeVar("E")
T = TypeVar("T", bound="TrainingTask[Any]")
Stratum: TypeAlias = "int | float | list[float] | list[str]"
Feature: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Examples(Generic[E]):
    """Examples of one table, in its order."""

    name: str
    sha256: str
    rows: Sequence[E]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Sequence[int]) -> Examples[E]:
        """Return the examples at these indices."""
        return Examples(self.name, self.sha256, [self.rows[index] for index in indices])


@dataclass(frozen=True)
class TokenLimits:
    """How texts become tokens; all lengths are in tokens."""

    max_length: int
    doc_stride: int = 0  # shared by neighbouring windows
    max_question_length: int = 0
    max_answer_length: int = 0
    whole_words: bool = False
    seed: int = 0


@dataclass(frozen=True)
class EncodedExamples:
    """The features of examples, and the function that computes metrics from the model's outputs over all of them.

    `compute_metrics` takes the outputs in the order of the features. A long example may be several features; `notes`
    are messages about what was truncated.
    """

    features: list[Feature]
    compute_metrics: Callable[[Any], dict[str, float]]
    notes: list[str] = field(default_factory=list)


class TrainingTask(ABC, Generic[E]):
    """What a model is trained for: its labels, its examples, its metrics."""

    auto_class: ClassVar[str]
    head_class: ClassVar[str | None] = None  # the auto class that knows which families have the head, if not auto_class
    problem_type: ClassVar[str | None] = None  # in the model's config.json
    metrics: ClassVar[Mapping[str, str]]  # key -> title
    best_metric: ClassVar[str]  # the metric that chooses the best epoch by default, or "loss"
    unit_name: ClassVar[str] = "texts"  # what the examples are called in messages
    group_name: ClassVar[str | None] = None  # what their groups are called, if there are any
    readers: ClassVar[Mapping[str, Reader]] = TABLES  # suffix of a file's name -> its reader
    text_columns: ClassVar[tuple[str, ...]] = ("text",)  # default names, the first one that the header has is taken
    pair_columns: ClassVar[tuple[str, ...]] = ()
    label_columns: ClassVar[tuple[str, ...]] = ("label",)
    options: ClassVar[frozenset[str]] = frozenset({"text_column", "pair_column", "label_column"})  # of TrainingSettings
    max_length: ClassVar[int] = 256
    epochs: ClassVar[tuple[int, int]] = (3, 10)  # bounds of the default number of epochs
    eval_batch_factor: ClassVar[int] = 2  # evaluation batch size / training batch size; token outputs are large
    needs_mask_token: ClassVar[bool] = False

    def __init__(self, labels: Sequence[str], columns: ColumnMapping) -> None:
        self.labels = tuple(labels)
        self.columns = columns
        self.index = {label: number for number, label in enumerate(self.labels)}

    # --- data ------------------------------------------------------------------------------------------------------

    @classmethod
    def from_table(cls: type[T], table: Table, columns: ColumnMapping) -> T:  # noqa: ARG003 some tasks have labels
        """Return the task with the labels of the training table."""
        return cls((), columns)

    @abstractmethod
    def example(self, table: Table, row: int, record: Record) -> E:
        """Turn one row into an example; raises ScriptError for a bad row."""

    def examples(self, table: Table) -> Examples[E]:
        """Turn the rows of a table into examples; the first bad row is refused."""
        return Examples(table.name, table.sha256, [self.example(table, row, record) for row, record in table.rows])

    def class_weights(self, examples: Examples[E]) -> dict[str, float]:
        """Return for each label the weight of its examples in the loss that makes up for the label's frequency."""
        raise NotImplementedError  # a task without classes, for which --class-weights is refused

    def loss(self, logits: Any, labels: Any, weights: Any) -> Any:
        """Return the sum of the losses of a batch with class weights (labels,); for tasks that take --class-weights."""
        raise NotImplementedError  # a task without classes, for which --class-weights is refused

    def validate(self, examples: Examples[E]) -> None:
        """Refuse examples that are good one by one, but not together."""

    def label_counts(self, examples: Examples[E]) -> dict[str, int]:
        """Return how often each label occurs."""
        return {}

    @abstractmethod
    def texts(self, example: E) -> tuple[str, ...]:
        """Return the texts that the model reads of an example."""

    @property
    def reads_pairs(self) -> bool:
        """Whether the model reads two texts at once."""
        return self.columns.pair is not None

    def n_texts(self, examples: Examples[E]) -> int:
        """Return about how many texts an epoch reads."""
        return len(examples)

    def group(self, example: E) -> Hashable | None:
        """Return the group that a split keeps together; None: the example is a group of its own."""
        return None

    def stratum(self, example: E) -> Stratum:
        """Return the stratum by which held-out examples are balanced; a class (int) of one example is not held out."""
        return 0.0

    # --- the model -------------------------------------------------------------------------------------------------

    def head_config(self) -> dict[str, Any]:
        """Return the keys of the model's config that describe its head."""
        if not self.labels:
            return {}
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": self.index,
            "problem_type": self.problem_type,
        }

    @abstractmethod
    def encode(
        self, examples: Examples[E], tokenizer: PreTrainedTokenizerBase, limits: TokenLimits, *, training: bool
    ) -> EncodedExamples:
        """Tokenize examples without padding."""

    def collator(self, tokenizer: PreTrainedTokenizerBase, limits: TokenLimits) -> Callable[[list[Feature]], Any]:
        """Return the function that makes one padded batch of features."""
        import transformers

        return transformers.DataCollatorWithPadding(tokenizer)

    def reduce_logits(self, logits: Any, labels: Any) -> Any:
        """Return the part of a batch's outputs, on its device, that `compute_metrics` needs."""
        return logits

    def metric_title(self, metric: str) -> str:
        """Return how a metric of --metric is called in messages."""
        return self.metrics.get(metric, "validation loss")

    def format_metrics(self, metrics: Mapping[str, float]) -> str:
        """Return metrics as one line: `accuracy 0.953  macro F1 0.951`."""
        return "  ".join(f"{title} {metrics[key]:.3f}" for key, title in self.metrics.items())


def to_features(encoding: Any) -> list[Feature]:
    """Return one feature for each text (or window) of a tokenizer's output, without the keys that no model takes."""
    names = [name for name in encoding if name not in ("offset_mapping", "overflow_to_sample_mapping")]
    columns = zip(*(encoding[name] for name in names), strict=True)
    return [dict(zip(names, values, strict=True)) for values in columns]


def truncation_notes(features: Sequence[Feature], limits: TokenLimits, unit_name: str) -> list[str]:
    """Return a message with the number of texts that may have been truncated, if there are any."""
    full = sum(len(feature["input_ids"]) == limits.max_length for feature in features)
    if not full:
        return []
    return [f"{full} of {len(features)} {unit_name} fill --max-length {limits.max_length}, the rest is cut"]


def balanced(counts: Mapping[str, int]) -> dict[str, float]:
    """Return for each label the number of examples over the number of labels and the label's examples.

    A label without examples has the weight 1.

    >>> balanced({"mail": 90, "spam": 10})
    {'mail': 0.5555555555555556, 'spam': 5.0}
    """
    n_examples, n_labels = sum(counts.values()), sum(count > 0 for count in counts.values())
    return {label: n_examples / (n_labels * count) if count else 1.0 for label, count in counts.items()}


def weighted_cross_entropy(logits: Any, labels: Any, weights: Any) -> Any:
    """Return the sum of the cross-entropies of logits (..., labels), each by the weight of its label."""
    from torch.nn.functional import cross_entropy

    scores = logits.view(-1, logits.shape[-1])
    return cross_entropy(scores, labels.view(-1), weight=weights, ignore_index=IGNORE_INDEX, reduction="sum")
