"""Models with random weights, for speed does not depend on what weights say, and words for them to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertTokenizer, PreTrainedTokenizerBase

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def word_tokenizer(size: int = 30522) -> PreTrainedTokenizerBase:
    """Return a tokenizer of as many tokens as BERT's: special ones, and whole words w0, w1, ..."""
    tokens = [*SPECIAL, *(f"w{index}" for index in range(size - len(SPECIAL)))]
    return BertTokenizer(vocab={token: index for index, token in enumerate(tokens)}, model_max_length=512)


def random_bert(folder: Path, layers: int, width: int, tokenizer: PreTrainedTokenizerBase, labels: int = 10) -> Path:
    """Write a random BERT that classifies, and its tokenizer."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // (64 if width >= 512 else 32)),
        intermediate_size=4 * width,
        initializer_range=0.05,  # more than usual: answers must differ, or swapped ones would not be noticed
        id2label={index: f"LABEL_{index}" for index in range(labels)},
        label2id={f"LABEL_{index}": index for index in range(labels)},
    )
    torch.manual_seed(0)
    make: Any = AutoModelForSequenceClassification.from_config
    make(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
