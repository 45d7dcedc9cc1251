"""Files that a command writes: looked at before the work begins, and whole or not there at its end."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from scripts.cli.console import ScriptError


def check_output(path: Path, *inputs: Path | None) -> None:
    """Make the folder of a file that will be written, and see whether it can be.

    Args:
        inputs: files that are read, which must stay as they are.

    Raises:
        ScriptError: it is a folder, it or its folder cannot be written, or it is one of the inputs.
    """
    if path.is_dir():
        raise ScriptError(f"{path} is a folder: name a file in it")
    if path.exists():
        if any(source is not None and source.exists() and path.samefile(source) for source in inputs):
            raise ScriptError(f"{path} is read, and would be overwritten: choose another --output")
        if not os.access(path, os.W_OK):
            raise ScriptError(f"{path} may not be written: choose another --output")
    else:
        check_folder(path.parent)


def check_folder(path: Path) -> None:
    """Make a folder in which files will be written; raises ScriptError where that cannot be done.

    A file is written and removed: what the system says of a folder does not hold for /proc, nor for a full disk.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ScriptError(f"{path} may not be written ({error.strerror}): choose another --output") from None


def write_whole(path: Path, content: str) -> None:
    """Write a text file; on a disk that gets full the one before stays."""
    if path.exists() and not path.is_file():  # /dev/stdout
        path.write_text(content, encoding="utf-8")
        return
    target = path.resolve()  # of a link, the file that it leads to
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.write_text(content, encoding="utf-8")
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
