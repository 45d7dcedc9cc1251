#!/usr/bin/env bash
# Surprise: opening a model in CTranslate2 sets the number of threads of PyTorch in the same process, if torch was imported
#   first: with intra_threads=1, the fastest setting of several workers, every PyTorch model computes with one thread
#   from then on. Deleting the model does not undo it. If ctranslate2 was imported first, nothing happens.
# Versions: ctranslate2 4.8.5, torch 2.13.0 (Linux wheels, x86-64).
# Users: import ctranslate2 first, or call torch.set_num_threads after opening each CTranslate2 model.
# Source: CTranslate2 calls omp_set_num_threads in the thread that opens a model; both wheels bring an OpenMP library, and
#   the one that was loaded first answers the calls of both.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'ctranslate2==4.8.5' 'transformers==5.20.0' 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import json
import subprocess
import sys
from pathlib import Path

import ctranslate2
import torch
import transformers
from ctranslate2.converters import TransformersConverter
from transformers import BertConfig, BertModel, BertTokenizer

transformers.logging.set_verbosity_error()
print("ctranslate2", ctranslate2.__version__, "torch", torch.__version__)
print("guess: intra_threads is the setting of that model alone")
names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good"]
BertTokenizer(vocab={name: i for i, name in enumerate(names)}).save_pretrained("bert")
size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
BertModel(BertConfig(vocab_size=6, max_position_embeddings=16, **size)).save_pretrained("bert")
config = Path("bert/config.json")
config.write_text(json.dumps({**json.loads(config.read_text()), "position_embedding_type": "absolute"}))
TransformersConverter("bert").convert("converted")
program = """
torch.set_num_threads(4)
seen = [torch.get_num_threads()]
for threads in (1, 3):
    model = ctranslate2.Encoder("converted", intra_threads=threads)
    seen.append(torch.get_num_threads())
del model
print(seen + [torch.get_num_threads()])
"""
seen = {}
for first in ("import torch, ctranslate2", "import ctranslate2, torch"):
    done = subprocess.run([sys.executable, "-c", first + program], capture_output=True, text=True, check=True)
    seen[first] = done.stdout.strip()
    print(f"seen: {first}; threads of PyTorch: set to 4, opened with 1, opened with 3, deleted: {seen[first]}")
assert list(seen.values()) == ["[4, 1, 3, 3]", "[4, 4, 4, 4]"]
PYTHON
