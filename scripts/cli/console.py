"""How the scripts talk to a person: one form of error, progress on standard error, tables on standard output.

Answers and tables go to standard output, everything else to standard error, so that a script can be piped.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

ROOT = Path(__file__).resolve().parents[2]


class ScriptError(Exception):
    """Something a person can mend; the message says how."""


def say(message: str) -> None:
    """Print one line of progress to standard error."""
    print(message, file=sys.stderr, flush=True)


def counted(n: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "text"), counted(2, "text")
    ('1 text', '2 texts')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def output_here(name: str) -> Path:
    """Return where a command writes that was given no --output: this folder, or the temporary one.

    An image's folder cannot be written by the user that its server runs as.
    """
    return Path(name) if os.access(".", os.W_OK) else Path(tempfile.gettempdir(), name)


def progress() -> Progress:
    """Return a progress bar for counted work; silent where standard error is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a small table to standard output; wide cells wrap, and long words too: no name or hash is cut short."""
    grid = Table(*(Column(name, overflow="fold") for name in header), header_style="bold")
    for row in rows:
        grid.add_row(*map(str, row))
    Console(markup=False, highlight=False).print(grid)
