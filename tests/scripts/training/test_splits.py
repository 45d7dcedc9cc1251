"""Data of every form becomes examples, or is refused by name; no model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.cli.console import ScriptError
from scripts.training.settings import parse
from scripts.training.splits import Splits, read
from tests.support.training import Row, write

SECRET = "secret"


def splits_of(train: Path, *options: object) -> Splits:
    """Read and check the data of a training, with half of it held out."""
    arguments = ["--train", train, "--output", train.parent / "out", "--validation-split", 0.5, *options]
    return read(parse([str(argument) for argument in arguments], ""))


def targets(splits: Splits) -> list[Any]:
    """Return the targets of all examples, in the order of their texts."""
    rows = [*splits.train.rows, *splits.validation.rows]
    return [row.target for row in sorted(rows, key=lambda row: row.text)]


def numbered(*cells: object, column: str = "label") -> list[Row]:
    """Return rows whose texts are in order."""
    return [{"text": f"{SECRET} {number}", column: cell} for number, cell in enumerate(cells)]


def test_a_multi_hot_list_needs_names(tmp_path: Path) -> None:
    """Read as names, [0, 1, 0] would train labels that are called 0 and 1."""
    rows = numbered([0, 1, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1])
    for file in (write(tmp_path / "a.jsonl", rows), write(tmp_path / "a.csv", rows)):
        splits = splits_of(file, "--label-names", "x, y, z")
        assert splits.task.labels == ("x", "y", "z")
        assert targets(splits) == [[0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 1.0]]
        with pytest.raises(ScriptError, match=r"lists of 3 numbers 0 and 1: name what they stand for.*--label-names"):
            splits_of(file)
        with pytest.raises(ScriptError, match="--label-names has 2 names, but the lists have 3 numbers"):
            splits_of(file, "--label-names", "x,y")
        with pytest.raises(ScriptError, match="--label-names: y is there twice"):
            splits_of(file, "--label-names", "x,y,y")
    names = splits_of(write(tmp_path / "b.jsonl", numbered(["0", "1"], ["1"], ["0"], ["1", "0"])))
    assert names.task.labels == ("0", "1")


def test_lists_in_cells_of_a_csv(tmp_path: Path) -> None:
    """Pandas writes lists of Python into a CSV; a label in brackets alone is a name."""
    file = write(tmp_path / "a.csv", numbered("['b', 'a']", "['a']", "", "['b']"))
    assert targets(splits_of(file)) == [[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
    file = write(tmp_path / "b.csv", numbered("[spam]", "[ham]", "[spam]", "[ham]"))
    assert splits_of(file).task.labels == ("[ham]", "[spam]")
    tokens = [{"tokens": str(["Ann", "ran"]), "tags": str(["B-PER", "O"])}, {"tokens": "['x']", "tags": "['O']"}]
    splits = splits_of(write(tmp_path / "c.csv", tokens * 2))
    assert splits.task.labels == ("O", "B-PER", "I-PER")


@pytest.mark.parametrize(
    "label",
    [
        [[7, 10, "PER"]],
        [{"id": 3, "label": "PER", "start_offset": 7, "end_offset": 10}],
        [{"start": 7, "end": 10, "text": "Ann", "labels": ["PER"]}],
        [{"start": 7, "end": 10, "label": "PER"}],
    ],
)
@pytest.mark.parametrize("column", ["label", "labels", "entities"])
def test_exports_of_annotation_tools_are_entities(label: Any, column: str, tmp_path: Path) -> None:
    """Doccano writes triples or offsets, Label Studio's JSON-MIN lists of one name; some texts have none."""
    rows = [{"id": n, "text": f"{SECRET} Ann {n}", column: [] if n % 2 else label} for n in range(4)]
    splits = splits_of(write(tmp_path / "a.jsonl", rows))
    examples = [*splits.train.rows, *splits.validation.rows]
    assert splits.task.labels == ("O", "B-PER", "I-PER")
    tagged = [
        [row.text[slice(*word)] for word, tag in zip(row.words, row.tags, strict=True) if tag != "O"]
        for row in examples
    ]
    assert sorted(tagged) == [[], [], ["Ann"], ["Ann"]]
    if column != "entities":
        with pytest.raises(ScriptError, match=rf"row 1, column {column}: .* --problem entities") as refused:
            splits_of(tmp_path / "a.jsonl", "--problem", "multi", "--label-column", column)
        assert SECRET not in str(refused.value)


