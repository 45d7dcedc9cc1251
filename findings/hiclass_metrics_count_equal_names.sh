#!/usr/bin/env bash
# Surprise: the hierarchical metrics take classes of the same name for one class, wherever they stand: "billing / other"
#   predicted as "shipping / other" is half right, and precision, recall and F1 of two such texts are 0.5, not 0. The
#   classifiers of the same package know the two apart.
# Versions: hiclass 5.0.8.
# Users: write the path into each name ("billing/other") before precision, recall and f1 are called.
# Source: the metrics compare the sets of names of two rows, without their levels.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'hiclass==5.0.8' 'scikit-learn==1.9.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import numpy
from hiclass.metrics import f1, precision

print("hiclass", version("hiclass"))
print("guess: a class counts as found if it stands in the same place of the hierarchy")
true = numpy.array([["billing", "other"], ["shipping", "other"]])
predicted = numpy.array([["shipping", "other"], ["billing", "other"]])


def paths(rows):
    """Return the rows with the path as the name of each class."""
    return numpy.array([[row[0], "/".join(row)] for row in rows])


seen = precision(true, predicted), f1(true, predicted)
named = precision(paths(true), paths(predicted))
print("seen:", seen, "with paths:", named)
assert seen == (0.5, 0.5) and named == 0
PYTHON
