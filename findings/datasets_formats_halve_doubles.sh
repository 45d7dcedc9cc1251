#!/usr/bin/env bash
# Surprise: with_format("numpy") and with_format("torch") hand out a float64 column as float32: times in seconds move
#   by up to a minute, amounts and coordinates lose digits. The file and the features say float64.
# Versions: datasets 5.2.0, numpy 2.4.6; with_format("arrow") and no format keep the numbers.
# Users: pass the type: with_format("numpy", dtype=numpy.float64), or keep times as integers or timestamps.
# Source: the formatters cast every floating-point value to float32 by default, whatever its type was.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'datasets==5.2.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import datasets
import numpy
from datasets import Dataset

print("datasets", datasets.__version__, "numpy", numpy.__version__)
print("guess: a float64 column is a float64 array")
times = [1700000001.25, 1700000060.5, 1700000119.75]
dataset = Dataset.from_dict({"seconds": times})
array = dataset.with_format("numpy")["seconds"][:]
exact = dataset.with_format("numpy", dtype=numpy.float64)["seconds"][:]
print("seen:", dataset.features["seconds"], "is handed out as", array.dtype, array.astype(float).tolist(), "for", times)
assert array.dtype == numpy.float32
assert numpy.abs(array.astype(float) - times).max() > 50
assert exact.tolist() == times
PYTHON
