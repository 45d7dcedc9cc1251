"""On which device a worker computes, and with how many threads."""

from __future__ import annotations

import os

import torch

from handler.config import ServingConfig, usable_cores


def place(gpu_id: int | None, config: ServingConfig, n_workers: int) -> torch.device:
    """Choose the device of a worker and the number of its threads.

    PyTorch would start a thread for every core in every worker; together they would thrash.
    """
    threads = config.threads_of(n_workers, usable_cores())
    torch.set_num_threads(threads)
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # of the tokenizer; read at its first batch
    if gpu_id is not None and torch.cuda.is_available():
        torch.cuda.set_device(gpu_id)  # or this worker would hold memory on GPU 0 as well
        return torch.device("cuda", gpu_id)
    return torch.device("cpu")
