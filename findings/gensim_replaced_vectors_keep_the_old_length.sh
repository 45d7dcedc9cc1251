#!/usr/bin/env bash
# Surprise: a vector that replaces another one (vectors["b"] = ..., add_vectors with replace=True) is compared by its
#   old length after the first search: most_similar gives a score of 10, no cosine, and another order, where
#   similarity() of the same two words is right. A vector that is added after a search makes the next one fail.
# Versions: gensim 4.4.0, numpy 2.4.6.
# Users: call fill_norms(force=True) after every change of vectors, or normalise them before they are added.
# Source: lengths are computed at the first search and kept.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'gensim==4.4.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import numpy
from gensim.models import KeyedVectors

print("gensim", version("gensim"), "numpy", numpy.__version__)
print("guess: a search knows the vectors as they are")
vectors = KeyedVectors(2)
vectors.add_vectors(["a", "b", "c"], numpy.array([[1, 0], [0, 1], [1, 0.1]], dtype=numpy.float32))
before = vectors.most_similar("a", topn=2)
vectors["b"] = numpy.array([10, 10], dtype=numpy.float32)
after, alone = vectors.most_similar("a", topn=2), [float(vectors.similarity("a", word)) for word in "bc"]
vectors.fill_norms(force=True)
mended = vectors.most_similar("a", topn=2)
vectors.add_vector("d", numpy.array([0, 2], dtype=numpy.float32))
try:
    added = str(vectors.most_similar("a", topn=3))
except ValueError as error:
    added = f"ValueError: {error}"
print("seen: nearest to a", before, "after b was replaced", after, "similarity of b and c", alone, "after fill_norms", mended, "after d was added", added)
assert [word for word, _ in after] == ["b", "c"] and after[0][1] > 9.9 and alone[0] < 0.72 < alone[1]
assert [word for word, _ in mended] == ["c", "b"] and added.startswith("ValueError")
PYTHON
