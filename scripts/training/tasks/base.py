"""What every kind of problem has: how its data is read, what one example is, how the model sees it, how it is judged.

A kind is one class in one file of this package; scripts/problems/__init__.py is their registry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar

from scripts.cli.console import ScriptError
from scripts.readers import tables
from scripts.readers.tables import Columns, Reader, Record, Table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label of a token that no loss counts

E = TypeVar("E")
P = TypeVar("P", bound="Problem[Any]")
Stratum: TypeAlias = "int | float | list[float] | list[str]"
Feature: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Examples(Generic[E]):
    """What is learnt from, or judged by, in the order of its table."""

    name: str
    sha256: str
    rows: Sequence[E]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Sequence[int]) -> Examples[E]:
        """Return the chosen examples."""
        return Examples(self.name, self.sha256, [self.rows[index] for index in indices])


@dataclass(frozen=True)
class Limits:
    """How texts become tokens: the lengths are in tokens."""

    max_length: int
    doc_stride: int = 0  # shared by neighbouring windows
    max_question_length: int = 0
    max_answer_length: int = 0
    whole_words: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Encoded:
    """Examples as the model takes them, and what its outputs over all of them, in order, are worth.

    A long example may be several features; `notes` say what was cut.
    """

    features: list[Feature]
    judge: Callable[[Any], dict[str, float]]
    notes: list[str] = field(default_factory=list)


class Problem(ABC, Generic[E]):
    """What is learnt: which labels there are, what one example is, and how good answers are."""

    auto_class: ClassVar[str]
    families: ClassVar[str | None] = None  # the auto class whose model families have the head, if not `auto_class`
    problem_type: ClassVar[str | None] = None  # in the model's config.json
    metrics: ClassVar[Mapping[str, str]]  # key -> title
    best: ClassVar[str]  # the metric that chooses the best epoch, or "loss"
    lower_is_better: ClassVar[bool] = False
    noun: ClassVar[str] = "texts"  # what the examples are, in a report
    readers: ClassVar[Mapping[str, Reader]] = tables.TABLES  # end of a file's name -> what reads it
    text_columns: ClassVar[tuple[str, ...]] = ("text",)  # the names that are looked for, the first one found is taken
    pair_columns: ClassVar[tuple[str, ...]] = ()
    label_columns: ClassVar[tuple[str, ...]] = ("label",)
    options: ClassVar[frozenset[str]] = frozenset({"text_column", "pair_column", "label_column"})  # of Settings
    max_length: ClassVar[int] = 256
    epochs: ClassVar[tuple[int, int]] = (3, 10)  # fewest and most, unless told
    eval_share: ClassVar[int] = 2  # texts of a batch of evaluation, in batches of training; answers of words are large

    def __init__(self, labels: Sequence[str], columns: Columns) -> None:
        self.labels = tuple(labels)
        self.columns = columns
        self.index = {label: number for number, label in enumerate(self.labels)}

    # --- data ------------------------------------------------------------------------------------------------------

    @classmethod
    def learn(cls: type[P], table: Table, columns: Columns) -> P:  # noqa: ARG003 some have labels
        """Find the labels in the training table."""
        return cls((), columns)

    @abstractmethod
    def example(self, table: Table, row: int, record: Record) -> E:
        """Turn one row into an example, or refuse it."""

    def examples(self, table: Table) -> Examples[E]:
        """Turn the rows of a table into examples; the first bad row is refused."""
        return Examples(table.name, table.sha256, [self.example(table, row, record) for row, record in table.rows])

    def check(self, examples: Examples[E]) -> None:
        """Refuse what cannot be learnt from although every row of it is good."""

    def counts(self, examples: Examples[E]) -> dict[str, int]:
        """Return how often each label occurs."""
        return {}

    def size(self, examples: Examples[E]) -> int:
        """Return how many texts an epoch reads, about."""
        return len(examples)

    def group(self, example: E) -> Hashable | None:
        """Return what holding out must not tear apart; None: the example stands alone."""
        return None

    def stratum(self, example: E) -> Stratum:
        """Return over what held-out examples are spread evenly; a class of one (a whole number) is not held out."""
        return 0.0

    # --- the model -------------------------------------------------------------------------------------------------

    def head(self) -> dict[str, Any]:
        """Return what the config of the model must say about its head."""
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
        self, examples: Examples[E], tokenizer: PreTrainedTokenizerBase, limits: Limits, *, training: bool
    ) -> Encoded:
        """Tokenize once, without padding."""

    def collator(self, tokenizer: PreTrainedTokenizerBase, limits: Limits) -> Callable[[list[Feature]], Any]:
        """Return what makes one padded batch of features."""
        import transformers

        return transformers.DataCollatorWithPadding(tokenizer)

    def reduce(self, logits: Any, labels: Any) -> Any:
        """Return the least of a batch's outputs, on its device, that the judge needs."""
        return logits

    def titled(self, metrics: Mapping[str, float]) -> str:
        """Return metrics as a person reads them: `accuracy 0.953  macro F1 0.951`."""
        return "  ".join(f"{title} {metrics[key]:.3f}" for key, title in self.metrics.items())


def unpacked(encoding: Any) -> list[Feature]:
    """Return one feature for each text (or window) of what a tokenizer returned, without what no model takes."""
    names = [name for name in encoding if name not in ("offset_mapping", "overflow_to_sample_mapping")]
    columns = zip(*(encoding[name] for name in names), strict=True)
    return [dict(zip(names, values, strict=True)) for values in columns]


def cut(features: Sequence[Feature], limits: Limits, noun: str) -> list[str]:
    """Say how many texts may have lost their end."""
    full = sum(len(feature["input_ids"]) == limits.max_length for feature in features)
    return [f"{full} of {len(features)} {noun} fill --max-length {limits.max_length}, the rest is cut"] if full else []


def require_offsets(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that cannot say where in the text its tokens are."""
    if not tokenizer.is_fast:
        raise ScriptError("this tokenizer cannot tell where its tokens are; a model with a tokenizer.json is needed")
