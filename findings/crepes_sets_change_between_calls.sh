#!/usr/bin/env bash
# Surprise: predict_set of a calibrated classifier is drawn by lot: the same text gets one set of labels now and
#   another a second later, and so do p-values and coverage. There is no seed in the classifier.
# Versions: crepes 0.9.1, scikit-learn 1.9.1.
# Users: pass smoothing=False where answers are cached, compared or explained to people; sets then are a little
#   larger.
# Source: smoothing=True is the default: ties, and each text with itself, are broken by a random number.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'crepes==0.9.1' 'scikit-learn==1.9.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import crepes
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression

print("crepes", version("crepes"), "scikit-learn", version("scikit-learn"))
print("guess: a calibrated model gives one set of labels for one input")
features, labels = make_classification(400, flip_y=0.3, random_state=0)
model = crepes.WrapClassifier(LogisticRegression())
model.fit(features[:50], labels[:50])
model.calibrate(features[50:100], labels[50:100])


def answers(**options):
    """Return the different answers of 20 calls to the same 300 inputs, as sets of labels."""
    return [[tuple(map(int, one)) for one in model.predict_set(features[100:], **options)] for _ in range(20)]


varying = sum(len(set(sets)) > 1 for sets in zip(*answers(), strict=True))
fixed = sum(len(set(sets)) > 1 for sets in zip(*answers(smoothing=False), strict=True))
print("seen:", varying, "of 300 inputs get more than one set in 20 calls; with smoothing=False", fixed)
assert varying > 0 and fixed == 0
PYTHON
