"""Compile the code in C for the processors that it is fast on, with the compiler in .venv (ziglang)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from handler.engine import kernels
from handler.torch_presence import has_torch
from scripts.cli.console import ScriptError, say

OPTIONS = (
    *("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-strict-aliasing", "-mprefer-vector-width=512"),
    *("-shared", "-fPIC", "-nostdlib", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", "-s"),
)


def compile_all() -> None:
    """Compile for every level of instructions what is not there yet; remove the results of other sources."""
    for source, levels in _sources():
        current = {kernels.path_of(level, source): level for level in levels}
        for path, level in current.items():
            if not path.is_file() or path.stat().st_mtime < Path(__file__).stat().st_mtime:  # OPTIONS may have changed
                compile_for(level, path, source)
                say(f"compiled {path.name}")
        for path in source.parent.glob("kernels-*.so"):
            if path not in current:
                path.unlink()


def _sources() -> Iterator[tuple[Path, Iterable[str]]]:
    """Yield what there is to compile and its levels; what trains needs PyTorch."""
    yield kernels.SOURCE, kernels.LEVELS
    if has_torch():
        from scripts.training import native

        yield native.SOURCE, native.LEVELS


def compile_for(level: str, path: Path, source: Path | None = None) -> None:
    """Compile for one level of instructions.

    Raises:
        ScriptError: there is no compiler, or it refuses the source.
    """
    if importlib.util.find_spec("ziglang") is None:
        raise ScriptError("no compiler: pip install -r requirements/develop.txt")
    source = source or kernels.SOURCE
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".kernels-") as scratch:
        output = Path(scratch) / path.name
        command = [sys.executable, "-m", "ziglang", "cc", *OPTIONS, "-target", "x86_64-linux-gnu"]
        done = subprocess.run(
            [*command, f"-mcpu={level}", "-o", str(output), str(source)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ScriptError(f"{source.name} does not compile for {level}: {done.stderr.strip()[:500]}")
        output.replace(path)
