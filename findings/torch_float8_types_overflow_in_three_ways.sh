#!/usr/bin/env bash
# Surprise: torch's float8 types overflow in three ways: 500 and even infinity become 448 in float8_e4m3fn, NaN in
#   float8_e4m3fnuz, and what float8_e5m2 cannot hold is infinite. A tensor's element set to 500 becomes 448, too, but fill_
#   and full raise an error.
# Versions: torch 2.13.0 (CPU), ml-dtypes 0.5.4 (numpy; NaN for both e4m3 types).
# Users: an infinity or a diverged weight cast to float8_e4m3fn looks healthy afterwards: check isfinite before the cast, and
#   clamp to torch.finfo(dtype).max, so that neither the type nor the library matters.
# Source: each type has a conversion of its own; e4m3fn saturates, and only NaN stays NaN.
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
print("guess: 500 and infinity become NaN in float8_e4m3fn, as in ml_dtypes, and fill_ does what a cast does")
values = torch.tensor([500.0, float("inf"), -float("inf"), float("nan"), 1e6])
seen = {}
for name in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2"):
    cast = values.to(getattr(torch, name)).float().tolist()
    by_numpy = values.numpy().astype(getattr(ml_dtypes, name)).astype(np.float32).tolist()
    seen[name] = str(cast), str(by_numpy)
    print("seen:", name, values.tolist(), "in torch", cast, "in ml_dtypes", by_numpy)
element = torch.zeros(2, dtype=torch.float8_e4m3fn)
element[0] = 500.0
try:
    filled = element.clone().fill_(500.0).tolist()
except RuntimeError as error:
    filled = str(error)
print("seen: element[0] = 500 gives", element[0].item(), "and fill_(500)", filled)
assert seen["float8_e4m3fn"] == ("[448.0, 448.0, -448.0, nan, 448.0]", "[nan, nan, nan, nan, nan]")
assert seen["float8_e4m3fnuz"] == ("[nan, nan, nan, nan, nan]", "[nan, nan, nan, nan, nan]")
assert seen["float8_e5m2"] == ("[512.0, inf, -inf, nan, inf]", "[512.0, inf, -inf, nan, inf]")
assert element[0].item() == 448 and "overflow" in str(filled)
PYTHON
