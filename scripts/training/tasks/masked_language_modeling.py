"""Hidden words: a language model learns how people write, from plain text without labels."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, ClassVar

from scripts.cli.console import ScriptError
from scripts.readers.tables import LINES, TABLES, Record, Table
from scripts.training.tasks import masking
from scripts.training.tasks.base import Encoded, Examples, Limits, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class MaskedWords(Problem[str]):
    """A sentence or a passage; longer ones are read in parts."""

    auto_class = "AutoModelForMaskedLM"
    metrics: ClassVar = masking.TITLES
    best = "perplexity"
    lower_is_better = True
    readers = LINES | TABLES
    label_columns = ()
    options = frozenset({"text_column", "whole_words"})
    max_length = 128
    eval_share = 1

    def examples(self, table: Table) -> Examples[str]:
        filled = [(row, record) for row, record in table.rows if record.get(self.columns.text) != ""]
        if not filled:
            raise ScriptError(f"{table.name}: no text")
        return Examples(table.name, table.sha256, [self.example(table, row, record) for row, record in filled])

    def example(self, table: Table, row: int, record: Record) -> str:
        return table.text(row, record, self.columns.text)

    def group(self, example: str) -> Hashable:
        return example

    def encode(
        self, examples: Examples[str], tokenizer: PreTrainedTokenizerBase, limits: Limits, *, training: bool
    ) -> Encoded:
        encoding = tokenizer(
            list(examples.rows), truncation=True, max_length=limits.max_length, return_overflowing_tokens=True
        )
        features = masking.with_units(encoding, tokenizer, whole_words=limits.whole_words)
        notes = []
        if len(features) > len(examples):
            notes.append(f"{len(examples)} texts are read in {len(features)} parts of {limits.max_length} tokens")
        return Encoded(masking.prepared(features, tokenizer, limits, training=training), masking.measure, notes)

    def collator(self, tokenizer: PreTrainedTokenizerBase, limits: Limits) -> Any:
        return masking.Hider(tokenizer)

    def reduce(self, logits: Any, labels: Any) -> Any:
        return masking.reduce(logits, labels)
