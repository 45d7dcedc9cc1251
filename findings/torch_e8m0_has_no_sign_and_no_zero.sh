#!/usr/bin/env bash
# Surprise: torch casts -1 to the scale type float8_e8m0fnu as +1, and 0 as 2**-127, without an error: torch.zeros of the
#   type holds no zero. ml_dtypes (numpy, JAX) gives NaN for both.
# Versions: torch 2.13.0 (CPU), ml-dtypes 0.5.4.
# Users: scales of blocks (MXFP8, MXFP4) must be positive before the cast; give an empty block the scale 1. An error in their
#   computation that makes a scale negative is seen in numpy's file and is not in torch's.
# Source: torch takes the bits of the exponent, rounded, and leaves the sign; the type has no bit for it, and no zero.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torch==2.13.0' 'numpy==2.4.6' 'ml-dtypes==0.5.4'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import ml_dtypes
import numpy as np
import torch

print("torch", torch.__version__, "ml-dtypes", ml_dtypes.__version__)
print("guess: a number that the type cannot hold is NaN: both libraries agree")
values = torch.tensor([0.0, -1.0, -3.0, 1.5, 3.0, 6.0, float("inf")])
by_torch = values.to(torch.float8_e8m0fnu).float().tolist()
by_numpy = values.numpy().astype(ml_dtypes.float8_e8m0fnu).astype(np.float32).tolist()
zeros = torch.zeros(2, dtype=torch.float8_e8m0fnu).float().tolist()
print("seen:", values.tolist(), "in torch", by_torch, "in ml_dtypes", by_numpy, "torch.zeros", zeros)
assert str(by_torch[:3]) == str([2.0**-127, 1.0, 4.0]) and zeros == [2.0**-127] * 2
assert str(by_numpy[:3]) == "[nan, nan, nan]"
assert str(by_torch[3:]) == str(by_numpy[3:]) == "[2.0, 4.0, 8.0, nan]"
PYTHON
