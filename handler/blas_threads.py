"""The threads of numpy's BLAS: one is enough for the products of a worker, which are small.

OpenBLAS starts a thread for every core in every process, and a product waits for all of them. On two cores with other
work to do, one of (16, 768) by (768, 128) took up to 140 ms, by one thread 0.1 ms (AMD EPYC, 2026-11-28).
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

SETTERS = (  # as OpenBLAS is named in the wheels of numpy, and by distributions
    "scipy_openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
)


def limit_blas_threads(n_threads: int = 1) -> None:
    """Set the number of threads of every OpenBLAS that this process has loaded; of another BLAS nothing changes."""
    for library in _libraries():
        setter = next((getattr(library, name) for name in SETTERS if hasattr(library, name)), None)
        if setter is not None:
            setter(n_threads)


def _libraries() -> Iterator[ctypes.CDLL]:
    with contextlib.suppress(OSError):  # no /proc
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        paths = {line.split(maxsplit=5)[-1] for line in lines if "blas" in line.rpartition("/")[2]}
        for path in sorted(paths):
            with contextlib.suppress(OSError):  # replaced since it was loaded
                yield ctypes.CDLL(path)
