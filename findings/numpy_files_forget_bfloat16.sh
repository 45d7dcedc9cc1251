#!/usr/bin/env bash
# Surprise: numpy.save writes arrays of ml_dtypes without an error, and numpy.load gives no numbers back: bfloat16,
#   float8_e4m3fn and int4 come back as raw bytes, so that three types of one byte cannot be told apart, and a file of
#   float8_e5m2 is not read at all.
# Versions: numpy 2.4.6, ml-dtypes 0.6.0.
# Users: save array.view("uint16") or view("uint8") and write the type beside it, or use safetensors; array.view(type)
#   brings a loaded array back if the type is known.
# Source: a .npy file names its type by dtype.str, which is "<V2", "|V1" or "<f1" for these types.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'numpy==2.4.6' 'ml-dtypes==0.6.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import ml_dtypes
import numpy as np

print("numpy", np.__version__, "ml_dtypes", ml_dtypes.__version__)
print("guess: the type is kept, as safetensors does, or refused when saving")
seen = {}
for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4"):
    written = np.array([0, 1, 2, 3], dtype=getattr(ml_dtypes, name))
    np.save("array.npy", written)
    try:
        read = np.load("array.npy")
    except ValueError as error:
        seen[name] = "not read"
        print("seen:", name, "not read:", error)
        continue
    assert read.view(written.dtype).tolist() == written.tolist()
    try:
        read.astype(np.float32)
        seen[name] = "numbers"
    except (TypeError, ValueError) as error:
        seen[name] = read.dtype.str
        print("seen:", name, "read as", read.dtype.str, read.tolist(), "astype:", error)
assert seen == {"bfloat16": "|V2", "float8_e4m3fn": "|V1", "float8_e5m2": "not read", "int4": "|V1"}, seen
PYTHON
