#!/usr/bin/env bash
# Surprise: where transform() puts a text depends on the texts that are transformed with it: one by one, texts land
#   elsewhere than in a batch, although random_state is set and the same call repeats exactly. Five texts of the
#   training data do not land where training put them; all of them together, in their order, do.
# Versions: umap-learn 0.5.12, numba 0.68.1, scikit-learn 1.9.1.
# Users: store the place of each text at its first call, and do not compare places from calls of different batches
#   (topics of new texts, drift of embeddings, alarms by distance).
# Source: places are optimised by sampling with one random state for the whole call; the training data are recognised
#   by a hash and get their own places.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'umap-learn==0.5.12' 'numba==0.68.1' 'scikit-learn==1.9.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import numpy
import umap

print("umap-learn", version("umap-learn"), "numba", version("numba"), "scikit-learn", version("scikit-learn"))
print("guess: with a fixed random_state a text has one place")
draw = numpy.random.default_rng(0)
centres = 4 * draw.normal(size=(3, 16))
train, new = (numpy.vstack([centre + draw.normal(size=(n, 16)) for centre in centres]).astype("float32") for n in (60, 10))
reducer = umap.UMAP(n_neighbors=10, random_state=42, n_jobs=1).fit(train)
together = reducer.transform(new)
alone = numpy.vstack([reducer.transform(one[None]) for one in new[:6]])
moved = float(numpy.abs(together[:6] - alone).max())
five = float(numpy.abs(reducer.transform(train[:5]) - reducer.embedding_[:5]).max())
whole = float(numpy.abs(reducer.transform(train) - reducer.embedding_).max())
size = float(numpy.ptp(reducer.embedding_, axis=0).max())
again = bool((reducer.transform(new) == together).all())
print("seen: moved", round(moved, 3), "five training texts", round(five, 3), "all", whole, "of", round(size, 1), "repeats", again)
assert again and whole == 0 and moved > 0.1 and five > 0.1
PYTHON
