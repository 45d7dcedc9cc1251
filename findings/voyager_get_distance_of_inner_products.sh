#!/usr/bin/env bash
# Surprise: get_distance of an index of inner products is not the distance that query gives: for two vectors whose dot
#   product is 1 it is -9801 where query says 0, once a longer vector is in the index. Nothing is said.
# Versions: voyager 2.2.3.
# Users: compute 1 - numpy.dot(a, b) yourself, or take distances from query; in the spaces Cosine and Euclidean both
#   agree.
# Source: inner products are searched with one more number for each stored vector, which a query sets to 0; get_distance
#   fills it for both vectors, and it then counts.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'voyager==2.2.3' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import numpy
from voyager import Index, Space

print("voyager", version("voyager"))
print("guess: get_distance(a, b) is what query(a) says of b")
unit = numpy.array([1, 0], dtype="float32")
seen = {}
for space in (Space.InnerProduct, Space.Cosine, Space.Euclidean):
    index = Index(space, 2)
    index.add_items(numpy.array([[1, 0], [100, 1]], dtype="float32"), ids=[7, 8])
    ids, distances = index.query(unit, k=2)
    queried = dict(zip(ids.tolist(), distances.tolist(), strict=True))[7]
    seen[space.name] = queried, index.get_distance(unit, unit)
    print("seen:", space.name, "query", seen[space.name][0], "get_distance", seen[space.name][1])
assert seen["Cosine"] == seen["Euclidean"] == (0, 0)
assert seen["InnerProduct"][0] == 0 and seen["InnerProduct"][1] < -9000
PYTHON
