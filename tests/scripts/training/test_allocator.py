"""Memory that is kept between steps."""

from __future__ import annotations

import ctypes
import resource

import pytest

from scripts.training.allocator import kept_memory

SIZE, PAGES = 20 << 20, 20 << 20 >> 12
LIBRARY = ctypes.CDLL(None)


def faults(n: int) -> int:
    """Return the page faults of n times 20 MB that are allocated, written and freed."""
    LIBRARY.malloc.restype, LIBRARY.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    LIBRARY.free.argtypes = [ctypes.c_void_p]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n):
        memory = LIBRARY.malloc(SIZE)
        ctypes.memset(memory, 1, SIZE)
        LIBRARY.free(memory)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


# Elsewhere (musl) training asks for nothing: there is no setting that could be tested.
@pytest.mark.skipif(not hasattr(LIBRARY, "mallopt"), reason="glibc alone has it")
def test_freed_memory_is_allocated_without_faults() -> None:
    """Else each of the eight takes all pages anew, where pages are small."""
    with kept_memory():
        faults(1)
        assert faults(8) < PAGES
