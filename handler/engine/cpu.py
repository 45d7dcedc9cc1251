"""What this processor can compute, and how many threads of it a process uses, without PyTorch."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

from handler.config import usable_cores

_threads: int | None = None  # None: never set


@functools.cache
def flags() -> frozenset[str]:
    """Return the instruction sets that processor and system support, by their names in Linux; none on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    line = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(line.partition(":")[2].split())


def has(*names: str) -> bool:
    """Tell whether this processor has all of some instruction sets."""
    return flags().issuperset(names)


def thread_count() -> int:
    """Return how many threads a forward pass may use: those of PyTorch, where this process has imported it."""
    if torch := imported_torch():
        return int(torch.get_num_threads())
    return _threads or _core_count()


_core_count = functools.cache(usable_cores)  # which reads files


def set_thread_count(count: int) -> None:
    """Set how many threads a forward pass may use."""
    global _threads
    _threads = count
    give_thread_count_to_torch()


def give_thread_count_to_torch() -> None:
    """Set the threads of PyTorch, where this process has imported it, to those of this module, where they were set."""
    if _threads and (torch := imported_torch()):
        torch.set_num_threads(_threads)


def imported_torch() -> Any:
    """Return PyTorch, where this process has imported it to its end; None: not, or another thread imports it now.

    Explanations import it, while threads that predict may ask for what it does not have yet.
    """
    torch = sys.modules.get("torch")
    is_begun = getattr(getattr(torch, "__spec__", None), "_initializing", False)  # as importlib itself asks
    return None if is_begun else torch
