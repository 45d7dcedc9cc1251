#!/usr/bin/env bash
# Surprise: sum, mean and max of a jagged tensor made by torch.nested.narrow count what was narrowed away: the sum of the
#   kept 5 of 10 numbers is the sum of all 10. unbind() and numel() know the 5.
# Versions: torch 2.13.0 (CPU).
# Users: narrow is how a padded batch becomes jagged without a copy. Call contiguous() on it before a loss or a metric
#   (clone() does not help), and compare one sum with the sum over unbind().
# Source: the tensor keeps the padded values with offsets and lengths; a reduction to one number takes the values as a whole.
#   A sum over the ragged dimension alone raises an error.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import torch

print("torch", torch.__version__)
print("guess: sum, mean and max are those of the kept numbers: 19, 3.8 and 7")
padded = torch.arange(10.0).view(2, 5)
jagged = torch.nested.narrow(padded, 1, torch.tensor([0, 0]), torch.tensor([2, 3]), layout=torch.jagged)
kept = [row.tolist() for row in jagged.unbind()]
seen = jagged.sum().item(), jagged.mean().item(), jagged.max().item(), jagged.clone().sum().item()
packed = jagged.contiguous()
right = packed.sum().item(), round(packed.mean().item(), 4), packed.max().item()
print("seen: kept", kept, "of", jagged.numel(), "numbers; sum, mean, max, sum of a clone", seen, "contiguous()", right)
assert kept == [[0, 1], [5, 6, 7]] and jagged.numel() == 5
assert seen == (45, 4.5, 9, 45) and right == (19, 3.8, 7)
PYTHON
