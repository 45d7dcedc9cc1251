#!/usr/bin/env bash
# Surprise: MAP@k has two meanings: sentence-transformers divides by min(k, number of relevant texts), trec_eval (pytrec_eval,
#   ranx) by the number of relevant texts. The same ranking with 20 relevant texts has MAP@10 1.0 and 0.5.
# Versions: sentence-transformers 6.2.0, pytrec_eval-terrier 0.5.11, torch 2.13.0.
# Users: compare MAP only within one tool; nDCG@k and recall@k agree.
# Source: a perfect first page reaches 1.0 with the one rule, k divided by the relevant texts with the other.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'sentence-transformers==6.2.0' 'transformers==5.20.0' 'torch==2.13.0' 'pytrec_eval-terrier==0.5.11' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import pytrec_eval
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

print("sentence-transformers", version("sentence-transformers"), "pytrec_eval-terrier", version("pytrec_eval-terrier"))
print("guess: MAP@10 of one ranking and one set of judgements is one number")
ranking = {f"text {rank}": 1 - rank / 100 for rank in range(20)}  # all 20 relevant texts, best first
judgements = pytrec_eval.RelevanceEvaluator({"query": dict.fromkeys(ranking, 1)}, {"map_cut.10", "ndcg_cut.10", "recall.10"})
trec = judgements.evaluate({"query": ranking})["query"]
evaluator = InformationRetrievalEvaluator(
    {"query": "?"}, dict.fromkeys(ranking, "text"), {"query": set(ranking)}, map_at_k=[10], ndcg_at_k=[10]
)
hits = [[{"corpus_id": text, "score": score} for text, score in ranking.items()]]
own = {name: float(values[10]) for name, values in evaluator.compute_metrics(hits).items()}
print("seen: sentence-transformers", own, "pytrec_eval", trec)
assert own["map@k"] == 1 and trec["map_cut_10"] == 0.5
assert own["ndcg@k"] == trec["ndcg_cut_10"] and own["recall@k"] == trec["recall_10"]
PYTHON
