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

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

SPARE = 1.2  # of the size of the file, must be free before it is written
ALIGNMENT = 64  # bytes: a cache line, which the kernels read at once


def share(tensors: Sequence[Tensor], path: Path) -> None:
    """Move contiguous tensors to memory that other processes share, where the file can be written.

    What the file holds is compared with the tensors, whatever process wrote it, and replaced where it differs.
    """
    try:
        with _locked(path.parent):
            views = _mapped(tensors, path)
            if views is None:
                _write(tensors, path)
                views = _mapped(tensors, path)
    # A file system that is full, or for reading alone; PyTorch cannot open the file of another user, or not map it.
    except (OSError, RuntimeError) as error:
        logger.info("workers do not share their weights: %s", " ".join(str(error).split()))
        return
    if views is not None:
        for tensor, view in zip(tensors, views, strict=True):
            tensor.data = view


def _mapped(tensors: Sequence[Tensor], path: Path) -> list[Tensor] | None:
    """Map the file; None: it is not there, or holds other weights."""
    *starts, size = _starts(tensors)
    if not path.is_file() or path.stat().st_size != size or not size:
        return None
    memory = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    views = []
    for tensor, start in zip(tensors, starts, strict=True):
        view = memory[start : start + tensor.nbytes]
        if not torch.equal(view, _bytes_of(tensor)):
            return None
        views.append(view.view(tensor.dtype).view(tensor.shape))
    return views


def _write(tensors: Sequence[Tensor], path: Path) -> None:
    """Write a new file in the place of the old one, which other workers may still have mapped."""
    *starts, size = _starts(tensors)
    prefix = f".{path.name}-"
    for left in path.parent.glob(f"{prefix}*"):  # by a worker that was killed: the others wait for the lock
        left.unlink(missing_ok=True)
    if (free := shutil.disk_usage(path.parent).free) < size * SPARE:  # logs and archives of others need some too
        raise OSError(errno.ENOSPC, f"{size >> 20} MB of weights, and {free >> 20} MB are free", str(path.parent))
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=prefix)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for tensor, start in zip(tensors, starts, strict=True):
                file.seek(start)
                file.write(_bytes_of(tensor).numpy().data)
            file.truncate(size)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _starts(tensors: Sequence[Tensor]) -> list[int]:
    """Return where each tensor starts in the file, and the size of the file.

    >>> _starts([torch.zeros(3), torch.zeros(70, dtype=torch.int8)])
    [0, 64, 192]
    """
    starts = [0]
    for tensor in tensors:
        starts.append(starts[-1] + -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT)
    return starts


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.detach().view(-1).view(torch.uint8)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time use the file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
