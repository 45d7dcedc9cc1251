"""Where a worker computes, and with how many threads."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from handler.config import ServingConfig


def place(gpu_id: int | None, config: ServingConfig, n_workers: int) -> torch.device:
    """Choose the device of a worker and the number of its threads.

    PyTorch would start a thread for every core in every worker; together they would thrash.
    """
    threads = config.threads or max(1, usable_cores() // max(1, n_workers))
    torch.set_num_threads(threads)
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # of the tokenizer; read at its first batch
    if gpu_id is not None and torch.cuda.is_available():
        torch.cuda.set_device(gpu_id)  # or this worker would hold memory on GPU 0 as well
        return torch.device("cuda", gpu_id)
    return torch.device("cpu")


def usable_cores() -> int:
    """Count the cores this process may use: affinity and, in a container, its share of CPU time (cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
