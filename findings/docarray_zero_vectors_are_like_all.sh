#!/usr/bin/env bash
# Surprise: a zero vector, as an empty text gives, has the cosine similarity 1.0 with every query in the index that is exact:
#   it is as good as an equal vector, and before any other text. A query of zeros has 1.0 with every text.
# Versions: docarray 0.41.0, numpy 2.4.6.
# Users: leave out texts whose vector is zero before they are indexed, and answer an empty query without a search.
# Source: 1e-7 is added to the product and to the lengths before they are divided, so 0 / 0 becomes 1.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'docarray==0.41.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import numpy
from docarray import BaseDoc, DocList
from docarray.index import InMemoryExactNNIndex
from docarray.typing import NdArray


class Text(BaseDoc):
    """A text with its embedding."""

    text: str
    embedding: NdArray[2]


print("docarray", version("docarray"))
print("guess: a zero vector is like nothing: its similarity is 0, or NaN")
vectors = {"near": [0.9, 0.1], "empty": [0, 0], "other": [0.5, 0.5], "opposite": [-1, 0]}
index = InMemoryExactNNIndex[Text]()
index.index(DocList[Text]([Text(text=text, embedding=numpy.array(vector, float)) for text, vector in vectors.items()]))


def search(*query):
    """Return the texts with their scores, the best first."""
    texts, scores = index.find(numpy.array(query, float), search_field="embedding", limit=4)
    return {text.text: round(float(score), 3) for text, score in zip(texts, scores, strict=True)}


east, north, nothing = search(1, 0), search(0, 1), search(0, 0)
print("seen:", east, north, "query of zeros:", nothing)
assert list(east) == ["empty", "near", "other", "opposite"] and east["empty"] == north["empty"] == 1
assert list(north)[0] == "empty"
assert east["near"] == 0.994 and east["opposite"] == -1
assert set(nothing.values()) == {1}
PYTHON
