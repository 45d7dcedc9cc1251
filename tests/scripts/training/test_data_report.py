"""Training data is looked at before training; numbers are reported, never texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.cli.console import ScriptError
from scripts.training import data_report
from scripts.training.settings import parse
from scripts.training.splits import Splits, read
from tests.support.training import Row, write

SECRET = "secret"


def splits_of(folder: Path, train: list[Row], validation: list[Row], test: list[Row]) -> Splits:
    """Return the examples of three files."""
    parts = {"train": train, "validation": validation, "test": test}
    files = {name: write(folder / f"{name}.jsonl", rows) for name, rows in parts.items()}
    options = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    return read(parse([*options, "--output", str(folder / "out")], ""))


def row(text: str, label: str = "a") -> Row:
    """Return one labelled text."""
    return {"text": text, "label": label}


def test_findings_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = [row(f"{SECRET} {number}", "ab"[number % 2]) for number in range(20)]
    odd = [row(f"{SECRET} 0"), row(f"{SECRET} 1", "a"), row("\u200b\ufe0f"), row(f"{SECRET} x", "c")]
    odd += [row(f"{SECRET} ann@example.org or +49 30 1234567"), row(f"{SECRET} 4111 1111 1111 1111")]
    odd += [row(f"{SECRET} GB82 WEST 1234 5698 7654 32 PLEASE")]
    splits = splits_of(tmp_path, clean + odd, [row(f"{SECRET} 3", "b"), row("new")], [row("other")])
    reported = list(data_report.findings(splits))
    assert reported == [
        "labels with fewer than 5 texts in train.jsonl: c 1",
        "texts that repeat others of train.jsonl: 2, with different labels: 1",
        "texts of train without any visible character: 1",
        "texts of train that seem to hold an e-mail address: 1",
        "texts of train that seem to hold a telephone number: 1",
        "texts of train that seem to hold the number of a payment card: 1",
        "texts of train that seem to hold an IBAN: 1",
        "texts of validation that are also in train: 1 of 2",
    ]
    data_report.report(splits, strict=False)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["data: train.jsonl: a 16, b 10, c 1", *(f"data: {finding}" for finding in reported)]
    with pytest.raises(
        ScriptError, match=r"--strict: labels with .*; texts of validation that are also in train: 1 of 2: correct"
    ):
        data_report.report(splits, strict=True)
    assert SECRET not in "".join(lines)


def test_clean_data_has_no_findings(tmp_path: Path) -> None:
    rows = [
        row(f"order 1234567890123 of 2024-01-{number:02d}, part {number}", "ab"[number % 2]) for number in range(12)
    ]
    splits = splits_of(tmp_path, rows, [row("one more")], [row("and another")])
    assert not list(data_report.findings(splits))
    data_report.report(splits, strict=True)


def test_labels_that_look_alike_are_named(tmp_path: Path) -> None:
    """They stay labels of their own; nobody would see it in a list of their counts."""
    pairs = [("refund", "Refund"), ("a b", "a\u00a0b"), ("caf\u00e9", "cafe\u0301"), ("x", "x\u200b"), ("7", "007")]
    pairs += [("stra\u00dfe", "strasse"), ("1e3", "1.50"), ("C", "C++")]  # the last two are told apart
    labels = [label for pair in pairs for label in pair]
    rows = [row(f"{label} {number}", label) for label in labels for number in range(5)]
    splits = splits_of(tmp_path, rows, [row("one", "x")], [row("two", "x")])
    reported = list(data_report.findings(splits))
    assert len(reported) == 6
    assert all(finding.endswith("of train.jsonl look alike, and are different labels") for finding in reported)
    assert any(
        r"'caf\xe9' and 'cafe\u0301'" in finding or r"'cafe\u0301' and 'caf\xe9'" in finding for finding in reported
    )


def test_every_task_has_texts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ann@example.org\none\n\ntwo\nthree\n")
    for problem, n in {"masked-words": 1, "next-sentence": 1}.items():
        options = ["--train", str(tmp_path / "a.txt"), "--validation", str(tmp_path / "a.txt"), "--problem", problem]
        splits = read(parse([*options, "--output", str(tmp_path / "out")], ""))
        reported = list(data_report.findings(splits))
        assert any("e-mail" in finding and finding.endswith(f": {n}") for finding in reported)
        assert any("of validation that are also in train" in finding for finding in reported)
    question = {"question": "who?", "context": "ann@example.org", "answers": {"text": ["ann"], "answer_start": [0]}}
    tagged = {"tokens": ["ann@example.org"], "tags": ["B-MAIL"]}
    for line in (question, tagged):
        (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n")
        options = ["--train", str(tmp_path / "a.jsonl"), "--validation", str(tmp_path / "a.jsonl")]
        splits = read(parse([*options, "--output", str(tmp_path / "out")], ""))
        assert any("e-mail" in finding for finding in data_report.findings(splits))
