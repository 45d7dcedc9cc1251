"""Folders that cannot be loaded: the reason is the real one, in one line."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from handler.errors import ModelMismatch
from handler.loading import load_predictor
from tests.support.samples import MakeModel


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
        ({"hidden_size": "many"}, "has hidden_size .many.: accepted: a whole number"),
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


def test_a_pointer_of_git_lfs_and_an_adapter_are_named(model_folder: Path, tmp_path: Path) -> None:
    """Neither is a model."""
    folder = changed(model_folder, tmp_path / "changed")
    (folder / "config.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(ModelMismatch, match=r"config\.json is a pointer of Git LFS: run `git lfs pull`"):
        load_predictor(folder)
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelMismatch, match="but an adapter: merge it into its base model first"):
        load_predictor(folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(model_folder: Path, tmp_path: Path, number: float) -> None:
    """A training that diverged, and not the padding beside a text."""
    folder = changed(model_folder, tmp_path / "changed")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][1] = number
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelMismatch, match=r"hold NaN or infinity in classifier\.bias: the training diverged"):
        load_predictor(folder)


def test_every_weight_that_is_not_finite_counts(model_folder: Path, tmp_path: Path) -> None:
    """Three are named, the others counted."""
    folder = changed(model_folder, tmp_path / "changed")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: torch.full_like(weight, torch.nan) for name, weight in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(ModelMismatch, match=rf"NaN or infinity in (\S+, ){{2}}\S+ and {len(weights) - 3} more"):
        load_predictor(folder)


def test_several_models_at_once(make_model: MakeModel) -> None:
    """In threads, as the standalone server loads them: each has its tied weights, and so has the next one alone."""
    folder = make_model(architecture=transformers.BertForMaskedLM)
    with ThreadPoolExecutor(4) as pool:
        predictors = list(pool.map(load_predictor, [folder] * 12))
    for predictor in (*predictors, load_predictor(folder)):
        model = predictor.engine.model
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
