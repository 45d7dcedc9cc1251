"""Token classification: spans of words in a text, such as names of people and places.

An example is one text with tagged words, whatever the format of the data. The tokenizer reads the text as a server
does; the first token of a word has the word's tag.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

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
    balanced,
    to_features,
    weighted_cross_entropy,
)
from scripts.training.tasks.conll import CONLL, TaggedText, read_conll, tag_error, tagged_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class EntityRecognition(TrainingTask[TaggedText]):
    """One tag for each word."""

    auto_class = "AutoModelForTokenClassification"
    metrics: ClassVar = {"f1": "F1", "precision": "precision", "recall": "recall", "accuracy": "token accuracy"}
    best_metric = "f1"
    epochs = (3, 20)
    unit_name = "sentences"
    group_name = "different sentences"
    readers = CONLL | {".txt": read_conll} | TABLES
    text_columns = ("tokens", "words", "text")
    label_columns = ("tags", "ner_tags", "entities", "label", "labels")
    options = frozenset({"text_column", "label_column", "class_weights"})

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

    def class_weights(self, examples: Examples[TaggedText]) -> dict[str, float]:
        counts = Counter(tag for row in examples.rows for tag in row.tags)
        return balanced({label: counts[label] for label in self.labels})

    def loss(self, logits: Any, labels: Any, weights: Any) -> Any:
        return weighted_cross_entropy(logits, labels, weights)

    def stratum(self, example: TaggedText) -> Stratum:
        return sorted(set(self.spans.span_types(example.tags)))

    def texts(self, example: TaggedText) -> tuple[str, ...]:
        return (example.text,)

    def group(self, example: TaggedText) -> Hashable:
        return example.text

    def encode(
        self, examples: Examples[TaggedText], tokenizer: PreTrainedTokenizerBase, limits: TokenLimits, *, training: bool
    ) -> EncodedExamples:
        encoding = tokenizer(
            [row.text for row in examples.rows],
            truncation=True,
            max_length=limits.max_length,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        features, example_indices = to_features(encoding), encoding["overflow_to_sample_mapping"]
        word_tokens: list[dict[int, int]] = []  # for each window: position of a word's first token -> word
        visible: list[set[int]] = [set() for _ in examples.rows]  # the words that have a token
        for index, offsets in zip(example_indices, encoding["offset_mapping"], strict=True):
            words = first_tokens(examples.rows[index].words, offsets)
            word_tokens.append({position: word for position, word in words.items() if word not in visible[index]})
            visible[index].update(words.values())
        targets = [self.visible_tags(row.tags, words) for row, words in zip(examples.rows, visible, strict=True)]
        for index, positions, feature in zip(example_indices, word_tokens, features, strict=True):
            feature["labels"] = [IGNORE_INDEX] * len(feature["input_ids"])
            for position, word in positions.items():
                feature["labels"][position] = self.index[targets[index][word]]
        notes = []
        if n_long := sum(n > 1 for n in Counter(example_indices).values()):
            notes.append(
                f"{n_long} of {len(examples)} sentences are longer than {limits.max_length} tokens: read in parts"
            )
        if n_without := sum(len(row.words) - len(words) for row, words in zip(examples.rows, visible, strict=True)):
            notes.append(f"{n_without} words have no token of their own; they are left out")
        if n_missed := sum(len(tags.keys() - words) for tags, words in zip(targets, visible, strict=True)):
            notes.append(f"{n_missed} words of entities without any token count as missed")
        return EncodedExamples(features, partial(self.compute_metrics, targets, example_indices, word_tokens), notes)

    def visible_tags(self, tags: Sequence[str], visible: set[int]) -> dict[int, str]:
        """Return word -> tag for the words that have a token, so that a tagger of tokens can make the same spans.

        A tokenizer drops zero-width characters and lone accents, and an entity may begin within a token. The tag that
        such a word has is given to the next word of its span. A span without any token keeps its words: it is missed.
        """
        label_ids = np.array([self.index[tag] for tag in tags], dtype=np.intp)
        kept: dict[int, str] = {}
        for start, end in pairwise([*self.spans.starts(label_ids).tolist(), len(tags)]):
            words = [word for word in range(start, end) if word in visible]
            if tags[start] == "O":
                kept.update(dict.fromkeys(words, "O"))
                continue
            words = words or list(range(start, end))
            previous = next(reversed(kept.values()), "O")
            span = self.scheme.span_tags(self.spans.groups[label_ids[start]], len(words), previous)
            kept.update(zip(words, span, strict=True))
        return kept

    def collator(self, tokenizer: PreTrainedTokenizerBase, limits: TokenLimits) -> Any:
        import transformers

        return transformers.DataCollatorForTokenClassification(tokenizer)

    def reduce_logits(self, logits: Any, labels: Any) -> Any:
        return logits.argmax(-1)

    def compute_metrics(
        self,
        targets: Sequence[Mapping[int, str]],
        example_indices: Sequence[int],
        word_tokens: Sequence[Mapping[int, int]],
        outputs: np.ndarray,
    ) -> dict[str, float]:
        """Return the metrics of label indices (windows, tokens) against the tags of the words, by word."""
        predictions = [dict.fromkeys(tags, "O") for tags in targets]
        for index, words, label_indices in zip(example_indices, word_tokens, outputs, strict=True):
            for position, word in words.items():
                predictions[index][word] = self.labels[label_indices[position]]
        pairs = [(list(tags.values()), list(other.values())) for tags, other in zip(targets, predictions, strict=True)]
        return span_metrics([tags for tags, _ in pairs if tags], [other for _, other in pairs if other], self.scheme)


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
