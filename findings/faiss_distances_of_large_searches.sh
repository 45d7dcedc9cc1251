#!/usr/bin/env bash
# Surprise: IndexFlatL2, the exact index, gives other neighbours to a query that is searched together with many others:
#   a large search computes distances as |x|^2 + |y|^2 - 2xy, which cancels. Embeddings of BERT with a few large
#   dimensions are the usual victims: one query in twelve gets another nearest text here.
# Versions: faiss-cpu 1.15.1, numpy 2.4.6.
# Users: subtract the mean of the embeddings, normalise them, or set faiss.cvar.distance_compute_blas_threshold to a
#   large number where near duplicates count.
# Source: from distance_compute_blas_threshold on (number of queries times dimensions or the like) the matrix product of
#   BLAS is used in float32; the squares of the norms are 4600 times the distances here.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'faiss-cpu==1.15.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import faiss
import numpy as np

print("faiss", faiss.__version__, "numpy", np.__version__)
print("guess: the neighbours of a query in an exact index do not depend on the number of queries")
random = np.random.default_rng(0)
centre = random.normal(size=(1, 384)) * 0.5
centre[0, 7], centre[0, 100] = 12, -9  # two large dimensions, as BERT models have
texts, queries = ((centre + random.normal(size=(2000, 384)) * 0.01).astype(np.float32) for _ in range(2))
index = faiss.IndexFlatL2(384)
index.add(texts)
alone = np.array([index.search(query[None], 1)[1][0, 0] for query in queries])
together = index.search(queries, 1)[1][:, 0]
threshold, faiss.cvar.distance_compute_blas_threshold = faiss.cvar.distance_compute_blas_threshold, 1 << 30
without = index.search(queries, 1)[1][:, 0]
exact = np.array([((texts.astype(np.float64) - query) ** 2).sum(1).argmin() for query in queries.astype(np.float64)])
right = {
    "one query in each call": float((alone == exact).mean()),
    "2000 queries in one call": float((together == exact).mean()),
    "2000 queries, a large threshold": float((without == exact).mean()),
}
print("seen: queries with the right nearest text", right, "; threshold", threshold)
print("squared norm", float((texts[0] ** 2).sum()), "squared distance of two texts", float(((texts[0] - texts[1]) ** 2).sum()))
assert right["one query in each call"] > 0.999 and right["2000 queries, a large threshold"] > 0.999
assert right["2000 queries in one call"] < 0.97
PYTHON
