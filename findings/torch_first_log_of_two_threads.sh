#!/usr/bin/env bash
# Surprise: the first log, exp, cos or sin of a large tensor in a process is now and then inaccurate in the part that
#   one of the threads computes; the second call is right. A table that is made once, as that of rotary positions,
#   keeps the error: two processes with the same weights then give different outputs.
# Versions: torch 2.13.0 on processors for which it uses MKL; seen in 1 of 20 (log) to 1 of 100 (cos) fresh processes.
# Users: call each of these functions once for one element, in float32 and float64, before anything is computed.
# Source: MKL chooses the code of a function at its first call; where two threads make it at once, one of them may get
#   code of low accuracy for that call (pytorch issue 188792).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torch==2.13.0' 'numpy==2.4.6'
cd "$work"
OMP_NUM_THREADS=2 venv/bin/python - <<'PYTHON'
import os

import torch

print("torch", torch.__version__, "threads", torch.get_num_threads())
print("guess: the same function of the same numbers gives the same bits twice")


def first_and_second(warmed: bool) -> float:
    """Return the largest difference of two calls in a fresh process, a copy of this one, which computes nothing."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        if warmed:
            torch.log(torch.ones(1))
        x = torch.arange(4096, dtype=torch.float32) * 0.01 + 0.5  # two threads with 2,048 numbers each
        os.write(write, str(float((torch.log(x) - torch.log(x)).abs().max())).encode())
        os._exit(0)
    os.waitpid(child, 0)
    difference = float(os.read(read, 100))
    os.close(read)
    os.close(write)
    return difference


seen: list[float] = []
while not any(seen) and len(seen) < 5000:
    seen.append(first_and_second(warmed=False))
print("seen: in process", len(seen), "the first call is off by", seen[-1])
assert 1e-6 < seen[-1] < 1e-3
warmed = [first_and_second(warmed=True) for _ in range(1000)]
print("seen: after a call for one element", sum(map(bool, warmed)), "of", len(warmed), "processes differ")
assert not any(warmed)
PYTHON
