#!/usr/bin/env bash
# Surprise: weights changed inside of an outer torch.autocast block are not seen: a training loop in it computes with the
#   weights of the first step for ever, and the loss stays the same. A new block for each step does not help while any
#   other is open around it, even one with enabled=False. Nothing is said.
# Versions: torch 2.13.0 (CPU; the cache is the same for GPUs).
# Users: leave every autocast block before weights change, or pass cache_enabled=False; look whether a framework opens one.
# Source: bfloat16 copies of weights that need a gradient are kept until the outermost block ends.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from contextlib import nullcontext

import torch

print("torch", torch.__version__)
print("guess: each forward pass uses the weights as they are, so the loss falls")


def losses(outer, inner) -> list[float]:
    """Train a layer for four steps within the outer block, each forward pass in an inner block."""
    torch.manual_seed(0)
    layer, x, seen = torch.nn.Linear(4, 1), torch.ones(1, 4), []
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    with outer:
        for _ in range(4):
            with inner:
                loss = (layer(x).float() - 3).pow(2).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(round(loss.item(), 3))
    return seen


def block(**options):
    return torch.autocast("cpu", torch.bfloat16, **options)


around, disabled = losses(block(), nullcontext()), losses(block(enabled=False), block())
alone, uncached = losses(nullcontext(), block()), losses(block(cache_enabled=False), nullcontext())
print("seen: one block around the loop", around, "a block for each step in a disabled one", disabled)
print("      a block for each step alone", alone, "cache_enabled=False", uncached)
assert len(set(around)) == 1 and disabled == around
assert alone == uncached and alone[-1] < 0.5 * alone[0]
PYTHON
