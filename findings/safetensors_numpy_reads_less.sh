#!/usr/bin/env bash
# Surprise: safetensors.numpy writes types that it does not read: load() fails on bfloat16 and float8, load_file() reads
#   bfloat16 and fails on float8.
# Versions: safetensors 0.8.0, numpy 2.4.6, ml-dtypes 0.5.4.
# Users: read bfloat16 with load_file or safe_open, never with load; read float8 with another framework, or save
#   array.view(numpy.uint8) and note the type in the metadata.
# Source: writing goes by the type's name; load looks it up in a table of numpy's own types, load_file in numpy itself,
#   with a detour by ml_dtypes for bfloat16 alone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'safetensors==0.8.0' 'numpy==2.4.6' 'ml-dtypes==0.5.4'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import load, load_file, save, save_file

print("safetensors", safetensors.__version__, "numpy", np.__version__, "ml-dtypes", ml_dtypes.__version__)
print("guess: load reads what save wrote, load_file what save_file wrote")
seen = {}
for dtype in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn):
    tensors = {"t": np.ones(2, dtype)}
    save_file(tensors, "t.safetensors")
    for name, read in (("load", lambda: load(save(tensors))), ("load_file", lambda: load_file("t.safetensors"))):
        try:
            seen[np.dtype(dtype).name, name] = str(read()["t"].dtype)
        except (KeyError, AttributeError) as error:
            seen[np.dtype(dtype).name, name] = type(error).__name__
print("seen:", seen)
assert seen["float16", "load"] == seen["float16", "load_file"] == "float16"
assert seen["bfloat16", "load"] == "KeyError" and seen["bfloat16", "load_file"] == "bfloat16"
assert seen["float8_e4m3fn", "load"] == "KeyError" and seen["float8_e4m3fn", "load_file"] == "AttributeError"
PYTHON
