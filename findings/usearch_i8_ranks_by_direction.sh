#!/usr/bin/env bash
# Surprise: an index with dtype="i8" drops the length of each vector: distances of metric="l2sq" and "ip" are those of
#   vectors scaled to length 127, and the order is that of cosines. Of two vectors on one line the one that is a
#   hundred times longer has the distance 0.
# Versions: usearch 2.26.6, numpy 2.4.6.
# Users: take dtype="f16" or "bf16" for l2sq and ip where vectors are not normalised, as those of BERT's [CLS] are not.
# Source: a vector of floats is scaled to a fixed length before it is rounded to eight bits.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'usearch==2.26.6' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import numpy
from usearch.index import Index

print("usearch", version("usearch"), "numpy", numpy.__version__)
print("guess: eight bits round the numbers, and the nearest vector stays the nearest")
vectors = numpy.array([[1, 1], [100, 100], [1, 0.5]], dtype=numpy.float32)
query = numpy.array([1, 1], dtype=numpy.float32)
seen = {}
for metric in ("l2sq", "ip"):
    for kind in ("f32", "i8"):
        index = Index(ndim=2, metric=metric, dtype=kind)
        index.add(numpy.arange(3), vectors)
        matches = index.search(query, 3, exact=True)
        seen[metric, kind] = dict(sorted(zip(matches.keys.tolist(), matches.distances.tolist(), strict=True)))
print("seen: distances of", vectors.tolist(), "from", query.tolist(), seen)
assert seen["l2sq", "f32"] == {0: 0, 1: 19602, 2: 0.25} and seen["l2sq", "i8"][0] == seen["l2sq", "i8"][1] == 0 < seen["l2sq", "i8"][2]
assert seen["ip", "f32"][1] < seen["ip", "f32"][0] and seen["ip", "i8"][0] == seen["ip", "i8"][1]
PYTHON
