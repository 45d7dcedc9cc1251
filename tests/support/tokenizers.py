"""Tokenizers of other kinds than BERT's, and texts that are difficult to tokenize."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.support.samples import BASE, TEXTS

fast_tokenizer: Any = PreTrainedTokenizerFast  # untyped in transformers

DIFFICULT_TEXTS = [
    "Élodie Müller-Łukasz lives in São Paulo; naïve façade",
    "Anna und Bob aßen in Zürich, 北京大学 and Москва.",
    "שלום עולם, מה שלומך? مرحبا",
    "🙂🙂 hi 👍🏽 there 🇩🇪!",
    "  two  spaces   three\n\n\nlines\t tab ",
    "한국어 텍스트 と 日本語",
    "e\u0301te\u0301 \u200bzero\u200dwidth \ufeff bom \x00 nul",
    "[CLS] is not [SEP] nor [MASK] here",
    "x" * 150,
    "a.b.c@d-e_f/g",
]


def byte_level_tokenizer() -> Any:
    """Train a byte-level BPE as the RoBERTa family has, on the sample texts."""
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet)
    model.train_from_iterator(TEXTS, trainer)
    model.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return fast_tokenizer(tokenizer_object=model, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def generic_tokenizer() -> Any:
    """Return BERT's vocabulary without BERT's class: transformers then passes no segment ids to the model."""
    return fast_tokenizer(tokenizer_file=str(BASE / "tokenizer.json"), pad_token="[PAD]", unk_token="[UNK]")
