#!/usr/bin/env bash
# Surprise: with num_best, an index of cosines gives the largest absolute values: a text that is the opposite of the
#   query, with the cosine -0.9, comes before one with 0.8, and pushes it out of the list.
# Versions: gensim 4.4.0.
# Users: leave num_best out and sort the scores yourself: numpy.argsort(-index[query]); bags of words have no negative
#   cosines, vectors of LSI and of BERT have.
# Source: the best are chosen as for the largest weights of a vector, by absolute value.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'gensim==4.4.0' 'numpy==2.4.6' 'scipy==1.17.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version
from tempfile import mkdtemp

import numpy
from gensim.similarities import MatrixSimilarity, Similarity, SparseMatrixSimilarity

print("gensim", version("gensim"))
print("guess: the best two of three texts are those with the two largest cosines")
vectors = numpy.array([[-0.9, 0.43589], [0.8, 0.6], [0.5, 0.86603]])
texts = [list(enumerate(vector)) for vector in vectors.tolist()]
query = [(0, 1.0)]
indices = {
    "MatrixSimilarity": MatrixSimilarity(texts, num_features=2),
    "SparseMatrixSimilarity": SparseMatrixSimilarity(texts, num_features=2),
    "Similarity": Similarity(mkdtemp(dir=".") + "/shard", texts, num_features=2),
}
for name, index in indices.items():
    scores = [round(float(score), 2) for score in index[query]]
    index.num_best = 2
    best = [(int(number), round(float(score), 2)) for number, score in index[query]]
    print("seen:", name, scores, "the best two", best)
    assert scores == [-0.9, 0.8, 0.5] and best == [(0, -0.9), (1, 0.8)]
PYTHON
