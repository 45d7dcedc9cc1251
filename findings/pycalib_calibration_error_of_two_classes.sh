#!/usr/bin/env bash
# Surprise: the expected calibration error of two classes compares labels with the probabilities of other texts: of a perfectly
#   calibrated model with 10,000 texts ECE is 0.13, above the greatest error of any bin (MCE, 0.02), and sorted by probability it is
#   0.17. Of three classes it is right.
# Versions: pycalib 0.1.0.dev6, scikit-learn 1.9.1.
# Users: take binary_ECE, or ECE(..., ece_full=False), for two classes.
# Source: label_binarize of scikit-learn gives one column for two classes; flattened it is half as long as the probabilities,
#   and zip stops at the shorter one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'pycalib==0.1.0.dev6' 'scikit-learn==1.9.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import numpy
from pycalib.metrics import ECE, MCE, binary_ECE

print("pycalib", version("pycalib"), "scikit-learn", version("scikit-learn"))
print("guess: the error of a calibrated model is near 0, and not above the greatest error of a bin")
random = numpy.random.default_rng(0)
positive = random.random(10_000)
labels = (random.random(10_000) < positive).astype(int)
two = numpy.stack([1 - positive, positive], axis=1)
three = random.dirichlet([1, 1, 1], 10_000)
of_three = numpy.array([random.choice(3, p=row) for row in three])
order = numpy.argsort(positive)
seen = {"ECE": ECE(labels, two), "sorted": ECE(labels[order], two[order]), "MCE": MCE(labels, two)}
control = {"three classes": ECE(of_three, three), "binary_ECE": binary_ECE(labels, positive), "max": ECE(labels, two, ece_full=False)}
print("seen:", {name: round(float(value), 3) for name, value in (seen | control).items()})
assert seen["ECE"] > 0.1 > 0.03 > seen["MCE"]
assert abs(seen["sorted"] - seen["ECE"]) > 0.03
assert all(value < 0.02 for value in control.values())
PYTHON
