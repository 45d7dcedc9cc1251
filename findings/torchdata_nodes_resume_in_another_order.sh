#!/usr/bin/env bash
# Surprise: a loader of torchdata's nodes with a RandomSampler that has no generator resumes in another random order: some
#   rows are seen twice in the epoch and some never, without an error. StatefulDataLoader(shuffle=True), also without a
#   generator, resumes exactly.
# Versions: torchdata 0.11.0, torch 2.13.0.
# Users: give the sampler a torch.Generator with a fixed seed, in each process the same; try a resume on ten numbers
#   before a long training.
# Source: the state holds how many rows were taken, not their order; the loader draws as many from a new order.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torchdata==0.11.0' 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import torch
from torch.utils.data import RandomSampler
from torchdata.nodes import Batcher, Loader, SamplerWrapper
from torchdata.stateful_dataloader import StatefulDataLoader

print("torchdata", version("torchdata"), "torch", version("torch"))
print("guess: an epoch that is resumed from a state has each row once")
rows = list(range(100))


def nodes(seed=None):
    """Return a loader of shuffled rows, made of nodes."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return Loader(Batcher(SamplerWrapper(RandomSampler(rows, generator=generator)), batch_size=10, drop_last=False))


def lost(make):
    """Return how many rows an epoch lacks that was resumed after four batches."""
    first = make()
    batches = iter(first)
    before = [int(row) for _ in range(4) for row in next(batches)]
    second = make()
    second.load_state_dict(first.state_dict())
    after = [int(row) for batch in second for row in batch]
    assert len(before) == 40 and len(after) == 60
    return len(rows) - len({*before, *after})


seen = lost(nodes), lost(lambda: nodes(0)), lost(lambda: StatefulDataLoader(rows, batch_size=10, shuffle=True))
print("seen: rows lost: nodes", seen[0], "nodes with a generator", seen[1], "StatefulDataLoader", seen[2])
assert seen[0] > 0 and seen[1:] == (0, 0)
PYTHON
