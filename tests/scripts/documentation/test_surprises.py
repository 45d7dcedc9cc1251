"""docs/surprises.md fits the tree: each row once, with a test that exists; every finding stands in its list."""

from __future__ import annotations

import re

import pytest

from tests.support.samples import ROOT

PAGE = (ROOT / "docs" / "surprises.md").read_text(encoding="utf-8")
FINDINGS = (ROOT / "findings" / "README.md").read_text(encoding="utf-8")
ROWS = [
    re.split(r"(?<!\\) \| ", line.strip("| "))
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| library")
]


def test_no_row_stands_twice() -> None:
    """Two branches that add the same row merge without a conflict."""
    behaviours = [(row[0], re.sub(r" ?\(\[script\].*", "", row[1]).rstrip(".")) for row in ROWS]
    assert len(behaviours) == len(set(behaviours))


@pytest.mark.parametrize("row", ROWS, ids=[f"{number}-{row[0]}" for number, row in enumerate(ROWS)])
def test_every_row_names_a_test_that_exists(row: list[str]) -> None:
    """A file, or a function of one."""
    assert len(row) == 4
    tests = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row[3])
    assert tests
    for file, name in tests:
        assert re.search(rf"^(?:async )?def {name}", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_finding_is_listed_once() -> None:
    """A script that no list names is not there."""
    listed = re.findall(r"(?m)^\| \[(\w+)\]\(\1\.sh\) ", FINDINGS)
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "findings").glob("*.sh"))
