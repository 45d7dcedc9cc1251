"""Next-sentence prediction, alone or with masked tokens: the two objectives of BERT (Devlin et al. 2018).

The data is plain text, a sentence a line, with a blank line between documents. Every two neighbours make two pairs:
themselves (label 0), and the first with a random sentence of another document (label 1).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from scripts.cli.console import ScriptError, counted
from scripts.readers.formats import TABLES, TEXT_LINES, Record
from scripts.readers.tables import Table
from scripts.training.tasks import masking
from scripts.training.tasks.base import (
    EncodedExamples,
    Examples,
    TokenLimits,
    TrainingTask,
    to_features,
    truncation_notes,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Document: TypeAlias = tuple[str, ...]
FOLLOWS, RANDOM = 0, 1  # as in transformers


class NextSentenceTraining(TrainingTask[Document]):
    """Whether a sentence follows another."""

    auto_class = "AutoModelForNextSentencePrediction"
    metrics: ClassVar = {"accuracy": "accuracy"}
    best_metric = "accuracy"
    unit_name = "documents"
    readers = TEXT_LINES | TABLES
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

    def texts(self, example: Document) -> tuple[str, ...]:
        return example

    def validate(self, examples: Examples[Document]) -> None:
        if len(examples) < 2:
            raise ScriptError(
                f"{examples.name}: {counted(len(examples), 'document')}, 2 are needed; blank lines part them"
            )
        if not self.n_texts(examples):
            raise ScriptError(f"{examples.name}: no document has two sentences; each needs a line of its own")

    def label_counts(self, examples: Examples[Document]) -> dict[str, int]:
        return {"pairs": self.n_texts(examples)}

    @property
    def reads_pairs(self) -> bool:
        return True

    def n_texts(self, examples: Examples[Document]) -> int:
        return sum(2 * (len(document) - 1) for document in examples.rows)

    def encode(
        self, examples: Examples[Document], tokenizer: PreTrainedTokenizerBase, limits: TokenLimits, *, training: bool
    ) -> EncodedExamples:
        encoding, labels = self.tokenized(examples, tokenizer, limits)
        features = [feature | {"labels": label} for feature, label in zip(to_features(encoding), labels, strict=True)]
        notes = truncation_notes(features, limits, "pairs")
        return EncodedExamples(features, partial(pair_accuracy, labels), notes)

    def tokenized(
        self, examples: Examples[Document], tokenizer: PreTrainedTokenizerBase, limits: TokenLimits
    ) -> tuple[Any, list[int]]:
        """Tokenize the pairs of documents; return the encoding and the labels."""
        labelled_pairs = pairs(examples.rows, limits.seed)
        first, second = [pair[0] for pair in labelled_pairs], [pair[1] for pair in labelled_pairs]
        encoding = tokenizer(first, second, truncation=True, max_length=limits.max_length)
        return encoding, [label for _, _, label in labelled_pairs]


class BertPretraining(NextSentenceTraining):
    """Next-sentence prediction and masked language modelling together."""

    auto_class = "AutoModelForPreTraining"
    head_class = NextSentenceTraining.auto_class
    metrics: ClassVar = {**masking.METRICS, "next_accuracy": "next-sentence accuracy"}
    best_metric = "loss"
    options = NextSentenceTraining.options | {"whole_words"}
    eval_batch_factor = 1
    needs_mask_token = True

    def encode(
        self, examples: Examples[Document], tokenizer: PreTrainedTokenizerBase, limits: TokenLimits, *, training: bool
    ) -> EncodedExamples:
        encoding, labels = self.tokenized(examples, tokenizer, limits)
        features = masking.with_mask_units(encoding, tokenizer, whole_words=limits.whole_words)
        for feature, label in zip(features, labels, strict=True):
            feature["next_sentence_label"] = label
        maskable = masking.prepare(features, tokenizer, limits, training=training)
        metrics = partial(pretraining_metrics, [feature["next_sentence_label"] for feature in maskable])
        return EncodedExamples(maskable, metrics, truncation_notes(features, limits, "pairs"))

    def collator(self, tokenizer: PreTrainedTokenizerBase, limits: TokenLimits) -> Any:
        return masking.MaskingCollator(tokenizer)

    def reduce_logits(self, logits: Any, labels: Any) -> Any:
        return masking.token_losses(logits[0], labels[0]), logits[1]


def pairs(documents: Sequence[Document], seed: int) -> list[tuple[str, str, int]]:
    """Return every two neighbours, each followed by the first with a random sentence of another document.

    >>> [(first, label) for first, _, label in pairs([("a", "b"), ("c",)], seed=0)]
    [('a', 0), ('a', 1)]
    """
    generator = random.Random(seed)  # noqa: S311 a draw, not a secret
    labelled_pairs = []
    for number, document in enumerate(documents):
        for first, second in pairwise(document):
            other = documents[(number + generator.randrange(1, len(documents))) % len(documents)]
            labelled_pairs += [(first, second, FOLLOWS), (first, generator.choice(other), RANDOM)]
    return labelled_pairs


def pair_accuracy(labels: Sequence[int], outputs: np.ndarray) -> dict[str, float]:
    """Return the accuracy of logits (pairs, 2)."""
    return {"accuracy": float((outputs.argmax(-1) == np.array(labels)).mean())}


def pretraining_metrics(labels: Sequence[int], outputs: tuple[np.ndarray, ...]) -> dict[str, float]:
    """Return the metrics of both objectives."""
    return masking.masked_lm_metrics(outputs[0]) | {"next_accuracy": pair_accuracy(labels, outputs[1])["accuracy"]}
