#!/usr/bin/env bash
# Surprise: scores that differ after the seventh digit are equal for pytrec_eval, and equal scores are ranked by the name
#   of the text, the last first: probabilities near 1 have a reciprocal rank of 1/3 where their logits have 1.
# Versions: pytrec_eval-terrier 0.5.11.
# Users: evaluate the logits of a cross-encoder, not its probabilities, or pass minus the rank as the score.
# Source: trec_eval keeps a score as a C float, and breaks ties by the document's id in descending order.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pytrec_eval-terrier==0.5.11' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import math
from importlib.metadata import version

import pytrec_eval

print("pytrec_eval-terrier", version("pytrec_eval-terrier"))
print("guess: logits and their probabilities, computed in double precision, have the same order and the same measures")
logits = {"d1": 21.0, "d2": 20.5, "d3": 20.0}
probabilities = {name: 1 / (1 + math.exp(-logit)) for name, logit in logits.items()}
assert probabilities["d1"] > probabilities["d2"] > probabilities["d3"]
evaluator = pytrec_eval.RelevanceEvaluator({"q": {"d1": 1}}, {"recip_rank", "ndcg"})
first, second = evaluator.evaluate({"q": logits})["q"], evaluator.evaluate({"q": probabilities})["q"]
print("scores", logits, probabilities)
print("seen: of logits", first, "of probabilities", second)
assert first == {"recip_rank": 1.0, "ndcg": 1.0}
assert second == {"recip_rank": 1 / 3, "ndcg": 0.5}
PYTHON
