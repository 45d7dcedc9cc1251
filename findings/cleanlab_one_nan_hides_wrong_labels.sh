#!/usr/bin/env bash
# Surprise: one row of NaN among the predicted probabilities hides wrong labels of other rows: of 30 of 300 that are
#   found without it 20 are left, and nothing is said, though probabilities outside of 0 and 1 are refused.
# Versions: cleanlab 2.9.0, scikit-learn 1.9.1.
# Users: drop rows that are not finite from labels and probabilities before find_label_issues.
# Source: the mean of the class that the row is labelled with becomes NaN, and with it the threshold of that class.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'cleanlab==2.9.0' 'scikit-learn==1.9.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import warnings
from importlib.metadata import version

import numpy
from cleanlab.filter import find_label_issues

print("cleanlab", version("cleanlab"), "scikit-learn", version("scikit-learn"))
print("guess: a row without probabilities is refused, or no more than that row is lost")
right = numpy.arange(300) % 3
probabilities = numpy.full((300, 3), 0.1)
probabilities[numpy.arange(300), right] = 0.8
labels = right.copy()
labels[:30] = (labels[:30] + 1) % 3
broken = probabilities.copy()
broken[100] = numpy.nan
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = [int(find_label_issues(labels, values, n_jobs=1)[:30].sum()) for values in (probabilities, broken)]
print("seen: of 30 wrong labels", found[0], "are found, beside one row of NaN", found[1], "warnings", [str(one.message)[:80] for one in caught])
assert found == [30, 20] and not caught
PYTHON
