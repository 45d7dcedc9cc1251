#!/usr/bin/env bash
# Surprise: the package rouge counts each word and pair of words once: "the the the the" has ROUGE-1 precision 1.0
#   against "the cat", where rouge-score says 0.25, so that a model that repeats itself is not punished. ROUGE-L does not
#   see the order of sentences either: two sentences exchanged have 1.0.
# Versions: rouge 1.0.1, rouge-score 0.1.2.
# Users: use rouge-score, or Rouge(exclusive=False), and say which package a figure comes from.
# Source: exclusive=True, the default, makes sets of words; ROUGE-L is computed for each sentence against all sentences
#   of the reference.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'rouge==1.0.1' 'rouge-score==0.1.2' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

from rouge import Rouge
from rouge_score.rouge_scorer import RougeScorer

print("rouge", version("rouge"), "rouge-score", version("rouge-score"))
print("guess: two packages of one metric agree on plain English")
scorer = RougeScorer(["rouge1", "rougeL"])
repeated, order = ("the the the the", "the cat"), ("it was late. she went home.", "she went home. it was late.")
one = Rouge().get_scores(*repeated)[0]["rouge-1"]["p"], Rouge().get_scores(*order)[0]["rouge-l"]["p"]
counted = Rouge(exclusive=False).get_scores(*repeated)[0]["rouge-1"]["p"]
other = scorer.score(*reversed(repeated))["rouge1"].precision, scorer.score(*reversed(order))["rougeL"].precision
print("seen: rouge", one, "exclusive=False", counted, "rouge-score", other)
assert one == (1, 1) and other == (0.25, 0.5) and counted == 0.25
PYTHON
