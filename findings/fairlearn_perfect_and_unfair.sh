#!/usr/bin/env bash
# Surprise: a perfect classifier gets the worst equalized_odds_difference, 1.0, when one group has no positive
#   example: the rate that cannot be computed counts as 0. No warning, no NaN.
# Versions: fairlearn 0.15.0, scikit-learn 1.9.1.
# Users: count the positive and negative examples of each group first (MetricFrame with fairlearn.metrics.count), and
#   leave out groups that lack either.
# Source: true_positive_rate and false_positive_rate return 0 where there is nothing to divide by.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'fairlearn==0.15.0' 'scikit-learn==1.9.1'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import warnings

import fairlearn
import sklearn
from fairlearn.metrics import MetricFrame, equalized_odds_difference, true_positive_rate

print("fairlearn", fairlearn.__version__, "scikit-learn", sklearn.__version__)
print("guess: NaN or a warning for a group without positive examples; 0.0 without mistakes")
labels = [1, 1, 0, 0, 0, 0]
groups = ["a", "a", "a", "b", "b", "b"]
with warnings.catch_warnings():
    warnings.simplefilter("error")
    difference = equalized_odds_difference(labels, labels, sensitive_features=groups)
    rates = MetricFrame(metrics=true_positive_rate, y_true=labels, y_pred=labels, sensitive_features=groups).by_group.to_dict()
print("seen: predictions equal to the labels have a difference of", difference, "from the rates", rates)
assert difference == 1.0 and rates == {"a": 1.0, "b": 0.0}
PYTHON
