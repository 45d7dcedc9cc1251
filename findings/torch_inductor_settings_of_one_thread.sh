#!/usr/bin/env bash
# Surprise: a setting of torch._inductor.config or torch._dynamo.config counts only in the thread that set it: a model that
#   another thread compiles (a worker of a server, a pool) is compiled with the defaults. Nothing is said.
# Versions: torch 2.13.0 (CPU).
# Users: compile and warm up in the thread that sets them, or use variables of the environment (TORCHINDUCTOR_FREEZING=1).
#   With freezing lost in this way a BERT in static int8 ran at a third of its speed.
# Source: what a program sets is kept in a context variable; a new thread begins with the defaults.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
venv/bin/python - <<'PYTHON'
from concurrent.futures import ThreadPoolExecutor

import torch
import torch._dynamo.config
import torch._inductor.config

print("torch", torch.__version__)
print("guess: the settings are those of the process")


def seen() -> tuple[bool, int]:
    """Return two settings as this thread sees them."""
    return torch._inductor.config.freezing, torch._dynamo.config.recompile_limit


before = seen()
torch._inductor.config.freezing = True
torch._dynamo.config.recompile_limit = 99
with ThreadPoolExecutor(1) as pool:
    here, there = seen(), pool.submit(seen).result()
print("seen: defaults", before, "set and read in this thread", here, "in another", there)
assert here == (True, 99)
assert there == before != here
PYTHON
