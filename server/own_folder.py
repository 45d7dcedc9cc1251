"""A temporary folder of one process, which the next one removes where this one is killed.

Replicas of a cluster are killed without a chance to remove their unpacked archives, and nothing else does.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

YOUNG_S = 60.0  # between the making of a folder and its lock


class OwnFolder:
    """A folder with a lock that ends with this process, however that ends."""

    def __init__(self, prefix: str) -> None:
        """Remove the folders with this prefix whose processes are gone, and make one."""
        for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            _remove_if_left(left)
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        self._lock = os.open(self.path, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Delete the folder; again, nothing."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1

    def __del__(self) -> None:
        """Delete the folder of an object that nothing needs."""
        if hasattr(self, "_lock"):
            self.remove()


def _remove_if_left(folder: Path) -> None:
    """Remove a folder that no process has locked; leave those of others and those that are just made."""
    try:
        if folder.is_symlink() or time.time() - folder.stat().st_mtime < YOUNG_S:
            return
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return
    finally:
        os.close(descriptor)
