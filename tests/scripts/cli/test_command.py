"""How the commands end."""

from __future__ import annotations

from scripts.cli.command import INSTALL

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.samples import ROOT

COMMANDS = [*sorted((ROOT / "scripts").glob("*.py")), ROOT / "server" / "__main__.py"]
FOREGROUND = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # as these tests may not be
INTERRUPTED_AT_IMPORT = """
import runpy, signal, sys

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == MODULE:
            signal.raise_signal(signal.SIGINT)

MODULE, *sys.argv = sys.argv[1:]
sys.meta_path.insert(0, Interrupts())
runpy.run_path(sys.argv[0], run_name="__main__")
print("was not interrupted")
"""


def python(code: str, *words: str, output: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Run code in another process, from the root of the repository."""
    return subprocess.run(
        [sys.executable, "-c", FOREGROUND + code, *words],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        timeout=120,
    )


@pytest.mark.parametrize("module", ["argparse", "rich"])
@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_ctrl_c_ends_a_command_quietly_while_it_is_still_importing(path: Path, module: str) -> None:
    """By the signal, which a shell reports as 130, and without a traceback."""
    ended = python(INTERRUPTED_AT_IMPORT, module, str(path), "--help")
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


def test_ctrl_c_in_the_work_of_a_command_is_130() -> None:
    """What has to be tidied up is: the work sees KeyboardInterrupt."""
    code = "import signal; from scripts.cli.command import run; run(lambda: signal.raise_signal(signal.SIGINT))"
    ended = python(code)
    assert (ended.returncode, ended.stderr) == (130, "")


def test_a_reader_that_closes_the_pipe_is_no_error() -> None:
    """As `head` does."""
    reader, writer = os.pipe()
    os.close(reader)
    ended = python("from scripts.cli.command import run; run(lambda: print('line'))", output=writer)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_another_closed_pipe_is_an_error() -> None:
    """That of a connection, say, while somebody still reads."""
    code = """
from scripts.cli.command import run
def main():
    raise BrokenPipeError(32, "Broken pipe")
run(main)
"""
    ended = python(code)
    assert (ended.returncode, ended.stderr) == (2, "error: [Errno 32] Broken pipe\n")


def test_a_package_that_is_not_installed_is_one_line() -> None:
    """One of ours that is not there is a fault, which keeps its traceback."""
    missing = "from scripts.cli.command import run; run(lambda: __import__('nobody_has_this.module'))"
    ended = python(missing)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"error: this command needs nobody_has_this, which is not installed here: {INSTALL}\n"
    ours = python("from scripts.cli.command import run; run(lambda: __import__('scripts.nothing'))")
    assert "Traceback" in ours.stderr
