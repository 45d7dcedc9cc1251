"""Scenarios that tests outside this folder cover: the tests are run and counted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

from scripts.cli.console import ROOT
from tests.reliability.result import ScenarioResult

PASSED = 0  # exit code of pytest


def run_tests(scenario: str, procedure: str, *tests: str, **environment: str) -> ScenarioResult:
    """Run tests by their files or names."""
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
    width = {"COLUMNS": "400"}  # pytest cuts reasons at the width of the terminal
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | width | environment, capture_output=True, text=True, check=False
    )
    passed, failed = (_count(done.stdout, word) for word in ("passed", "failed"))
    return ScenarioResult(
        scenario,
        f"{procedure}: {' '.join(tests)}",
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


def _count(output: str, word: str) -> int:
    """Read a number from the summary line of pytest.

    >>> _count("1 failed, 9 passed in 3.21s", "passed")
    9
    """
    numbers = re.findall(rf"(\d+) {word}", output)
    return int(numbers[-1]) if numbers else 0
