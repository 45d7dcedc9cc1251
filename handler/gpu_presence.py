"""Whether there is a GPU that PyTorch can use, said without its import (1.5 s, 150 MB) where there cannot be one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

# What the drivers of GPUs make: of NVIDIA's, of the same in Windows' subsystem for Linux and on a Jetson, of AMD's.
DRIVERS = ("/dev/nvidiactl", "/proc/driver/nvidia", "/dev/dxg", "/dev/nvhost-ctrl", "/dev/kfd")


def has_gpu(drivers: Sequence[str] = DRIVERS) -> bool:
    """Tell whether PyTorch sees a GPU; without one of these files of a driver it is not asked."""
    if not any(Path(path).exists() for path in drivers):
        return False
    try:
        import torch
    except ModuleNotFoundError:  # an image that computes on the CPU alone
        return False
    return torch.cuda.is_available()
