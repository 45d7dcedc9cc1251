#!/usr/bin/env bash
# Surprise: a query for which nothing was found is left out of the mean of nDCG, MAP, recall and precision, and counts as
#   0 in MRR, capped recall and accuracy of the same report: a search that answers one query of two has nDCG 1.0 and MRR
#   0.5. Nothing is said.
# Versions: beir 2.2.0, pytrec_eval-terrier 0.5.11.
# Users: give each query a result ({"none": 0.0} for an empty list) before evaluating, and compare len(results) with
#   len(qrels); a search that gives up on hard queries gets better otherwise.
# Source: evaluate divides by the queries that pytrec_eval answers for, evaluate_custom by those with judgements.
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
print("guess: all metrics of one evaluation are means over the same queries")
relevant = {"q1": {"d1": 1}, "q2": {"d2": 1}}


def evaluate(results):
    """Return nDCG, MAP, recall and precision at 1, and MRR, capped recall and accuracy at 1."""
    four = EvaluateRetrieval.evaluate(relevant, results, [1])
    three = [EvaluateRetrieval.evaluate_custom(relevant, results, [1], name) for name in ("mrr", "r_cap", "top_k_accuracy")]
    return [next(iter(values.values())) for values in four], [next(iter(values.values())) for values in three]


missing, filled = evaluate({"q1": {"d1": 1.0}}), evaluate({"q1": {"d1": 1.0}, "q2": {"none": 0.0}})
print("seen: q2 has no results", missing, "one wrong result", filled)
assert missing == ([1, 1, 1, 1], [0.5, 0.5, 0.5])
assert filled == ([0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
PYTHON
