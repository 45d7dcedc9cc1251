"""Run a command of scripts/ without starting Python again: importing torch and transformers takes it five seconds."""

from __future__ import annotations

from scripts.cli.command import run

import io
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch


def run_here(
    main: Callable[[], int | None], *arguments: str | Path, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the `main` of a command in this process, as its file does; return its exit code and what it printed."""
    words = [str(argument) for argument in arguments]
    output, errors, threads = io.StringIO(), io.StringIO(), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.setattr(sys, "argv", [main.__module__.rpartition(".")[2] + ".py", *words])
        if cwd:
            patch.chdir(cwd)
        try:
            with pytest.raises(SystemExit) as ended:
                run(main)
        finally:
            torch.set_num_threads(threads)
    return subprocess.CompletedProcess(words, int(ended.value.code or 0), output.getvalue(), errors.getvalue())
