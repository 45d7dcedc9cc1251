#!/usr/bin/env bash
# Surprise: BERTScore of torchmetrics compares texts that do not belong together: of the pairs of a batch whose texts
#   have different lengths, equal pairs do not score 1, and the scores differ from those of each pair alone.
# Versions: torchmetrics 1.9.0, torch 2.13.0, transformers 5.20.0.
# Users: score one pair in each call, or use the package bert-score; results that were made in batches are wrong.
# Source: both lists are sorted by length, each by itself, and put back by the order of the sorting instead of its
#   inverse. The two agree where the sorting only swaps texts, so small tests pass (torchmetrics issue 2728).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torchmetrics==1.9.0' 'torch==2.13.0' 'transformers==5.20.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import logging
from importlib.metadata import version

import torch
from torchmetrics.text.bert import BERTScore
from transformers import BertConfig, BertModel, BertTokenizerFast
from transformers.utils import logging as transformers_logging

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
logging.disable(logging.WARNING)
print(*(f"{package} {version(package)}" for package in ("torchmetrics", "torch", "transformers")))
print("guess: a pair has one score, alone and in a batch, and two equal texts score 1")
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
torch.manual_seed(0)
small = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
BertModel(BertConfig(vocab_size=len(words), **small)).save_pretrained("model")
BertTokenizerFast(vocab={word: number for number, word in enumerate(words)}).save_pretrained("model")


def scores(predicted: list[str], target: list[str]) -> list[float]:
    metric = BERTScore("model", num_layers=2, max_length=32)
    return [round(float(value), 3) for value in torch.atleast_1d(metric(predicted, target)["f1"])]


pairs = [("a b c d e f", "a b c d e f"), ("a", "b c d e"), ("b c", "b c"), ("h h h", "a b")]
batch = scores(*map(list, zip(*pairs, strict=True)))
alone = [scores([predicted], [target])[0] for predicted, target in pairs]
print("seen: pairs", pairs, "F1 in a batch", batch, "alone", alone)
assert alone[0] == alone[2] == 1 and batch[0] < 0.95 and batch[2] < 0.95
assert sorted(batch) != sorted(alone)
PYTHON
