#!/usr/bin/env bash
# Surprise: for a word that most texts hold, BM25Okapi ranks the texts without it first: they score 0, those with it less.
#   For a word that half of them hold, all score 0. Small collections (the texts of one user) are the usual victims.
# Versions: rank-bm25 0.2.2; BM25Plus and BM25L of the same package rank the texts with the word first.
# Users: take BM25Plus, or bm25s, whose default never goes below 0.
# Source: negative weights of frequent words are replaced by a quarter of the mean weight of all words, which is negative
#   itself where most words are frequent.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'rank-bm25==0.2.2' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

from rank_bm25 import BM25L, BM25Okapi, BM25Plus

print("rank-bm25", version("rank-bm25"))
print("guess: a text with the word of the query never ranks below one without it")
texts = ["refund of the fee", "refund policy of the shop", "the shop opens", "refund and the shop"]
words = [text.split() for text in texts]
first, scores = {}, {}
for kind in (BM25Okapi, BM25Plus, BM25L):
    index = kind(words)
    scores[kind] = index.get_scores(["refund"]).round(4).tolist()
    first[kind] = texts[scores[kind].index(max(scores[kind]))]
    print("seen:", kind.__name__, "scores for 'refund'", scores[kind], "first:", first[kind])
half = BM25Okapi([["refund", "fee"], ["shop", "opens"]]).get_scores(["refund"]).tolist()
print("      BM25Okapi, a word of one of two texts:", half)
assert first[BM25Okapi] == "the shop opens" and "refund" in first[BM25Plus] and "refund" in first[BM25L] and half == [0, 0]
PYTHON
