#!/usr/bin/env python3
"""Compile handler/engine/kernels.c for the processors that it is fast on, with the compiler in .venv (ziglang).

scripts/setup.sh does this. The results lie beside the source, travel in every archive that scripts/package.py builds
from then on, and need no compiler there. What is compiled already is left as it is.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

from handler.engine import kernels
from scripts.cli.console import ScriptError, run, say

OPTIONS = (
    *("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-strict-aliasing", "-mprefer-vector-width=512"),
    *("-shared", "-fPIC", "-nostdlib", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", "-s"),
)


def main() -> None:
    """Compile for every level of instructions."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for level in kernels.LEVELS:
        path = kernels.path_of(level)
        if not path.is_file() or path.stat().st_mtime < Path(__file__).stat().st_mtime:  # other options, perhaps
            compile_for(level, path)
            say(f"compiled {path.name}")
    fresh = {kernels.path_of(level) for level in kernels.LEVELS}
    for path in kernels.SOURCE.parent.glob("kernels-*.so"):
        if path not in fresh:
            path.unlink()


def compile_for(level: str, path: Path) -> None:
    """Compile for one level; raises ScriptError without a compiler, or with one that refuses."""
    if importlib.util.find_spec("ziglang") is None:
        raise ScriptError("no compiler: pip install -r requirements/develop.txt")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".kernels-") as scratch:
        made = Path(scratch) / path.name
        command = [sys.executable, "-m", "ziglang", "cc", *OPTIONS, "-target", "x86_64-linux-gnu"]
        done = subprocess.run(
            [*command, f"-mcpu={level}", "-o", str(made), str(kernels.SOURCE)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ScriptError(f"{kernels.SOURCE.name} does not compile for {level}: {done.stderr.strip()[:500]}")
        made.replace(path)


if __name__ == "__main__":
    run(main)
