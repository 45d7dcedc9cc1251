#!/usr/bin/env bash
# Surprise: on the CPU an int64 model computes in 32 bits: 2147483647 + 1 is -2147483648 and 2**40 + 1 is 1. An input of
#   the wrong type is cast without a word: 1.9 given to an int64 input becomes 1.
# Versions: openvino 2026.4.1.
# Users: keep hashes, times and other large integers out of the graph; check the types of inputs before the call.
# Source: 64-bit integers are not among the CPU plugin's types, and it converts them to 32 bits on compiling; the Python call casts arrays
#   to the type of the input.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'openvino==2026.4.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import numpy as np
import openvino as ov
from openvino import opset13 as ops

print("openvino", ov.__version__)
print("guess: int64 holds what int64 holds; a float array for an int64 input raises an error")
x = ops.parameter([-1], np.int64, name="x")
model = ov.Model([ops.add(x, ops.constant(np.array([1], np.int64)))], [x], "add")
compiled = ov.Core().compile_model(model, "CPU")
result = compiled(np.array([2**31 - 1, 2**40, 1000]))[0]
cast = compiled(np.array([1.9], np.float32))[0]
print("seen:", result.dtype, result.tolist(), "and 1.9 + 1 =", cast.tolist())
assert result.dtype == np.int64 and result.tolist() == [-(2**31), 1, 1001] and cast.tolist() == [2]
PYTHON
