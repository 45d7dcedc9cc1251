#!/usr/bin/env bash
# Surprise: Accuracy(task="multiclass") and MulticlassAccuracy are two numbers: the first counts texts, the second
#   averages over classes. So are F1Score(task="multiclass"), which equals accuracy, and MulticlassF1Score.
# Versions: torchmetrics 1.9.0, torch 2.13.0.
# Users: always pass average=, and write it beside the number; a change of import moves a score by tens of points.
# Source: the default of average is "micro" for the classes with task= and the functions with task=, and "macro" for
#   those named Multiclass.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torchmetrics==1.9.0' 'torch==2.13.0'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import torch
import torchmetrics
from torchmetrics import Accuracy, F1Score
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__)
print("guess: Accuracy(task='multiclass', num_classes=3) is MulticlassAccuracy(num_classes=3)")
labels = torch.tensor([0] * 8 + [1, 2])
predictions = torch.zeros(10, dtype=torch.long)
seen = {
    "Accuracy": Accuracy(task="multiclass", num_classes=3)(predictions, labels).item(),
    "MulticlassAccuracy": MulticlassAccuracy(num_classes=3)(predictions, labels).item(),
    "F1Score": F1Score(task="multiclass", num_classes=3)(predictions, labels).item(),
    "MulticlassF1Score": MulticlassF1Score(num_classes=3)(predictions, labels).item(),
}
print("seen:", {name: round(value, 4) for name, value in seen.items()}, "for a model that always says 0")
assert {name: round(value, 4) for name, value in seen.items()} == {"Accuracy": 0.8, "MulticlassAccuracy": 0.3333, "F1Score": 0.8, "MulticlassF1Score": 0.2963}
assert type(Accuracy(task="multiclass", num_classes=3)) is MulticlassAccuracy
PYTHON
