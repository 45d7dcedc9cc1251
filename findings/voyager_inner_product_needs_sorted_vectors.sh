#!/usr/bin/env bash
# Surprise: a search by inner product finds one in six of the ten best texts if vectors of different lengths are added
#   in any order, and seven of ten or more if the same vectors are added sorted by length, the shortest or the longest
#   first. hnswlib finds eight of ten in any order. Nothing is said.
# Versions: voyager 2.2.3, hnswlib 0.8.0.
# Users: normalise vectors and use Space.Cosine, or sort them by length before they are added; measure recall against
#   numpy on the vectors of your own model.
# Source: the additional number that makes a search by inner product one by distance depends on the longest vector so
#   far; the links of the earlier ones were made with another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'voyager==2.2.3' 'hnswlib==0.8.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import hnswlib
import numpy
from voyager import Index, Space

print("voyager", version("voyager"), "hnswlib", version("hnswlib"))
print("guess: the order in which texts are added does not matter much")
draw = numpy.random.default_rng(0)
vectors = draw.normal(size=(2000, 32)).astype("float32")
vectors /= numpy.linalg.norm(vectors, axis=1, keepdims=True)
vectors *= numpy.exp(0.5 * draw.normal(size=(2000, 1))).astype("float32")  # lengths mostly between 0.4 and 2.7
queries = vectors[:200] / numpy.linalg.norm(vectors[:200], axis=1, keepdims=True)
best = numpy.argsort(-(queries @ vectors.T), axis=1)[:, :10]
lengths = numpy.linalg.norm(vectors, axis=1)


def recall(found):
    """Return the mean share of the ten best texts that were found."""
    return float(numpy.mean([len(set(some) & set(all_)) / 10 for some, all_ in zip(found.tolist(), best.tolist(), strict=True)]))


seen = {}
for name, order in {"any": numpy.arange(2000), "shortest": numpy.argsort(lengths), "longest": numpy.argsort(-lengths)}.items():
    index = Index(Space.InnerProduct, 32, random_seed=1)
    index.add_items(vectors[order], ids=order.tolist(), num_threads=1)
    other = hnswlib.Index("ip", 32)
    other.init_index(2000, M=12, ef_construction=200, random_seed=1)
    other.add_items(vectors[order], order, num_threads=1)
    seen[name] = recall(index.query(queries, k=10, num_threads=1)[0]), recall(other.knn_query(queries, k=10, num_threads=1)[0])
    print("seen: added", name, "first: voyager finds", round(seen[name][0], 3), "hnswlib", round(seen[name][1], 3))
assert seen["any"][0] < 0.3 and min(seen["shortest"][0], seen["longest"][0]) > 0.6
PYTHON
