#!/usr/bin/env bash
# Surprise: the multilabel ranking loss of equal scores depends on the order of the labels: of a model that gives all
#   four labels 0.5 it is 1.0 if the right label is the first and 0.0, the best value, if it is the last. scikit-learn
#   gives 1.0 for all.
# Versions: torchmetrics 1.9.0, torch 2.13.0, scikit-learn 1.9.1.
# Users: use label_ranking_loss of scikit-learn where scores can be equal (rounded, saturated or half-precision
#   probabilities).
# Source: the places of a sorted order are counted, in which equal scores have different places.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torchmetrics==1.9.0' 'torch==2.13.0' 'scikit-learn==1.9.1' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import sklearn
import torch
import torchmetrics
from sklearn.metrics import label_ranking_loss
from torchmetrics.functional.classification import multilabel_ranking_loss

print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__, "scikit-learn", sklearn.__version__)
print("guess: the order in which labels are numbered changes no metric")
scores = torch.full((1, 4), 0.5)
losses = {}
for right in range(4):
    labels = torch.nn.functional.one_hot(torch.tensor([right]), 4)
    losses[right] = round(multilabel_ranking_loss(scores, labels, num_labels=4).item(), 2), float(label_ranking_loss(labels, scores))
print("seen: losses of torchmetrics and scikit-learn by the number of the right label", losses)
assert losses[0] == (1, 1) and losses[3] == (0, 1)
PYTHON
