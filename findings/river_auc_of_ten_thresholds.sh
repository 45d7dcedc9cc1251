#!/usr/bin/env bash
# Surprise: River's ROCAUC of a rare class is 0.5 where the true one is 0.79: it looks at ten thresholds, and no
#   probability of a class of 2 % reaches the first of them. The probabilities here are calibrated, for which the error is
#   said to be small.
# Versions: river 0.26.1, scikit-learn 1.9.1.
# Users: pass n_thresholds=1000 (or metrics.RollingROCAUC, which ranks); a monitor of spam, abuse or fraud otherwise shows a
#   useless model for ever.
# Source: the thresholds are spread evenly over 0 to 1, and the curve between two of them is a straight line.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'river==0.26.1' 'scikit-learn==1.9.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from river import metrics
from sklearn.metrics import roc_auc_score

print("river", version("river"), "scikit-learn", version("scikit-learn"))
print("guess: of calibrated probabilities both give about the same")
random = np.random.default_rng(0)
probabilities = np.minimum(random.lognormal(-4.6, 1.2, 20000), 0.1)
truth = random.random(20000) < probabilities  # so they are calibrated
seen = {}
for name, metric in (("default", metrics.ROCAUC()), ("n_thresholds=1000", metrics.ROCAUC(n_thresholds=1000))):
    for real, probability in zip(truth.tolist(), probabilities.tolist(), strict=True):
        metric.update(real, probability)
    seen[name] = metric.get()
exact = roc_auc_score(truth, probabilities)
print("share of positives", float(truth.mean()), "mean probability", float(probabilities.mean()))
print("seen: scikit-learn", exact, "river", seen)
assert exact > 0.7 and abs(seen["default"] - 0.5) < 0.02 and abs(seen["n_thresholds=1000"] - exact) < 0.01
PYTHON
