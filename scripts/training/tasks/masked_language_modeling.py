"""Masked language modelling: a model is adapted to a domain by plain text without labels."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, ClassVar

from scripts.cli.console import ScriptError
from scripts.readers.formats import TABLES, TEXT_LINES, Record
from scripts.readers.tables import Table
from scripts.training.tasks import masking
from scripts.training.tasks.base import EncodedExamples, Examples, TokenLimits, TrainingTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class MaskedLanguageModeling(TrainingTask[str]):
    """Masked tokens of a sentence or a passage; a longer text is read in parts."""

    auto_class = "AutoModelForMaskedLM"
    metrics: ClassVar = masking.METRICS
    best_metric = "perplexity"
    group_name = "different texts"
    readers = TEXT_LINES | TABLES
    label_columns = ()
    options = frozenset({"text_column", "whole_words"})
    max_length = 128
    eval_batch_factor = 1
    needs_mask_token = True

    def examples(self, table: Table) -> Examples[str]:
        rows = [(row, record) for row, record in table.rows if record.get(self.columns.text) != ""]
        if not rows:
            raise ScriptError(f"{table.name}: no text")
        return Examples(table.name, table.sha256, [self.example(table, row, record) for row, record in rows])

    def example(self, table: Table, row: int, record: Record) -> str:
        return table.text(row, record, self.columns.text)

    def texts(self, example: str) -> tuple[str, ...]:
        return (example,)

    def group(self, example: str) -> Hashable:
        return example

    def encode(
        self, examples: Examples[str], tokenizer: PreTrainedTokenizerBase, limits: TokenLimits, *, training: bool
    ) -> EncodedExamples:
        encoding = tokenizer(
            list(examples.rows), truncation=True, max_length=limits.max_length, return_overflowing_tokens=True
        )
        features = masking.with_mask_units(encoding, tokenizer, whole_words=limits.whole_words)
        notes = []
        if len(features) > len(examples):
            notes.append(f"{len(examples)} texts are read in {len(features)} parts of {limits.max_length} tokens")
        maskable = masking.prepare(features, tokenizer, limits, training=training)
        return EncodedExamples(maskable, masking.masked_lm_metrics, notes)

    def collator(self, tokenizer: PreTrainedTokenizerBase, limits: TokenLimits) -> Any:
        return masking.MaskingCollator(tokenizer)

    def reduce_logits(self, logits: Any, labels: Any) -> Any:
        return masking.token_losses(logits, labels)
