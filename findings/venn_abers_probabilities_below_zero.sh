#!/usr/bin/env bash
# Surprise: calibrated probabilities are below 0 and above 1, without an error, if the two classes are called 1 and 2, or
#   -1 and 1, in the place of 0 and 1. Of three classes one that the calibration data lack is left out: two columns
#   come back, and the first may be that of class 1.
# Versions: venn-abers 1.5.4, scikit-learn 1.9.1.
# Users: number the classes from 0, as LabelEncoder does, and check that each occurs in the calibration data; names as
#   strings are refused.
# Source: labels are added up as if they were 0 and 1.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'venn-abers==1.5.4' 'scikit-learn==1.9.1' 'numpy==2.4.6' 'pandas==3.1.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import warnings
from importlib.metadata import version

import numpy
from venn_abers import VennAbersCalibrator

warnings.simplefilter("ignore")  # numpy's, about the missing class
print("venn-abers", version("venn-abers"), "scikit-learn", version("scikit-learn"))
print("guess: probabilities lie between 0 and 1, one for each column that was given")
draw = numpy.random.default_rng(0)
positive = draw.random(400)
labels = (draw.random(400) < positive).astype(int)
scores = numpy.stack([1 - positive, positive], axis=1)


def calibrate(scores, labels):
    """Return the calibrated probabilities of the first texts."""
    return VennAbersCalibrator().predict_proba(p_cal=scores, y_cal=labels, p_test=scores[:50])


ranges = {}
for name, named in {"0 and 1": labels, "1 and 2": labels + 1, "-1 and 1": 2 * labels - 1}.items():
    answer = calibrate(scores, named)
    ranges[name] = float(answer.min()), float(answer.max())
    print("seen:", name, "from", round(ranges[name][0], 2), "to", round(ranges[name][1], 2))
assert 0 <= ranges["0 and 1"][0] <= ranges["0 and 1"][1] <= 1
assert ranges["1 and 2"][0] < 0 and ranges["1 and 2"][1] > 1 and ranges["-1 and 1"][0] < 0 and ranges["-1 and 1"][1] > 1
three = draw.dirichlet(numpy.ones(3), 600)
classes = numpy.array([draw.choice(3, p=row) for row in three])
columns = [calibrate(three[classes != lost], classes[classes != lost]).shape[1] for lost in range(3)]
print("seen: three classes", calibrate(three, classes).shape[1], "columns; without class 0, 1 or 2", columns)
assert calibrate(three, classes).shape[1] == 3 and columns == [2, 2, 2]
PYTHON
