#!/usr/bin/env bash
# Surprise: safetensors.numpy writes a transposed or sliced array without an error, and another array is read back.
# Versions: safetensors 0.8.0, numpy 2.4.6.
# Users: pass numpy.ascontiguousarray(array) for every array, above all in conversions that transpose kernels; compare
#   the file with the arrays once. The torch writer refuses such tensors, the numpy writer does not look.
# Source: the docstring asks for contiguous arrays; the writer takes the address and byte count of the array as it lies
#   in memory, with the shape of the view. New with 0.8 (issue 825 of safetensors).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'safetensors==0.8.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

print("safetensors", safetensors.__version__, "numpy", np.__version__)
print("guess: what is read back equals what was saved, or saving raises an error")
kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
save_file({"weight": kernel.T, "copy": np.ascontiguousarray(kernel.T)}, "weights.safetensors")
read = load_file("weights.safetensors")
print("seen: saved", kernel.T.tolist(), "read", read["weight"].tolist(), "contiguous copy read", read["copy"].tolist())
assert read["weight"].tolist() == [[0, 1], [2, 3], [4, 5]] != kernel.T.tolist()
assert np.array_equal(read["copy"], kernel.T)
PYTHON
