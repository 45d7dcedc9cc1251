#!/usr/bin/env bash
# Surprise: distribution-based fusion brings the scores of each list near 0.5, but leaves those of a list with one hit, or
#   with equal scores, as they are: a single hit of BM25 with the score 2.1 stands above all hits by embedding, and one with
#   a cosine of 0.3 stands low. With a second hit the same text has 0.67. Nothing is said.
# Versions: haystack-ai 3.4.1.
# Users: join with reciprocal_rank_fusion where a list can have one hit (filters, rare words), or ask each retriever for more
#   hits than you show.
# Source: the joiner keeps the original scores where the scores of a list do not vary.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'haystack-ai==3.4.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import warnings
from importlib.metadata import version

warnings.filterwarnings("ignore")
from haystack import Document
from haystack.components.joiners import DocumentJoiner

print("haystack-ai", version("haystack-ai"))
print("guess: the scores of both lists are on one scale after the fusion")


def fuse(mode, *lists):
    """Return the texts with their fused scores, the best first."""
    documents = [[Document(content=text, score=score) for text, score in found.items()] for found in lists]
    joined = DocumentJoiner(join_mode=mode).run(documents)["documents"]
    return {document.content: round(document.score, 2) for document in joined}


dense = {"best": 0.82, "second": 0.80, "third": 0.31}
one = fuse("distribution_based_rank_fusion", {"weak": 2.1}, dense)
two = fuse("distribution_based_rank_fusion", {"weak": 2.1, "weaker": 1.9}, dense)
ranks = fuse("reciprocal_rank_fusion", {"weak": 2.1}, dense)
print("seen: one hit of BM25", one, "two hits", two, "by rank", ranks)
assert one["weak"] == 2.1 and list(one)[0] == "weak" and one["best"] < 0.7
assert two["weak"] == 0.67
assert max(ranks.values()) <= 1
PYTHON
