#!/usr/bin/env bash
# Surprise: saving the same tensors with the same metadata gives other bytes each time, within one process too, when the
#   metadata have more than one entry: they are written in the order of a randomly seeded map. Hashes of files differ.
# Versions: safetensors 0.8.0, numpy 2.4.6.
# Users: where a file is hashed, signed or cached, write one entry of metadata (JSON with sorted keys, for example), or keep
#   the values as tensors, whose order is fixed.
# Source: the library is in Rust, whose maps have a seed of their own.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'safetensors==0.8.0' 'numpy==2.4.6'
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
import safetensors
from safetensors.numpy import save

print("safetensors", safetensors.__version__, "numpy", np.__version__)
print("guess: the same tensors and metadata are the same bytes")
tensors = {"weight": np.ones((2, 2), np.float32), "bias": np.zeros(2, np.float32)}
seen = {}
for metadata in ({"format": "pt"}, {"format": "pt", "step": "100", "author": "me", "task": "classify"}):
    seen[len(metadata)] = len({save(tensors, metadata) for _ in range(200)})
print("seen: entries of metadata -> different files of 200 saves:", seen)
assert seen[1] == 1 and seen[4] > 1
PYTHON
