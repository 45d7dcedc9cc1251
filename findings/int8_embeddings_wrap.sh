#!/usr/bin/env bash
# Surprise: int8 embeddings are compared in eight bits: the cosine distance of two like vectors is 2.0 (opposite) in
#   scipy, and sentence-transformers' dot_score of a vector with itself is 0. scipy's cdist is right.
# Versions: scipy 1.17.1, sentence-transformers 6.2.0, torch 2.13.0, numpy 2.4.6.
# Users: widen vectors of encode(precision="int8") to float32 before any product; ranks are noise otherwise.
# Source: a product of two int8 arrays is an int8 in numpy and torch, which wraps at 127; cos_sim refuses such vectors.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'scipy==1.17.1' 'sentence-transformers==6.2.0' 'transformers==5.20.0' 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import warnings

import numpy as np
import scipy
import sentence_transformers
import torch
from scipy.spatial.distance import cdist, cosine
from sentence_transformers.util import dot_score, pairwise_dot_score

warnings.simplefilter("ignore")
print("scipy", scipy.__version__, "sentence-transformers", sentence_transformers.__version__, "torch", torch.__version__)
print("guess: products of int8 vectors are added in 32 bits or more, or refused")
one, like = np.full(16, 100, np.int8), np.array([100] * 8 + [90] * 8, np.int8)
same = np.full(16, 64, np.int8)
distances = float(cosine(one, like)), float(cdist([one], [like], "cosine")[0, 0])
scores = [int(dot_score(same, same)), int(pairwise_dot_score(same[None], same[None])), int(same.astype(np.int32) @ same)]
print("seen: cosine", distances[0], "cdist", round(distances[1], 4), "dot_score, pairwise_dot_score, exact", scores)
assert distances[0] > 1.9 and distances[1] < 0.01 and scores == [0, 0, 65536]
PYTHON
