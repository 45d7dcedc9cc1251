"""Weights that all workers of an archive share: the first one writes them to a file, and every worker maps it.

Weights are laid out for the processor when a worker starts, so each would hold its own in anonymous memory. Mapped
pages are those of the page cache: the system has them once, and may drop and read them again.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

SPARE = 1.2  # of the size of the file, must be free before it is written
COMPARED = 1 << 20  # bytes at a time: comparing makes an array of as many
ALIGNMENT = 64  # bytes: a cache line, which the kernels read at once


def share(arrays: Sequence[NDArray[Any]], path: Path) -> list[NDArray[Any]]:
    """Return contiguous arrays in memory that other processes share, where the file can be written; else themselves.

    What the file holds is compared with the arrays, whatever process wrote it, and replaced where it differs.
    """
    try:
        with _locked(path.parent):
            views = _mapped(arrays, path)
            if views is None:
                _write(arrays, path)
                views = _mapped(arrays, path)
    except (OSError, ValueError) as error:  # a file system that is full, or for reading alone; the file of another user
        logger.info("workers do not share their weights: %s", " ".join(str(error).split()))
        views = None
    return list(arrays) if views is None else views


def _mapped(arrays: Sequence[NDArray[Any]], path: Path) -> list[NDArray[Any]] | None:
    """Map the file; None: it is not there, or holds other weights."""
    *starts, size = _starts(arrays)
    if not path.is_file() or path.stat().st_size != size or not size:
        return None
    memory = np.memmap(path, np.uint8, mode="c")  # no process writes; one that did would change its own pages
    views = []
    for array, start in zip(arrays, starts, strict=True):
        view = np.asarray(memory[start : start + array.nbytes])
        if not _is_equal(view, _bytes_of(array)):
            return None
        views.append(view.view(array.dtype).reshape(array.shape))
    return views


def _write(arrays: Sequence[NDArray[Any]], path: Path) -> None:
    """Write a new file in the place of the old one, which other workers may still have mapped."""
    *starts, size = _starts(arrays)
    prefix = f".{path.name}-"
    for left in path.parent.glob(f"{prefix}*"):  # by a worker that was killed: the others wait for the lock
        left.unlink(missing_ok=True)
    if (free := shutil.disk_usage(path.parent).free) < size * SPARE:  # logs and archives of others need some too
        raise OSError(errno.ENOSPC, f"{size >> 20} MB of weights, and {free >> 20} MB are free", str(path.parent))
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=prefix)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for array, start in zip(arrays, starts, strict=True):
                file.seek(start)
                file.write(_bytes_of(array).data)
            file.truncate(size)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _starts(arrays: Sequence[NDArray[Any]]) -> list[int]:
    """Return where each array starts in the file, and the size of the file.

    >>> _starts([np.zeros(3, np.float32), np.zeros(70, np.int8)])
    [0, 64, 192]
    """
    starts = [0]
    for array in arrays:
        starts.append(starts[-1] + -(-array.nbytes // ALIGNMENT) * ALIGNMENT)
    return starts


def _is_equal(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    parts = range(0, len(one), COMPARED)
    return all(np.array_equal(one[start : start + COMPARED], other[start : start + COMPARED]) for start in parts)


def _bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time use the file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
