"""Test deploy/gateway/clients.awk, which checks clients.map before nginx reads it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.samples import ROOT

KEY, OTHER = "aBcD" * 16, "eFgH" * 16


def check(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run the check on the text of a clients.map."""
    (folder / "clients.map").write_text(text)
    program = ROOT / "deploy" / "gateway" / "clients.awk"
    return subprocess.run(["awk", "-f", program, folder / "clients.map"], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f'"Bearer {KEY}" desk;', "line 2: the key of line 1 again"),
        (f'"Bearer {KEY.upper()}" desk;', "line 2: the key of line 1 again"),
        (f'"bearer {OTHER}" desk;', "line 2: expected"),
        (f'"Bearer {OTHER}" desk', "line 2: expected"),
        (f'"Bearer {OTHER}" two words;', "line 2: expected"),
        (f'"Bearer {OTHER} desk;', "line 2: expected"),
        (f'"Bearer {OTHER}; evil" desk;', "line 2: expected"),
        (f'"Bearer {OTHER}" $remote_addr;', "line 2: expected"),
        (f'"Bearer {OTHER}" desk; "Bearer {KEY[1:]}1" shop;', "line 2: expected"),
        (f"include {OTHER};", "line 2: expected"),
        (f'"Bearer ~{OTHER}$" desk;', "line 2: expected"),
        (f'"Bearer {OTHER[:31]}" desk;', "line 2: the key has fewer than 32"),
        (f'"Bearer {OTHER * 3}" desk;', "line 2: the key has more than 128"),
        (f'"Bearer {OTHER}" {"n" * 65};', "line 2: the name has more than 64"),
        (f'"Bearer {"0" * 64}" desk;', "line 2: the key is that of the example"),
    ],
)
def test_an_invalid_line_is_named_without_its_key(tmp_path: Path, line: str, reason: str) -> None:
    checked = check(tmp_path, f'"Bearer {KEY}" shop;\n{line}\n')
    assert checked.returncode == 1
    assert not checked.stdout
    assert checked.stderr.startswith(reason)
    for key in (KEY, OTHER):
        assert key.lower()[:16] not in checked.stderr.lower()


def test_valid_lines_become_two_maps(tmp_path: Path) -> None:
    """Comments, blank lines, blanks around, ends of lines of other systems, padded base64 keys."""
    text = f'# comment\n\n"Bearer {KEY}" shop;\r\n  "Bearer {OTHER[:43]}="\tdesk-2 ;  \n'
    checked = check(tmp_path, text)
    assert (checked.returncode, checked.stderr) == (0, "")
    for value in (f'"Bearer {KEY}" "{KEY}";', f'"Bearer {KEY}" "shop";', f'"Bearer {OTHER[:43]}=" "desk-2";'):
        assert value in checked.stdout


@pytest.mark.parametrize("text", ["", (ROOT / "deploy" / "gateway" / "clients.map.example").read_text()])
def test_no_client_is_valid(tmp_path: Path, text: str) -> None:
    """Removing the last client refuses all requests."""
    checked = check(tmp_path, text)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "Bearer" not in checked.stdout
