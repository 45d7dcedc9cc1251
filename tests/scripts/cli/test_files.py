"""Files that commands write."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from scripts import docs, evaluate, predict, score
from scripts.cli.console import ScriptError
from scripts.cli.files import check_output, write_whole
from tests.support.command import run_here


def test_an_output_is_looked_at_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder is made; what cannot be written, and what is read, is refused."""
    check_output(tmp_path / "new" / "page.html")
    assert not list((tmp_path / "new").iterdir())
    with pytest.raises(ScriptError, match="is a folder: name a file in it"):
        check_output(tmp_path)
    texts, link = tmp_path / "texts.csv", tmp_path / "link.csv"
    texts.write_text("text\n", encoding="utf-8")
    link.symlink_to(texts)
    check_output(texts, None, tmp_path / "missing.csv")
    for output in (texts, link):
        with pytest.raises(ScriptError, match="is read, and would be overwritten: choose another"):
            check_output(output, None, texts)
    for output in (texts / "page.html", Path("/proc/page.html"), Path("/proc/new/page.html")):
        with pytest.raises(ScriptError, match=r"may not be written \(.*\): choose another --output"):
            check_output(output)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ScriptError, match="may not be written: choose another"):
        check_output(texts)


@pytest.mark.parametrize("output", ["/proc/answers", "a file"])
def test_a_folder_is_looked_at_before_the_work(output: str, model_folder: Path, tmp_path: Path) -> None:
    """By every command that writes several files, and by one that writes a file after minutes."""
    if output == "a file":
        (tmp_path / "taken").write_text("mine")
        output = str(tmp_path / "taken")
    data = tmp_path / "data.csv"
    data.write_text("text,label\ngood,joy\nbad,fear\n")
    commands: list[tuple[Any, list[Any]]] = [
        (evaluate.main, ["--local", model_folder, "--data", data]),
        (score.main, ["--model", model_folder, data]),
        (docs.main, []),
    ]
    if output == "/proc/answers":
        commands.append((predict.main, ["--local", tmp_path / "no model is read", "hello"]))
    for main, words in commands:
        done = run_here(main, *words, "--output", output)
        assert done.returncode == 2, done.stderr
        assert re.search(r"choose another --output$", done.stderr.strip()), done.stderr
        assert "Errno" not in done.stderr


def test_a_file_is_whole_or_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the disk gets full; a link stays one, and a device is written to."""
    path, link = tmp_path / "a.json", tmp_path / "b.json"
    link.symlink_to(path)
    write_whole(link, "one")
    assert (path.read_text(encoding="utf-8"), link.is_symlink()) == ("one", True)
    written = Path.write_text

    def full(self: Path, content: str, **settings: str) -> int:
        written(self, content[:1], **settings)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "two")
    monkeypatch.undo()
    assert path.read_text(encoding="utf-8") == "one"
    assert {file.name for file in tmp_path.iterdir()} == {"a.json", "b.json"}
    write_whole(Path("/dev/null"), "three")
    assert Path("/dev/null").is_char_device()
