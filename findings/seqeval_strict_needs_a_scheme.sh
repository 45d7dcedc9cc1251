#!/usr/bin/env bash
# Surprise: mode="strict" alone gives the lenient score, and so does scheme=IOB2 alone: the strict score needs both, and
#   nothing is said when one is missing.
# Versions: seqeval 1.2.2.
# Users: pass mode="strict" and scheme= together, and name both beside the number.
# Source: every metric takes the strict path only if the mode is strict and a scheme is given.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'seqeval==1.2.2' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

print("seqeval", version("seqeval"))
print('guess: mode="strict" is strict, by the scheme that fits the tags')
gold, predicted = [["B-PER", "I-PER", "O"], ["I-LOC", "O"]], [["B-PER", "I-PER", "O"], ["B-LOC", "O"]]
seen = {
    "neither": f1_score(gold, predicted),
    "mode": f1_score(gold, predicted, mode="strict"),
    "scheme": f1_score(gold, predicted, scheme=IOB2),
    "both": f1_score(gold, predicted, mode="strict", scheme=IOB2),
}
print("seen: F1 with", {key: round(float(value), 3) for key, value in seen.items()})
assert seen["neither"] == seen["mode"] == seen["scheme"] == 1 and abs(seen["both"] - 2 / 3) < 1e-9
PYTHON
