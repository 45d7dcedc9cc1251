"""Token classification: spans of words in a text, such as names of people and places.

An example is one text with tagged words, whatever the format of the data. The tokenizer reads the text as a server
does; the first token of a word has the word's tag.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from handler.tag_scheme import LabelSpans, TagScheme, detect_scheme
from scripts.cli.console import ScriptError
from scripts.readers.formats import TABLES, Record
from scripts.readers.tables import ColumnMapping, Table
from scripts.training.tasks.base import (
    IGNORE_INDEX,
    EncodedExamples,
    Examples,
    Stratum,
    TokenLimits,
    TrainingTask,
    require_offsets,
    to_features,
)
from scripts.training.tasks.conll import CONLL, TaggedText, read_conll, tag_error, tagged_text

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase


class EntityRecognition(TrainingTask[TaggedText]):
    """One tag for each word."""

    auto_class = "AutoModelForTokenClassification"
    metrics: ClassVar = {"f1": "F1", "precision": "precision", "recall": "recall", "accuracy": "token accuracy"}
    best_metric = "f1"
    epochs = (3, 20)
    unit_name = "sentences"
    readers = CONLL | {".txt": read_conll} | TABLES
    text_columns = ("tokens", "words", "text")
    label_columns = ("tags", "ner_tags", "entities", "label", "labels")
    options = frozenset({"text_column", "label_column"})

    def __init__(self, scheme: TagScheme, types: set[str], columns: ColumnMapping) -> None:
        super().__init__(scheme.labels(types), columns)
        self.scheme = scheme
        self.spans = LabelSpans.from_labels(self.labels)

    @classmethod
    def from_table(cls, table: Table, columns: ColumnMapping) -> EntityRecognition:
        examples = [tagged_text(table, row, record, columns) for row, record in table.rows]
        types = {tag[2:] for example in examples for tag in example.tags if tag != "O"}
        (column,) = columns.labels
        if not types:
            raise ScriptError(f"{table.name}, column {column}: there is no entity")
        scheme, sentence, position = detect_scheme([example.tags for example in examples])
        if scheme is None:
            reason = "the tag fits none of the schemes IOB1, IOB2, IOBES and BILOU"
            raise tag_error(table, *table.rows[sentence], column, position, reason)
        return cls(scheme, types, columns)

    def example(self, table: Table, row: int, record: Record) -> TaggedText:
        example = tagged_text(table, row, record, self.columns)
        (column,) = self.columns.labels
        for position, tag in enumerate(example.tags):
            if tag not in self.index:
                reason = "the tag is of no type and scheme of the training data"
                raise tag_error(table, row, record, column, position, reason)
        if (fault := self.scheme.first_invalid(example.tags)) is not None:
            raise tag_error(table, row, record, column, fault, f"the tag must not stand there in {self.scheme.name}")
        return example

    def label_counts(self, examples: Examples[TaggedText]) -> dict[str, int]:
        return dict(sorted(Counter(kind for row in examples.rows for kind in self.spans.span_types(row.tags)).items()))

    def stratum(self, example: TaggedText) -> Stratum:
        return sorted(set(self.spans.span_types(example.tags)))

    def group(self, example: TaggedText) -> Hashable:
        return example.text

    def encode(
        self, examples: Examples[TaggedText], tokenizer: PreTrainedTokenizerBase, limits: TokenLimits, *, training: bool
    ) -> EncodedExamples:
        require_offsets(tokenizer)
        encoding = tokenizer(
            [row.text for row in examples.rows],
            truncation=True,
            max_length=limits.max_length,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        features, example_indices = to_features(encoding), encoding["overflow_to_sample_mapping"]
        word_tokens: list[dict[int, int]] = []  # for each window: position of a word's first token -> word
        seen: set[tuple[int, int]] = set()
        for index, offsets, feature in zip(example_indices, encoding["offset_mapping"], features, strict=True):
            words = first_tokens(examples.rows[index].words, offsets)
            word_tokens.append({position: word for position, word in words.items() if (index, word) not in seen})
            seen.update((index, word) for word in words.values())
            feature["labels"] = [IGNORE_INDEX] * len(offsets)
            for position, word in word_tokens[-1].items():
                feature["labels"][position] = self.index[examples.rows[index].tags[word]]
        notes = []
        if n_long := sum(n > 1 for n in Counter(example_indices).values()):
            notes.append(
                f"{n_long} of {len(examples)} sentences are longer than {limits.max_length} tokens: read in parts"
            )
        if n_without := sum(len(row.words) for row in examples.rows) - len(seen):
            notes.append(f"{n_without} words have no token of their own; they count as O")
        return EncodedExamples(features, partial(self.compute_metrics, examples, example_indices, word_tokens), notes)

    def collator(self, tokenizer: PreTrainedTokenizerBase, limits: TokenLimits) -> Any:
        import transformers

        return transformers.DataCollatorForTokenClassification(tokenizer)

    def reduce_logits(self, logits: Any, labels: Any) -> Any:
        return logits.argmax(-1)

    def compute_metrics(
        self,
        examples: Examples[TaggedText],
        example_indices: Sequence[int],
        word_tokens: Sequence[Mapping[int, int]],
        outputs: np.ndarray,
    ) -> dict[str, float]:
        """Return the metrics of label indices (windows, tokens)."""
        predictions = [["O"] * len(row.words) for row in examples.rows]
        for index, words, label_indices in zip(example_indices, word_tokens, outputs, strict=True):
            for position, word in words.items():
                predictions[index][word] = self.labels[label_indices[position]]
        return span_metrics([row.tags for row in examples.rows], predictions, self.scheme)


def span_metrics(targets: list[list[str]], predictions: list[list[str]], scheme: TagScheme) -> dict[str, float]:
    """Return precision, recall and F1 of the spans, strictly by their scheme, and the accuracy of the tags."""
    import seqeval.scheme
    from seqeval.metrics.v1 import precision_recall_fscore_support

    kind = getattr(seqeval.scheme, scheme.name)
    micro: Any = {"average": "micro", "scheme": kind, "zero_division": 0}
    precision, recall, f1, _ = precision_recall_fscore_support(targets, predictions, **micro)
    pairs = zip(targets, predictions, strict=True)
    correct = [tag == predicted for row, other in pairs for tag, predicted in zip(row, other, strict=True)]
    return {
        "f1": float(f1),
        "precision": float(precision),
        "recall": float(recall),
        "accuracy": sum(correct) / len(correct),
    }


def first_tokens(words: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Return position of its first token -> word, for the words that have a token."""
    words_by_token: dict[int, int] = {}
    word = 0
    last_word = -1
    for position, (start, end) in enumerate(offsets):
        while word < len(words) and words[word][1] <= start:
            word += 1
        if start < end and word < len(words) and words[word][0] < end and word > last_word:
            words_by_token[position] = last_word = word
    return words_by_token
