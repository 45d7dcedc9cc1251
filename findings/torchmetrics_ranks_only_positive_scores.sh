#!/usr/bin/env bash
# Surprise: a relevant text with a score of 0 or less counts as irrelevant: the reciprocal rank, MAP, recall and
#   precision of a perfect ranking by logits are 0 if all logits are negative, and MAP rises from 0.83 to 1.0 if the last
#   relevant text gets a negative score. nDCG and the hit rate of the same ranking are right. Nothing is said.
# Versions: torchmetrics 1.9.0, torch 2.13.0.
# Users: pass torch.sigmoid(logits), or scores + 1 for cosines, to retrieval metrics; the order is what counts.
# Source: targets are kept where preds > 0 and false elsewhere, before they are ranked; the documentation calls preds
#   probabilities.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torchmetrics==1.9.0' 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import torch
from torchmetrics import retrieval

print("torchmetrics", version("torchmetrics"), "torch", version("torch"))
print("guess: metrics of a ranking depend on the order of the scores alone")
kinds = [getattr(retrieval, f"Retrieval{name}") for name in ("MRR", "MAP", "Recall", "Precision", "NormalizedDCG", "HitRate")]
relevant, query = torch.tensor([True, False, True]), torch.tensor([0, 0, 0])
seen = {}
for name, scores in {"positive": [3.0, 2.0, 1.0], "negative": [-1.0, -2.0, -3.0], "mixed": [1.0, -1.0, -2.0]}.items():
    preds = torch.tensor(scores)
    seen[name] = [round(float(kind()(preds, relevant, indexes=query)), 2) for kind in kinds]
    sigmoid = [round(float(kind()(torch.sigmoid(preds), relevant, indexes=query)), 2) for kind in kinds]
    print("seen:", name, scores, seen[name], "after a sigmoid", sigmoid)
    assert sigmoid == seen["positive"]
assert seen["positive"] == [1, 0.83, 1, 0.67, 0.92, 1]
assert seen["negative"] == [0, 0, 0, 0, 0.92, 1] and seen["mixed"] == [1, 1, 0.5, 0.33, 0.92, 1]
PYTHON
