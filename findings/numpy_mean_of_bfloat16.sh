#!/usr/bin/env bash
# Surprise: the mean of 1000 ones in bfloat16 is 0.256, and of 768 embeddings 0.67 instead of 1: numpy adds bfloat16 numbers
#   in bfloat16, where a sum of ones stops at 256. Means of float16 are right.
# Versions: numpy 2.4.6, ml-dtypes 0.5.4.
# Users: pass dtype=numpy.float32 to every sum, mean, std and norm of bfloat16 arrays (pooling, averages of checkpoints),
#   or widen them first.
# Source: numpy widens float16 inside of mean and adds in pairs; types that another package registers get neither.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'numpy==2.4.6' 'ml-dtypes==0.5.4'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from ml_dtypes import bfloat16

print("numpy", np.__version__, "ml-dtypes", version("ml-dtypes"))
print("guess: a mean of bfloat16 is as good as one of float16, within 1 %")
ones = {dtype.__name__: float(np.ones(1000, dtype).mean()) for dtype in (np.float16, bfloat16)}
vectors = np.random.default_rng(0).normal(1, 0.1, size=(768, 4)).astype(bfloat16)
pooled, right = vectors.mean(axis=0).astype(float), vectors.mean(axis=0, dtype=np.float32).astype(float)
print("seen: means of 1000 ones", ones, "pooled vector", pooled.round(2).tolist(), "in float32", right.round(2).tolist())
assert ones["float16"] == 1 and ones["bfloat16"] < 0.26
assert (pooled < 0.7).all() and (abs(right - 1) < 0.02).all()
PYTHON
