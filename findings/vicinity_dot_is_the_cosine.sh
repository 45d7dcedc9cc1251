#!/usr/bin/env bash
# Surprise: metric="dot", which the table of backends names beside "cosine" for Annoy, is the cosine: the length of a vector
#   does not count, and the text with the greatest inner product is the last of three. Annoy itself ranks it first. The same
#   is true of the exact backend.
# Versions: vicinity 0.4.6, annoy 1.17.3 (pip builds it with a C++ compiler).
# Users: append sqrt(max norm**2 - norm**2) to each vector and 0 to the query, which makes the cosine rank by inner product, or
#   call the library behind the backend.
# Source: the table of names maps "dot" to COSINE; the inner product is called "inner_product" and refused by both backends.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'vicinity==0.4.6' 'annoy==1.17.3' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import numpy
from annoy import AnnoyIndex
from vicinity import Backend, Vicinity

print("vicinity", version("vicinity"), "annoy", version("annoy"))
print('guess: metric="dot" ranks by inner product')
vectors = numpy.array([[1, 0], [0.9, 0.1], [10, 5]], numpy.float32)
names, query = ["equal", "near", "long"], numpy.array([1, 0], numpy.float32)


def ranked(backend, metric):
    """Return the names, the best first."""
    index = Vicinity.from_vectors_and_items(vectors=vectors, items=names, backend_type=backend, metric=metric)
    return [str(name) for name, _ in index.query(query, k=3)[0]]


seen = {(backend.value, metric): ranked(backend, metric) for backend in (Backend.ANNOY, Backend.BASIC) for metric in ("dot", "cosine")}
index = AnnoyIndex(2, "dot")
for number, vector in enumerate(vectors):
    index.add_item(number, vector)
index.build(10)
direct = [names[number] for number in index.get_nns_by_vector(query, 3)]
print("seen:", seen, "annoy itself:", direct, "inner products:", dict(zip(names, (vectors @ query).tolist(), strict=True)))
assert all(order == ["equal", "near", "long"] for order in seen.values())
assert direct == ["long", "equal", "near"]
PYTHON
