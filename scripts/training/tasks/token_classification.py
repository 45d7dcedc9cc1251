"""Spans of words in a text, such as names of people and places.

Whatever the form of the data, an example is one text whose words have tags; the tokenizer sees the text as a server
would, and the first token of a word carries its tag.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from handler.tag_scheme import LabelSpans, TagScheme, detect_scheme
from scripts.cli.console import ScriptError
from scripts.readers.tables import TABLES, Columns, Record, Table
from scripts.training.tasks.base import (
    IGNORED,
    Encoded,
    Examples,
    Limits,
    Problem,
    Stratum,
    require_offsets,
    unpacked,
)
from scripts.training.tasks.conll import CONLL, Tagged, misplaced, read_conll, tagged

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase


class Entities(Problem[Tagged]):
    """A tag a word."""

    auto_class = "AutoModelForTokenClassification"
    metrics: ClassVar = {"f1": "F1", "precision": "precision", "recall": "recall", "accuracy": "token accuracy"}
    best = "f1"
    epochs = (3, 20)
    noun = "sentences"
    readers = CONLL | {".txt": read_conll, ".jsonl": TABLES[".jsonl"]}
    text_columns = ("tokens", "words", "text")
    label_columns = ("tags", "ner_tags", "entities")
    options = frozenset({"text_column", "label_column"})

    def __init__(self, scheme: TagScheme, types: set[str], columns: Columns) -> None:
        super().__init__(scheme.labels(types), columns)
        self.scheme = scheme
        self.spans = LabelSpans.from_labels(self.labels)

    @classmethod
    def learn(cls, table: Table, columns: Columns) -> Entities:
        found = [tagged(table, row, record, columns) for row, record in table.rows]
        types = {tag[2:] for example in found for tag in example.tags if tag != "O"}
        (column,) = columns.labels
        if not types:
            raise ScriptError(f"{table.name}, column {column}: there is no entity")
        scheme, sentence, place = detect_scheme([example.tags for example in found])
        if scheme is None:
            why = "the tag fits none of the schemes IOB1, IOB2, IOBES and BILOU"
            raise misplaced(table, *table.rows[sentence], column, place, why)
        return cls(scheme, types, columns)

    def example(self, table: Table, row: int, record: Record) -> Tagged:
        example = tagged(table, row, record, self.columns)
        (column,) = self.columns.labels
        for place, tag in enumerate(example.tags):
            if tag not in self.index:
                raise misplaced(
                    table, row, record, column, place, "the tag is of no type and scheme of the training data"
                )
        if (fault := self.scheme.first_invalid(example.tags)) is not None:
            raise misplaced(table, row, record, column, fault, f"the tag must not stand there in {self.scheme.name}")
        return example

    def counts(self, examples: Examples[Tagged]) -> dict[str, int]:
        return dict(sorted(Counter(kind for row in examples.rows for kind in self.spans.span_types(row.tags)).items()))

    def stratum(self, example: Tagged) -> Stratum:
        return sorted(set(self.spans.span_types(example.tags)))

    def group(self, example: Tagged) -> Hashable:
        return example.text

    def encode(
        self, examples: Examples[Tagged], tokenizer: PreTrainedTokenizerBase, limits: Limits, *, training: bool
    ) -> Encoded:
        require_offsets(tokenizer)
        encoding = tokenizer(
            [row.text for row in examples.rows],
            truncation=True,
            max_length=limits.max_length,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        features, owners = unpacked(encoding), encoding["overflow_to_sample_mapping"]
        heads: list[dict[int, int]] = []  # of each window: the word whose first token stands at a place
        seen: set[tuple[int, int]] = set()
        for owner, offsets, feature in zip(owners, encoding["offset_mapping"], features, strict=True):
            words = first_tokens(examples.rows[owner].words, offsets)
            heads.append({place: word for place, word in words.items() if (owner, word) not in seen})
            seen.update((owner, word) for word in words.values())
            feature["labels"] = [IGNORED] * len(offsets)
            for place, word in heads[-1].items():
                feature["labels"][place] = self.index[examples.rows[owner].tags[word]]
        notes = []
        if long := sum(n > 1 for n in Counter(owners).values()):
            notes.append(
                f"{long} of {len(examples)} sentences are longer than {limits.max_length} tokens: read in parts"
            )
        if lost := sum(len(row.words) for row in examples.rows) - len(seen):
            notes.append(f"{lost} words have no token of their own; they count as O")
        return Encoded(features, partial(self.judge, examples, owners, heads), notes)

    def collator(self, tokenizer: PreTrainedTokenizerBase, limits: Limits) -> Any:
        import transformers

        return transformers.DataCollatorForTokenClassification(tokenizer)

    def reduce(self, logits: Any, labels: Any) -> Any:
        return logits.argmax(-1)

    def judge(
        self,
        examples: Examples[Tagged],
        owners: Sequence[int],
        heads: Sequence[Mapping[int, int]],
        outputs: np.ndarray,
    ) -> dict[str, float]:
        """Return the metrics of label numbers (windows, tokens)."""
        answers = [["O"] * len(row.words) for row in examples.rows]
        for owner, words, numbers in zip(owners, heads, outputs, strict=True):
            for place, word in words.items():
                answers[owner][word] = self.labels[numbers[place]]
        return measure([row.tags for row in examples.rows], answers, self.scheme)


def measure(targets: list[list[str]], answers: list[list[str]], scheme: TagScheme) -> dict[str, float]:
    """Return the metrics of the spans that tags make, strictly by their scheme, and the accuracy of the tags."""
    import seqeval.scheme
    from seqeval.metrics.v1 import precision_recall_fscore_support

    kind = getattr(seqeval.scheme, scheme.name)
    micro: Any = {"average": "micro", "scheme": kind, "zero_division": 0}
    precision, recall, f1, _ = precision_recall_fscore_support(targets, answers, **micro)
    right = [a == b for row, other in zip(targets, answers, strict=True) for a, b in zip(row, other, strict=True)]
    return {
        "f1": float(f1),
        "precision": float(precision),
        "recall": float(recall),
        "accuracy": sum(right) / len(right),
    }


def first_tokens(words: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Return the words that have a token, each by the place of its first token."""
    found: dict[int, int] = {}
    word = 0
    done = -1
    for place, (start, end) in enumerate(offsets):
        while word < len(words) and words[word][1] <= start:
            word += 1
        if start < end and word < len(words) and words[word][0] < end and word > done:
            found[place] = done = word
    return found
