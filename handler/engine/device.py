"""On which device a worker computes, and with how many threads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, Union

from handler.blas_threads import limit_blas_threads
from handler.config import ServingConfig, usable_cores
from handler.engine import cpu

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class CpuDevice:
    """The processor, as `torch.device` describes it, without PyTorch."""

    type: str = "cpu"
    index: None = None

    def __str__(self) -> str:
        return self.type


CPU = CpuDevice()
AnyDevice: TypeAlias = Union[CpuDevice, "torch.device"]


def place(gpu_id: int | None, config: ServingConfig, n_workers: int) -> AnyDevice:
    """Choose the device of a worker and the number of its threads.

    PyTorch would start a thread for every core in every worker; together they would thrash.
    """
    threads = config.threads_of(n_workers, usable_cores())
    cpu.set_thread_count(threads)
    limit_blas_threads()
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # of the tokenizer; read at its first batch
    if gpu_id is None:
        return CPU
    import torch

    cpu.give_thread_count_to_torch()
    if not torch.cuda.is_available():
        return CPU
    torch.cuda.set_device(gpu_id)  # or this worker would hold memory on GPU 0 as well
    return torch.device("cuda", gpu_id)


def to_torch(device: AnyDevice | None) -> torch.device:
    """Return what PyTorch calls a device; None: the processor."""
    import torch

    return device if isinstance(device, torch.device) else torch.device("cpu")
