"""Models with random weights and a synthetic vocabulary: speed does not depend on the values of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertTokenizer, PreTrainedTokenizerBase

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def word_tokenizer(size: int = 30522) -> PreTrainedTokenizerBase:
    """Return a tokenizer with BERT's number of tokens: the special ones, and whole words w0, w1, ..."""
    tokens = [*SPECIAL, *(f"w{index}" for index in range(size - len(SPECIAL)))]
    return BertTokenizer(vocab={token: index for index, token in enumerate(tokens)}, model_max_length=512)


def random_bert(
    folder: Path,
    layers: int,
    width: int,
    tokenizer: PreTrainedTokenizerBase,
    labels: int = 10,
    device: torch.device | None = None,
) -> Path:
    """Write a BERT classifier with random weights, which are drawn on a device, and its tokenizer."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // (64 if width >= 512 else 32)),
        intermediate_size=4 * width,
        initializer_range=0.05,  # larger than usual: answers must differ, so that swapped ones are noticed
        id2label={index: f"LABEL_{index}" for index in range(labels)},
        label2id={f"LABEL_{index}": index for index in range(labels)},
    )
    torch.manual_seed(0)
    make: Any = AutoModelForSequenceClassification.from_config
    with device or torch.device("cpu"):
        model = make(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
