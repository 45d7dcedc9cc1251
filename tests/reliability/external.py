"""Promises that tests outside this folder hold: they are run as they stand, and counted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

from scripts.cli.console import ROOT
from tests.reliability.result import Verdict

PASSED = 0  # exit code of pytest


def held_by(promise: str, asked: str, *tests: str, **environment: str) -> Verdict:
    """Run tests by their files or names."""
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
    wide = {"COLUMNS": "400"}  # or pytest cuts off why a test failed
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | wide | environment, capture_output=True, text=True, check=False
    )
    passed, failed = (_count(done.stdout, word) for word in ("passed", "failed"))
    return Verdict(
        promise,
        f"{asked}: {' '.join(tests)}",
        {"tests passed": passed, "failed": failed, "seconds": time.monotonic() - began},
        {
            **{
                line.removeprefix("FAILED ")[:300]: False
                for line in done.stdout.splitlines()
                if line.startswith("FAILED ")
            },
            f"pytest ended with {done.returncode}": done.returncode == PASSED and passed > 0,
        },
    )


def _count(told: str, word: str) -> int:
    """Read a number from the last line of pytest.

    >>> _count("1 failed, 9 passed in 3.21s", "passed")
    9
    """
    found = re.findall(rf"(\d+) {word}", told)
    return int(found[-1]) if found else 0
