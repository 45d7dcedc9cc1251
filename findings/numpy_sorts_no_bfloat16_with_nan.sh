#!/usr/bin/env bash
# Surprise: numpy.sort and argsort of a bfloat16 array that holds a NaN leave numbers out of order, also those before
#   and after it, the median can be a number and unique() gives numbers twice; float32 and float16 put NaN last, and
#   their median is NaN.
# Versions: numpy 2.4.6, ml-dtypes 0.6.0 (bfloat16 and the float8 types).
# Users: widen such arrays to float32 before sort, argsort, median, percentile and unique, or look for NaN first.
# Source: the comparison that ml_dtypes gives numpy for sorting knows no place for NaN.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'numpy==2.4.6' 'ml-dtypes==0.6.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import warnings
from importlib.metadata import version

import ml_dtypes
import numpy

print("numpy", numpy.__version__, "ml-dtypes", version("ml-dtypes"))
print("guess: NaN comes last, as in every other array of floats, and the others are in order")
warnings.simplefilter("ignore")
values = [3, float("nan"), 1, 2, float("nan"), 0]
seen = {}
for kind in (numpy.float16, numpy.float32, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn):
    array = numpy.array(values, dtype=kind)
    seen[numpy.dtype(kind).name] = numpy.sort(array).astype(float).tolist()
median = float(numpy.median(numpy.array(values, dtype=ml_dtypes.bfloat16)))
plain = float(numpy.median(numpy.array(values, dtype=numpy.float32)))
unique = numpy.unique(numpy.array(values * 2, dtype=ml_dtypes.bfloat16)).astype(float).tolist()
print("seen:", values, "sorted", seen, "median", median, "of float32", plain, "unique", unique)
assert str(seen["float32"]) == str(seen["float16"]) == "[0.0, 1.0, 2.0, 3.0, nan, nan]" and plain != plain and median == median and unique.count(3) == 2
for name in ("bfloat16", "float8_e4m3fn"):
    numbers = [value for value in seen[name] if value == value]
    assert numbers != sorted(numbers)
PYTHON
