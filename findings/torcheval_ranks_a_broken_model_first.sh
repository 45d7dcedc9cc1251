#!/usr/bin/env bash
# Surprise: reciprocal_rank and hit_rate of torcheval are 1.0 for a model that gives every text the same score, and for
#   one that gives NaN, and so is multiclass_accuracy with k=2, where the plain accuracy is 0.01.
# Versions: torcheval 0.0.7, torch 2.13.0.
# Users: look for NaN and for equal scores before ranking, or use retrieval metrics of torchmetrics or pytrec_eval.
# Source: the rank of the right answer is the number of greater scores: nothing is greater than an equal score or than
#   NaN.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torcheval==0.0.7' 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import torch
from torcheval.metrics.functional import hit_rate, multiclass_accuracy, reciprocal_rank

print("torcheval", version("torcheval"), "torch", torch.__version__)
print("guess: a model that tells nothing apart finds the right one of 1000 once in 1000 times, or never")
answers = torch.arange(100)
seen = {}
for name, score in (("equal", 0.5), ("NaN", float("nan"))):
    scores = torch.full((100, 1000), score)
    seen[name] = {
        "reciprocal_rank": reciprocal_rank(scores, answers).mean().item(),
        "hit_rate": hit_rate(scores, answers, k=1).mean().item(),
        "accuracy, k=2": multiclass_accuracy(scores, answers, k=2).item(),
        "accuracy": multiclass_accuracy(scores, answers).item(),
    }
print("seen:", seen)
for values in seen.values():
    assert list(values.values())[:3] == [1, 1, 1] and values["accuracy"] < 0.02
PYTHON
