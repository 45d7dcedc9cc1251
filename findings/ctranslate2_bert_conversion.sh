#!/usr/bin/env bash
# Surprise: BERT models saved by transformers 5 cannot be converted, until "position_embedding_type": "absolute" is added
#   to config.json; and a classifier is then converted without its head and labels, without a warning.
# Versions: ctranslate2 4.8.5, transformers 5.20.0, torch 2.13.0.
# Users: add the key before converting, and compute the head yourself on pooler_output or last_hidden_state.
# Source: the converter checks a setting that transformers 5 no longer has; for BERT it knows the encoder and pooler only.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'ctranslate2==4.8.5' 'transformers==5.20.0' 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import json
from pathlib import Path

import ctranslate2
import torch
import transformers
from ctranslate2.converters import TransformersConverter
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

transformers.logging.set_verbosity_error()
print("ctranslate2", ctranslate2.__version__, "transformers", transformers.__version__, "torch", torch.__version__)
print("guess: a BERT classifier is converted, or refused because of its head")
names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good"]
BertTokenizer(vocab={name: i for i, name in enumerate(names)}).save_pretrained("bert")
size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
BertForSequenceClassification(BertConfig(vocab_size=6, max_position_embeddings=16, **size)).save_pretrained("bert")
try:
    TransformersConverter("bert").convert("refused")
    raise SystemExit("changed: the folder is converted as it is")
except AttributeError as error:
    print("seen: AttributeError:", error)
config = Path("bert/config.json")
config.write_text(json.dumps({**json.loads(config.read_text()), "position_embedding_type": "absolute"}))
TransformersConverter("bert").convert("converted")
output = ctranslate2.Encoder("converted").forward_batch([["[CLS]", "good", "[SEP]"]])
fields = [name for name in dir(output) if not name.startswith("_")]
print("seen: with the key it is converted; outputs", fields, "config", Path("converted/config.json").read_text().split())
assert fields == ["last_hidden_state", "pooler_output"]
assert "label" not in Path("converted/config.json").read_text()
PYTHON
