#!/usr/bin/env bash
# Surprise: a word that no text holds gets k results, all with the score 0, in the reverse order of the collection; so
#   do "will", "7" and "c++", which the tokenizer leaves out. A fusion of ranks gives these texts as many points as real
#   hits.
# Versions: bm25s 0.3.16.
# Users: drop results with the score 0 before they are shown or fused; pass stopwords=None and a token_pattern for texts
#   with single digits or letters, and for other languages than English.
# Source: the k greatest scores are taken whatever they are; tokenize() takes words of two or more characters, less 33
#   English ones.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'bm25s==0.3.16' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import bm25s

print("bm25s", version("bm25s"))
print("guess: texts without any word of the query are no hits")
texts = ["alpha beta", "gamma delta", "Der Mann will schlafen", "Windows 7", "a program in c++"]
index = bm25s.BM25()
index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
seen = {}
for query in ("zebra", "will", "7", "c++", "gamma"):
    found, scores = index.retrieve(bm25s.tokenize(query, show_progress=False), corpus=texts, k=3, show_progress=False)
    seen[query] = list(zip(found[0].tolist(), scores[0].tolist(), strict=True))
    print("seen:", query, seen[query])
for query in ("zebra", "will", "7", "c++"):
    assert [score for _, score in seen[query]] == [0, 0, 0]
assert [score > 0 for _, score in seen["gamma"]] == [True, False, False]
PYTHON
