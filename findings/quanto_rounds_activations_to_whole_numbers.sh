#!/usr/bin/env bash
# Surprise: a model quantized with activations=qint8 and no calibration answers without a warning, in whole numbers:
#   every activation and every logit is rounded to an integer, so most logits are 0 and classes are lost.
# Versions: optimum-quanto 0.2.7, torch 2.13.0.
# Users: run some texts inside of `with Calibration():` before freeze(), look at input_scale and output_scale of the
#   state (1.0 is not calibrated), or quantize weights alone.
# Source: the scale of activations begins at 1, and only a calibration changes it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'optimum-quanto==0.2.7' 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import copy
import warnings
from importlib.metadata import version

import torch
from optimum.quanto import Calibration, freeze, qint8, quantize

print("optimum-quanto", version("optimum-quanto"), "torch", torch.__version__)
print("guess: without calibration a range is measured for each batch, or the call is refused")
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)).eval()
texts = torch.randn(200, 16)


@torch.no_grad()
def logits(calibrate: bool) -> torch.Tensor:
    """Return the logits of the quantized model."""
    quantized = copy.deepcopy(model)
    quantize(quantized, weights=qint8, activations=qint8)
    if calibrate:
        with Calibration():
            quantized(texts)
    freeze(quantized)
    return quantized(texts).dequantize()


with torch.no_grad():
    right = model(texts)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    plain = logits(calibrate=False)
    said = [str(one.message) for one in caught if "calib" in str(one.message).lower()]
calibrated = logits(calibrate=True)
agreement = [(one.argmax(-1) == right.argmax(-1)).float().mean().item() for one in (plain, calibrated)]
print("seen: first logits", right[0].tolist(), "without calibration", plain[0].tolist(), "with", calibrated[0].tolist(), "same label", agreement, "warnings", said)
assert torch.equal(plain, plain.round()) and not said and (plain == 0).float().mean() > 0.5 and agreement[0] < 0.8 < 0.95 < agreement[1]
PYTHON