def prodigy(n: int, answer: str = "accept", **task: Any) -> dict[str, Any]:
    """Return a row as `prodigy db-out` writes it."""
    return {"text": f"{SECRET} Ann {n}", "_input_hash": n, "_task_hash": n, **task, "answer": answer}


def test_exports_of_prodigy(tmp_path: Path) -> None:
    """Spans are entities although there are tokens, choices are labels; what was not accepted has no label."""
    span = {"start": 7, "end": 10, "token_start": 1, "token_end": 1, "label": "PER"}
    tokens = [{"text": SECRET, "start": 0, "end": 6, "id": 0, "ws": True}]
    rows = [prodigy(n, tokens=tokens, spans=[span] if n % 2 else []) for n in range(4)]
    splits = splits_of(write(tmp_path / "spans.jsonl", rows))
    assert splits.task.labels == ("O", "B-PER", "I-PER")
    options = [{"id": "a", "text": "Label A"}, {"id": "b", "text": "Label B"}]
    rows = [prodigy(n, options=options, accept=["a" if n % 2 else "b"]) for n in range(4)]
    assert splits_of(write(tmp_path / "choice.jsonl", rows)).task.labels == ("a", "b")
    rows = [row | {"config": {"choice_style": "multiple"}} for row in rows]
    assert sorted(targets(splits_of(write(tmp_path / "choices.jsonl", rows)))) == [[0.0, 1.0]] * 2 + [[1.0, 0.0]] * 2
    rows = [prodigy(n, "accept" if n else "reject", label="ab"[n % 2]) for n in range(4)]
    with pytest.raises(ScriptError, match=r"row 1, column label: the label is missing: the answer .* is 'reject'; lea"):
        splits_of(write(tmp_path / "rejected.jsonl", rows))


def test_exports_of_argilla(tmp_path: Path) -> None:
    """The question is a column; as `records.to_json` of argilla 2.8 writes it."""
    other: dict[str, Any] = {
        "metadata": {},
        "suggestions": {},
        "vectors": {},
        "status": "completed",
        "_server_id": None,
    }
    rows = [
        {"id": str(n), "fields": {"text": f"a {n}"}, "responses": {"mood": [{"value": "xy"[n % 2], "user_id": "u"}]}}
        for n in range(4)
    ]
    file = write(tmp_path / "a.json", [row | other for row in rows])
    assert splits_of(file, "--label-column", "mood").task.labels == ("x", "y")


def test_class_names_stay_text(tmp_path: Path) -> None:
    names = ["none", "NA", "nan", "true", "007", "null"]
    rows = numbered(*names, *names)
    for suffix in (".csv", ".tsv", ".jsonl", ".json", ".parquet"):
        assert splits_of(write(tmp_path / f"a{suffix}", rows)).task.labels == tuple(sorted(names))


def test_a_label_that_is_no_name(tmp_path: Path) -> None:
    for cell, reason in {"{}": "an object", "[]": "the label is missing|a list"}.items():
        file = write(tmp_path / "a.jsonl", [*numbered("a", "b"), {"text": SECRET, "label": json.loads(cell)}])
        with pytest.raises(ScriptError, match=f"a.jsonl row 3, column label: .*({reason})"):
            splits_of(file, "--problem", "single")
    file = write(tmp_path / "b.jsonl", [*numbered("a", "b"), {"text": 5, "label": "a"}])
    with pytest.raises(ScriptError, match=r"b\.jsonl row 3, column text: the text is not a string but a number"):
        splits_of(file)


def test_a_test_split_without_some_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dataset may withhold all labels of its test split; one that is missing is an error."""
    write(tmp_path / "train.csv", numbered("a", "b", "a", "b"))
    write(tmp_path / "test.csv", numbered("", ""))
    dataset = ["--dataset", str(tmp_path), "--output", str(tmp_path / "out"), "--validation-split", "0.5"]
    assert read(parse(dataset, "")).test is None
    assert "[test]: no row has a label, so nothing is reported for it" in capsys.readouterr().err
    write(tmp_path / "test.csv", numbered("a", ""))
    with pytest.raises(ScriptError, match=r"test\.csv row 3, column label: the label is missing"):
        read(parse(dataset, ""))
