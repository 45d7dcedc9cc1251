"""Whether one sentence follows another; alone, or with hidden words: the two objectives of BERT (Devlin et al. 2018).

The data is plain text, a sentence a line, with a blank line between documents. Every two neighbours are a pair once
as they are (label 0) and once with a sentence of another document instead of the second (label 1).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from scripts.cli.console import ScriptError
from scripts.readers.tables import LINES, TABLES, Record, Table
from scripts.training.tasks import masking
from scripts.training.tasks.base import Encoded, Examples, Limits, Problem, cut, unpacked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Document: TypeAlias = tuple[str, ...]
FOLLOWS, RANDOM = 0, 1  # as in transformers


class NextSentence(Problem[Document]):
    """Two sentences: neighbours or not."""

    auto_class = "AutoModelForNextSentencePrediction"
    metrics: ClassVar = {"accuracy": "accuracy"}
    best = "accuracy"
    noun = "documents"
    readers = LINES | TABLES
    label_columns = ()
    options = frozenset({"text_column"})
    max_length = 128

    def example(self, table: Table, row: int, record: Record) -> Document:
        return (table.text(row, record, self.columns.text),)

    def examples(self, table: Table) -> Examples[Document]:
        documents: list[Document] = []
        after_blank = True
        for row, record in table.rows:
            if record.get(self.columns.text) == "":
                after_blank = True
            elif after_blank:
                documents.append(self.example(table, row, record))
                after_blank = False
            else:
                documents[-1] += self.example(table, row, record)
        return Examples(table.name, table.sha256, documents)

    def check(self, examples: Examples[Document]) -> None:
        if len(examples) < 2:
            raise ScriptError(f"{examples.name}: {len(examples)} documents, 2 are needed; blank lines part them")
        if not self.size(examples):
            raise ScriptError(f"{examples.name}: no document has two sentences; each needs a line of its own")

    def counts(self, examples: Examples[Document]) -> dict[str, int]:
        return {"pairs": self.size(examples)}

    def size(self, examples: Examples[Document]) -> int:
        return sum(2 * (len(document) - 1) for document in examples.rows)

    def encode(
        self, examples: Examples[Document], tokenizer: PreTrainedTokenizerBase, limits: Limits, *, training: bool
    ) -> Encoded:
        encoding, labels = self.tokenized(examples, tokenizer, limits)
        features = [feature | {"labels": label} for feature, label in zip(unpacked(encoding), labels, strict=True)]
        judge = partial(measure, labels)
        return Encoded(features, judge, cut(features, limits, "pairs"))

    def tokenized(
        self, examples: Examples[Document], tokenizer: PreTrainedTokenizerBase, limits: Limits
    ) -> tuple[Any, list[int]]:
        """Return tokenized pairs and their labels."""
        drawn = pairs(examples.rows, limits.seed)
        first, second = [pair[0] for pair in drawn], [pair[1] for pair in drawn]
        encoding = tokenizer(first, second, truncation=True, max_length=limits.max_length)
        return encoding, [label for _, _, label in drawn]


class Pretraining(NextSentence):
    """Two sentences with hidden words."""

    auto_class = "AutoModelForPreTraining"
    families = NextSentence.auto_class
    metrics: ClassVar = {**masking.TITLES, "next_accuracy": "next-sentence accuracy"}
    best = "loss"
    lower_is_better = True
    options = NextSentence.options | {"whole_words"}
    eval_share = 1

    def encode(
        self, examples: Examples[Document], tokenizer: PreTrainedTokenizerBase, limits: Limits, *, training: bool
    ) -> Encoded:
        encoding, labels = self.tokenized(examples, tokenizer, limits)
        features = masking.with_units(encoding, tokenizer, whole_words=limits.whole_words)
        for feature, label in zip(features, labels, strict=True):
            feature["next_sentence_label"] = label
        useful = masking.prepared(features, tokenizer, limits, training=training)
        judge = partial(measure_both, [feature["next_sentence_label"] for feature in useful])
        return Encoded(useful, judge, cut(features, limits, "pairs"))

    def collator(self, tokenizer: PreTrainedTokenizerBase, limits: Limits) -> Any:
        return masking.Hider(tokenizer)

    def reduce(self, logits: Any, labels: Any) -> Any:
        return masking.reduce(logits[0], labels[0]), logits[1]


def pairs(documents: Sequence[Document], seed: int) -> list[tuple[str, str, int]]:
    """Return every two neighbours, and after them the first with a random sentence of another document.

    >>> [(first, label) for first, _, label in pairs([("a", "b"), ("c",)], seed=0)]
    [('a', 0), ('a', 1)]
    """
    chance = random.Random(seed)  # noqa: S311 a draw, not a secret
    drawn = []
    for number, document in enumerate(documents):
        for first, second in pairwise(document):
            other = documents[(number + chance.randrange(1, len(documents))) % len(documents)]
            drawn += [(first, second, FOLLOWS), (first, chance.choice(other), RANDOM)]
    return drawn


def measure(labels: Sequence[int], outputs: np.ndarray) -> dict[str, float]:
    """Return how many of the pairs, by their scores (pairs, 2), were told right."""
    return {"accuracy": float((outputs.argmax(-1) == np.array(labels)).mean())}


def measure_both(labels: Sequence[int], outputs: tuple[np.ndarray, ...]) -> dict[str, float]:
    """Return the metrics of both objectives."""
    return masking.measure(outputs[0]) | {"next_accuracy": measure(labels, outputs[1])["accuracy"]}
