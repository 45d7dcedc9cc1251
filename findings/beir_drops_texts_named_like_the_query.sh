#!/usr/bin/env bash
# Surprise: a text whose id equals that of the query is taken out of the results before they are scored, and out of the
#   caller's dictionary too: where queries and texts are both numbered from 1, a perfect ranking has nDCG@10 0.81 and
#   recall@10 0.75. A line of the log says so, no error.
# Versions: beir 2.2.0, pytrec_eval-terrier 0.5.11.
# Users: pass ignore_identical_ids=False, or number queries q1 and texts d1.
# Source: the default is made for Quora and ArguAna, where the query is itself a text of the corpus.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-deps 'beir==2.2.0' 'pytrec_eval-terrier==0.5.11' 'numpy==2.4.6' 'tqdm==4.70.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

from beir.retrieval.evaluation import EvaluateRetrieval

print("beir", version("beir"), "pytrec_eval-terrier", version("pytrec_eval-terrier"))
print("guess: a query that finds its relevant texts first has nDCG 1 and recall 1")
relevant = {"1": {"1": 1, "5": 1}, "2": {"9": 1}}
found = {"1": {"1": 0.9, "5": 0.8, "7": 0.1}, "2": {"9": 0.3}}


def evaluate(**options):
    """Return nDCG@10, recall@10 and what is left of the results."""
    results = {query: dict(texts) for query, texts in found.items()}
    ndcg, _, recall, _ = EvaluateRetrieval.evaluate(relevant, results, [10], **options)
    return ndcg["NDCG@10"], recall["Recall@10"], results


default, kept = evaluate(), evaluate(ignore_identical_ids=False)
print("seen:", default, "ignore_identical_ids=False", kept)
assert default[0] < 0.81 and default[1] == 0.75 and "1" not in default[2]["1"]
assert kept == (1, 1, found)
PYTHON
