#!/usr/bin/env bash
# Surprise: two spans that touch, [0, 5) and [5, 9), count as overlapping: an entity that misses every character of
#   the true one gets the full ent_type credit and half the partial credit.
# Versions: nervaluate 1.2.1.
# Users: spans of Prodigy, Label Studio, spaCy and Hugging Face have an exclusive end: subtract 1 from every end
#   before passing them to the loader "dict".
# Source: ends of spans are compared as the last position inside, as the loaders of tags make them; nothing says so
#   for spans.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'nervaluate==1.2.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

from nervaluate import Evaluator

print("nervaluate", version("nervaluate"))
print("guess: in 'Anna Lima' an entity at 'Anna ' [0, 5) is true, one at 'Lima' [5, 9) is predicted: nothing of it is right")


def scores(true_end):
    true = [[{"label": "PER", "start": 0, "end": true_end}]]
    predicted = [[{"label": "PER", "start": 5, "end": 9}]]
    overall = Evaluator(true, predicted, tags=["PER"], loader="dict").evaluate()["overall"]
    return {kind: (overall[kind].f1, overall[kind].missed, overall[kind].spurious) for kind in ("ent_type", "partial")}


print("seen: f1, missed, spurious with exclusive ends", scores(5), "and with the last character as the end", scores(4))
assert scores(5) == {"ent_type": (1.0, 0, 0), "partial": (0.5, 0, 0)}
assert scores(4) == {"ent_type": (0.0, 1, 1), "partial": (0.0, 1, 1)}
PYTHON
