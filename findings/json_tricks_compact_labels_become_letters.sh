#!/usr/bin/env bash
# Surprise: with ndarray_compact a numpy array of labels (dtype object, as pandas below 3 gives texts) comes back as the letters
#   of the code that was written: ["neg", "pos", "neg"] is ["b", "6", "4"], of the right length and type. With a limit,
#   ndarray_compact=8, short arrays are right and long ones are not. Numbers in the byte order ">f4" become others, too.
# Versions: json-tricks 3.17.3, numpy 2.4.6.
# Users: array.tolist() or array.astype(str) for labels, array.astype(array.dtype.newbyteorder("=")) for numbers, or leave out
#   ndarray_compact.
# Source: the memory of the array is written whatever its type, and the reader takes the code of an object array for its list.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'json-tricks==3.17.3' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import json_tricks
import numpy as np

print("json-tricks", version("json-tricks"), "numpy", np.__version__)
print("guess: the compact form of an array is read as the same array, or refused")
labels = np.array(["neg", "pos", "neg"], object)
seen = {}
for name, array, compact in (
    ("plain", labels, None), ("compact", labels, True), ("short", labels, 8), ("long", np.tile(labels, 4), 8),
    ("fixed", labels.astype(str), True), ("numbers", np.array([0.1, 1], "=f4"), True), ("big-endian", np.array([0.1, 1], ">f4"), True),
):
    text = json_tricks.dumps(array, properties={"ndarray_compact": compact})
    read = json_tricks.loads(text)
    seen[name] = np.array_equal(read, array)
    print("seen:", name, array.tolist(), "is read as", read.tolist(), read.dtype, read.shape)
    if name == "compact":
        assert read.tolist() == ["b", "6", "4"] and read.dtype == object
assert seen == {
    "plain": True, "compact": False, "short": True, "long": False, "fixed": True, "numbers": True, "big-endian": False,
}
PYTHON
