"""A process of a pool ends with the one that started it."""

from __future__ import annotations

import subprocess
import sys

import psutil  # type: ignore[import-untyped]

from tests.support.samples import ROOT

PARENT = """
from multiprocessing import get_context
from server.parent import end_with_parent
child = get_context("spawn").Process(target=end_with_parent)
child.start()
print(child.pid, flush=True)
child.join()
"""


def test_it_ends_when_its_parent_is_killed() -> None:
    """Nobody tells it: it sees the end."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        assert parent.poll() is None
        parent.kill()
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running()
