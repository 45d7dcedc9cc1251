#!/usr/bin/env bash
# Surprise: a confidence of exactly 1.0 gets a bin of its own in the calibration error: with one bin the error of a
#   calibrated model is 0.1, not 0, and with ten it is that too, where confidences of 0.999999 give 0.
# Versions: torchmetrics 1.9.0, torch 2.13.0 (BinaryCalibrationError and MulticlassCalibrationError).
# Users: clamp probabilities to 1 - 1e-6 before the metric: half precision, float32's softmax and rounding give many
#   that are exactly 1.
# Source: a bin is open at its upper end, the last one too, and what lies on the end of all of them falls into one
#   more.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torchmetrics==1.9.0' 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import torch
from torchmetrics.classification import BinaryCalibrationError

print("torchmetrics", version("torchmetrics"), "torch", torch.__version__)
print("guess: the last bin of ten holds what is from 0.9 to 1.0, and a millionth less changes nothing")
confidences = torch.tensor([1.0] * 50 + [0.9] * 50)
right = torch.tensor([1] * 45 + [0] * 5 + [1] * 50)
errors = {
    (bins, top): round(BinaryCalibrationError(n_bins=bins)(confidences.clamp(max=top), right).item(), 4)
    for bins in (1, 10) for top in (1.0, 1 - 1e-6)
}
print("seen: mean confidence", round(confidences.mean().item(), 4), "accuracy", right.float().mean().item(), "errors by bins and greatest confidence", errors)
assert errors[1, 1.0] == errors[10, 1.0] == 0.1 and errors[1, 1 - 1e-6] == errors[10, 1 - 1e-6] == 0
PYTHON
