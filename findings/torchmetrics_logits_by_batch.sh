#!/usr/bin/env bash
# Surprise: a binary or multilabel metric of logits depends on how the data are cut into batches: a batch whose logits
#   all lie between 0 and 1 is taken for probabilities.
# Versions: torchmetrics 1.9.0, torch 2.13.0.
# Users: pass torch.sigmoid(logits) yourself, always; a last, small batch is the usual victim.
# Source: each update() applies the sigmoid if, and only if, some value of that batch is outside of 0 to 1.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torchmetrics==1.9.0' 'torch==2.13.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import torch
import torchmetrics
from torchmetrics.classification import BinaryAccuracy, MultilabelF1Score

print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__)
print("guess: the accuracy of four texts is the same in one batch and in two")
logits, labels = torch.tensor([-2.0, 0.6, 0.2, 0.3]), torch.tensor([0, 1, 1, 1])


def score(metric, logits, labels, size):
    for start in range(0, len(logits), size):
        metric.update(logits[start : start + size], labels[start : start + size])
    return round(metric.compute().item(), 4)


accuracy = {size: score(BinaryAccuracy(), logits, labels, size) for size in (4, 2)}
f1 = {size: score(MultilabelF1Score(num_labels=2), logits.reshape(2, 2), labels.reshape(2, 2), size) for size in (2, 1)}
sure = {size: score(BinaryAccuracy(), logits.sigmoid(), labels, size) for size in (4, 2)}
print("seen: accuracy by batch size", accuracy, "multilabel F1", f1, "accuracy with sigmoid", sure)
assert accuracy == {4: 1.0, 2: 0.5} and f1[2] > f1[1] and set(sure.values()) == {1.0}
PYTHON
