#!/usr/bin/env bash
# Surprise: WarmupDecayLR and WarmupLR of DeepSpeed warm up along a logarithm: after one tenth of the warm-up the
#   learning rate is half of the greatest, five times that of lr_scheduler_type="linear", which the documentation of
#   transformers calls the same. The values that transformers fills in for "auto" do not change it.
# Versions: deepspeed 0.19.8, torch 2.13.0, transformers 5.20.0.
# Users: write "warmup_type": "linear" into the scheduler of the DeepSpeed file, or leave the scheduler out of it, which
#   takes that of transformers.
# Source: warmup_type is "log" by default in deepspeed/runtime/lr_schedules.py; transformers/integrations/deepspeed.py
#   fills in the ends, the steps and no type; docs/source/en/deepspeed.md of transformers compares the two.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'deepspeed==0.19.8' 'torch==2.13.0' 'transformers==5.20.0' 'setuptools<82'
cd "$work"
HF_HUB_OFFLINE=1 HF_HOME="$work/hf" venv/bin/python - <<'PYTHON'
from importlib.metadata import version

import torch
from deepspeed.runtime.lr_schedules import WarmupDecayLR
from transformers import get_linear_schedule_with_warmup

print(*(f"{name} {version(name)}" for name in ("deepspeed", "torch", "transformers")))
print("guess: the two give the same learning rates, but for one step")


def rates(make) -> list[float]:
    """Return the learning rate of each step."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    seen = []
    for _ in range(1000):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def deepspeeds(**options):
    return rates(lambda optimizer: WarmupDecayLR(optimizer, 1000, warmup_min_lr=0, warmup_max_lr=1.0, warmup_num_steps=100, **options))


linear = rates(lambda optimizer: get_linear_schedule_with_warmup(optimizer, 100, 1000))
default, typed = deepspeeds(), deepspeeds(warmup_type="linear")
for step in (2, 10, 50, 100, 500):
    print("seen: step", step, "of 1000, 100 of warm-up: linear", round(linear[step], 3), "WarmupDecayLR", round(default[step], 3), 'with "linear"', round(typed[step], 3))
assert abs(default[10] - 0.5) < 0.01 and abs(linear[10] - 0.1) < 0.01 and abs(default[500] - linear[500]) < 0.01
assert max(abs(one - other) for one, other in zip(typed, linear, strict=True)) < 0.02
PYTHON
