"""Folders that cannot be loaded: the reason is the real one, in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from handler.errors import ModelMismatch
from handler.loading import load_predictor


def changed(folder: Path, target: Path, **settings: Any) -> Path:
    """Copy a model folder with other settings in its config.json; None removes one."""
    shutil.copytree(folder, target)
    file = target / "config.json"
    config = json.loads(file.read_text()) | settings
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return target


def test_weights_of_another_shape(model_folder: Path, tmp_path: Path) -> None:
    """The tensor and both shapes are named, where transformers refers to a report on standard error."""
    labels = {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
    folder = changed(model_folder, tmp_path / "labels", **labels)
    with pytest.raises(ModelMismatch, match=r"classifier\.bias has the shape \(4,\) in the weights, but \(2,\)"):
        load_predictor(folder)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model_type": None}, 'has no model_type: write the type of its architecture, e.g. "model_type": "bert"'),
        ({"model_type": "bret"}, "has the model_type 'bret', which this version of transformers does not know"),
        ({"hidden_size": "many"}, "cannot be used: .*'hidden_size' expected int, got str"),
    ],
)
def test_a_config_that_cannot_be_used(
    model_folder: Path, tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    """Each has its own reason: a missing file is not the only one."""
    with pytest.raises(ModelMismatch, match=reason):
        load_predictor(changed(model_folder, tmp_path / "changed", **settings))


def test_a_config_that_is_not_json_or_not_there(model_folder: Path, tmp_path: Path) -> None:
    """Told apart."""
    folder = changed(model_folder, tmp_path / "changed")
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelMismatch, match=r"config\.json is not JSON"):
        load_predictor(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelMismatch, match=r"no config\.json in"):
        load_predictor(folder)
