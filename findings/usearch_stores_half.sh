#!/usr/bin/env bash
# Surprise: an index rounds vectors to bfloat16 by default, three digits, though it takes and returns float32:
#   different vectors have the distance 0, and scores differ from numpy's.
# Versions: usearch 2.26.6, numpy 2.4.6.
# Users: pass dtype="f32" where scores are compared with a threshold or near duplicates are told apart.
# Source: the default of dtype is bf16; get() and distances are widened to float32 again.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'usearch==2.26.6' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import numpy as np
import usearch
from usearch.index import Index

print("usearch", usearch.__version__, "numpy", np.__version__)
print("guess: get() returns the float32 vector that was added, and only an equal vector has the distance 0")
first = np.array([0.5000, 0.5, 0.5, 0.5], np.float32)
second = np.array([0.5007, 0.5, 0.5, 0.4993], np.float32)
for dtype in (None, "f32"):
    index = Index(ndim=4, metric="l2sq") if dtype is None else Index(ndim=4, metric="l2sq", dtype=dtype)
    index.add(1, second)
    stored, distance = index.get(1), float(index.search(first, 1).distances[0])
    print("seen:", dtype or "default", index.dtype, stored.dtype, stored.tolist(), "distance", distance, "numpy", float(((first - second) ** 2).sum()))
    if dtype is None:
        assert stored.dtype == np.float32 and stored.tolist() == first.tolist() and distance == 0.0
    else:
        assert stored.tolist() == second.tolist() and distance > 9e-7
PYTHON
