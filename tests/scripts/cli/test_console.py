"""How the commands talk to a person."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from scripts.cli.console import output_here, table


def test_what_a_command_writes_by_itself_goes_where_it_can_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Into this folder; in an image, whose folder belongs to root, into the temporary one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert output_here("page.html") == Path("page.html")
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).resolve() != Path.cwd())
    assert output_here("page.html") == tmp_path / "page.html"


def test_a_table_cuts_no_word(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a window of 80 characters rich would shorten names to what fits and an ellipsis."""
    monkeypatch.setenv("COLUMNS", "80")
    names = [f"intents-of-customers-{number}" for number in range(6)]
    table(names, [names])
    printed = capsys.readouterr().out
    cells = [line.strip("│┃\n").replace("┃", "│").split("│") for line in printed.splitlines() if line[0] in "│┃"]
    columns = ["".join(part.strip() for part in column) for column in zip(*cells, strict=True)]
    assert columns == [name * 2 for name in names]
