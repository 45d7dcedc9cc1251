"""Labels named at packing: served by these names, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import BertModel

from handler.loading import load_predictor
from scripts.cli.console import ScriptError
from scripts.pretrained.options import ModelRequest
from scripts.pretrained.source import open_model
from tests.support.samples import TEXTS, MakeModel

MADE_UP = ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.fixture(scope="module")
def unnamed(make_model: MakeModel) -> Path:
    """Return a classifier whose labels have the names that transformers makes up."""
    return make_model(labels=MADE_UP)


def refusal(folder: Path, labels: str) -> str:
    """Return the message with which names are refused."""
    with pytest.raises(ScriptError) as caught, open_model(ModelRequest(str(folder), labels=labels)):
        pass
    return str(caught.value)


@pytest.mark.parametrize("written", ["no, maybe ,yes", "FILE"])
def test_names_are_served(unnamed: Path, tmp_path: Path, written: str) -> None:
    """In the order of the head's outputs; the folder stays as it is, and the card says what was done."""
    if written == "FILE":
        written = str(tmp_path / "labels.txt")
        Path(written).write_text("\ufeffno\nmaybe\nyes\n", encoding="utf-8")
    before = load_predictor(unnamed).answer_items([TEXTS[0]])[0]
    with open_model(ModelRequest(str(unnamed), labels=written)) as source:
        answer = load_predictor(source.folder).answer_items([TEXTS[0]])[0]
        assert source.provenance.steps == ("labels named",)
    names = dict(zip(MADE_UP, ("no", "maybe", "yes"), strict=True))
    assert answer == [{**entry, "label": names[entry["label"]]} for entry in before]
    assert json.loads((unnamed / "config.json").read_text())["label2id"] == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


def test_names_that_are_there_are_renamed_aloud(make_model: MakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    with open_model(ModelRequest(str(make_model(labels=("a", "b"))), labels="no,yes")) as source:
        assert load_predictor(source.folder).task.labels == ["no", "yes"]
    assert "config.json names the labels a, b, --labels renames them" in capsys.readouterr().err


def test_what_is_refused(unnamed: Path, make_model: MakeModel, tmp_path: Path) -> None:
    assert refusal(unnamed, "no,yes") == "--labels names 2 labels, the model has 3"
    assert refusal(unnamed, "a,,b") == "--labels: label 1 has no name"
    assert refusal(unnamed, "a,b,a") == "--labels: a is there twice"
    assert refusal(unnamed, "") == "--labels: no name"
    many = ",".join(f"label {number}" for number in range(1000))  # longer than the name of a file can be
    assert refusal(unnamed, many) == "--labels names 1000 labels, the model has 3"
    (tmp_path / "labels.txt").write_bytes("größe\n".encode("latin-1"))
    assert "labels.txt: byte 2 is not UTF-8" in refusal(unnamed, str(tmp_path / "labels.txt"))
    assert "is for a model that classifies" in refusal(make_model(architecture=BertModel), "no,yes")
