#!/usr/bin/env bash
# Surprise: tensors of load_file are the file: writing another model over it in place changes the weights of the model
#   that is loaded and serving, half old and half new while the copy runs.
# Versions: safetensors 0.8.0, torch 2.13.0 (CPU); transformers' from_pretrained loads in the same way.
# Users: never copy over a model in use (cp, rsync --inplace, a shared volume). Write beside it and rename, or clone()
#   each tensor after loading.
# Source: on the CPU the file is mapped into memory, and pages that were not changed show what the file holds now.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'safetensors==0.8.0' 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import os

import safetensors
import torch
from safetensors.torch import load_file, save_file

print("safetensors", safetensors.__version__, "torch", torch.__version__)
print("guess: load_file reads the file into memory once")
save_file({"weight": torch.zeros(1000)}, "model.safetensors")
save_file({"weight": torch.ones(1000)}, "new.safetensors")
loaded = load_file("model.safetensors")["weight"]
kept = loaded.clone()
with open("new.safetensors", "rb") as source, open("model.safetensors", "r+b") as target:
    target.write(source.read())
print("seen: after the copy in place the loaded sum is", loaded.sum().item(), "and that of a clone", kept.sum().item())
assert loaded.sum().item() == 1000 and kept.sum().item() == 0
save_file({"weight": torch.zeros(1000)}, "other.safetensors")
os.replace("other.safetensors", "model.safetensors")
print("seen: after a rename the loaded sum stays", loaded.sum().item())
assert loaded.sum().item() == 1000
PYTHON
