#!/usr/bin/env bash
# Surprise: when two retrievers are fused, the only hit of one counts as much as no hit: min-max normalisation, the default,
#   gives a single result the score 0, and the last of several results too.
# Versions: ranx 0.3.21.
# Users: fuse with norm="max" or method="rrf", or drop the normalisation, where queries can have few hits (filters, exact
#   search, ids); a document that both found can lose to one that only the other ranked higher.
# Source: scores are mapped to 0 .. 1 for each query and run, and what a run did not find counts 0 as well.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'ranx==0.3.21' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import warnings
from importlib.metadata import version

from ranx import Run, fuse

warnings.simplefilter("ignore")
print("ranx", version("ranx"))
print("guess: a document that both retrievers found does not lose to one that is as good for one and unknown to the other")
scores = {}
for norm in ("min-max", "max"):
    vectors = Run({"query": {"other": 0.91, "both": 0.90, "last": 0.10}}, name="vectors")
    words = Run({"query": {"both": 17.3}}, name="words")
    fused = dict(fuse(runs=[vectors, words], norm=norm, method="sum").run["query"])
    scores[norm] = {name: round(float(score), 3) for name, score in fused.items()}
    print("seen:", norm, scores[norm])
assert scores["min-max"]["other"] == 1 > scores["min-max"]["both"] and scores["min-max"]["last"] == 0
assert scores["max"]["both"] > scores["max"]["other"]
PYTHON
