"""End a process of a pool when the process that started it has ended: one that is killed leaves them behind."""

from __future__ import annotations

import os
from multiprocessing import connection, parent_process


def end_with_parent() -> None:
    """Wait until the process that started this one has ended, and end."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
