"""Folders of processes that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from server.own_folder import YOUNG_S, OwnFolder
from tests.support.samples import ROOT

HOLD = """
import sys, tempfile, time
from server.own_folder import OwnFolder
tempfile.tempdir = sys.argv[1]
folder = OwnFolder("replica-")
(folder.path / "weights").write_bytes(b"x")
print(folder.path, flush=True)
time.sleep(600)
"""


def test_the_next_process_removes_what_a_killed_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And neither what lives, nor what is just made, nor what has another name."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    other = tmp_path / "other"
    other.mkdir()
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        held = Path(process.stdout.readline().strip())
        young = tmp_path / "replica-young"
        young.mkdir()
        for folder in (held, other):
            os.utime(folder, (0, folder.stat().st_mtime - 2 * YOUNG_S))
        own = OwnFolder("replica-")
        assert {held, own.path, young, other} == set(tmp_path.iterdir())
        process.send_signal(signal.SIGKILL)
        process.wait()
    own.remove()
    own.remove()
    own = OwnFolder("replica-")
    assert {own.path, young, other} == set(tmp_path.iterdir())
    del own
    assert {young, other} == set(tmp_path.iterdir())
