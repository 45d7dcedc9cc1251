"""Models with random weights and a synthetic vocabulary: speed does not depend on the values of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, BertTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from scripts.cli.console import ScriptError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def word_tokenizer(size: int = 30522) -> PreTrainedTokenizerBase:
    """Return a tokenizer with BERT's number of tokens: the special ones, and whole words w0, w1, ..."""
    tokens = [*SPECIAL, *(f"w{index}" for index in range(size - len(SPECIAL)))]
    return BertTokenizer(vocab={token: index for index, token in enumerate(tokens)}, model_max_length=512)


# The usual ratio of the feed-forward part to the width, where it is not BERT's 4.
INNER = {"modernbert": 1.5, "eurobert": 3.0}


def random_classifier(
    folder: Path,
    layers: int,
    width: int,
    tokenizer: PreTrainedTokenizerBase,
    labels: int = 10,
    device: torch.device | None = None,
    family: str = "bert",
) -> Path:
    """Write a classifier with random weights, which are drawn on a device, and its tokenizer.

    Args:
        family: its `model_type`; what the family does not share with BERT is as transformers has it by default.

    Raises:
        ScriptError: transformers has no such family, or none with this head.
    """
    settings: dict[str, Any] = {"pad_token_id": 0} if family in ("modernbert", "eurobert") else {}
    if family not in CONFIG_MAPPING:
        raise ScriptError(f"{family} is no model_type of transformers, e.g. bert, modernbert, nomic_bert")
    make_config: Any = AutoConfig.for_model
    config = make_config(
        family,
        **settings,
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // (64 if width >= 512 else 32)),
        intermediate_size=int(INNER.get(family, 4) * width),
        initializer_range=0.05,  # larger than usual: answers must differ, so that swapped ones are noticed
        id2label={index: f"LABEL_{index}" for index in range(labels)},
        label2id={f"LABEL_{index}": index for index in range(labels)},
    )
    torch.manual_seed(0)
    make: Any = AutoModelForSequenceClassification.from_config
    try:
        with device or torch.device("cpu"):
            model = make(config)
    except ValueError as error:
        raise ScriptError(f"random:{family}: {str(error).splitlines()[0][:200]}") from None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
