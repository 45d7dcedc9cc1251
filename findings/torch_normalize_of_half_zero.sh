#!/usr/bin/env bash
# Surprise: a zero vector in half precision is normalised to NaN, and its cosine with anything is NaN, where float32 and
#   bfloat16 give 0: the small number that guards the division is itself 0 in half precision.
# Versions: torch 2.13.0 (normalize and cosine_similarity; sentence-transformers' Normalize and cos_sim call the former).
# Users: empty texts, masked rows and pruned tables give zero vectors: pass eps=1e-6 or normalise in float32 where a model
#   runs in half precision; one NaN in a sum or a softmax spreads to all.
# Source: eps is 1e-12 (1e-8 for the cosine), and the least positive half is 6e-8.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
import torch
from torch.nn.functional import cosine_similarity, normalize

print("torch", torch.__version__)
print("guess: zero stays zero in each precision, as the documentation's max(norm, eps) has it")
seen = {}
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    zero, other = torch.zeros(1, 4, dtype=dtype), torch.ones(1, 4, dtype=dtype)
    seen[dtype] = normalize(zero)[0, 0].item(), cosine_similarity(zero, other).item(), normalize(zero, eps=1e-6)[0, 0].item()
    print("seen:", dtype, "normalize", seen[dtype][0], "cosine_similarity", seen[dtype][1], "normalize with eps=1e-6", seen[dtype][2])
assert seen[torch.float32] == seen[torch.bfloat16] == (0, 0, 0)
assert str(seen[torch.float16]) == "(nan, nan, 0.0)"
PYTHON
