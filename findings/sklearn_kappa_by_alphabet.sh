#!/usr/bin/env bash
# Surprise: weighted kappa of class names depends on the alphabet: for low, medium, high the step from low to high counts
#   as small, the step from low to medium as large, for names are sorted. The same ratings as numbers give 0.73, not 0.18.
# Versions: scikit-learn 1.9.1.
# Users: pass labels= in the order of the scale with weights="linear" or "quadratic", or ratings as numbers.
# Source: the weight of a disagreement is the distance of positions in labels, by default the sorted names.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'scikit-learn==1.9.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import sklearn
from sklearn.metrics import cohen_kappa_score

print("scikit-learn", sklearn.__version__)
print("guess: names give the kappa of numbers, or weights are refused for names without an order")
one, other, scale = [0, 0, 1, 1, 2, 2, 0, 2], [0, 1, 1, 2, 2, 2, 0, 1], ["low", "medium", "high"]
names = [[scale[rating] for rating in ratings] for ratings in (one, other)]
kappas = [
    round(float(kappa), 3)
    for kappa in (
        cohen_kappa_score(one, other, weights="quadratic"),
        cohen_kappa_score(*names, weights="quadratic"),
        cohen_kappa_score(*names, weights="quadratic", labels=scale),
    )
]
print("seen: of numbers", kappas[0], "of names", kappas[1], "of names with labels=", kappas[2])
assert kappas == [0.727, 0.182, 0.727]
PYTHON
