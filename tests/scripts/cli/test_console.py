"""How the commands talk to a person."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from scripts.cli.console import output_here


def test_what_a_command_writes_by_itself_goes_where_it_can_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Into this folder; in an image, whose folder belongs to root, into the temporary one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert output_here("page.html") == Path("page.html")
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).resolve() != Path.cwd())
    assert output_here("page.html") == tmp_path / "page.html"
