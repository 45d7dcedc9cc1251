"""A model registry of MLflow as target and source."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from handler.config import ModelConfig
from scripts.archives.build import ArchiveContents, build
from scripts.archives.registered import fetch_archive
from scripts.archives.store import Store
from scripts.cli.console import ScriptError
from scripts.pretrained.mlflow_registry import fetch, push
from scripts.pretrained.options import ModelRequest
from scripts.pretrained.source import open_model
from scripts.publish import main as publish
from tests.support.command import run_here


def refusal(*words: str | Path) -> str:
    """Return the message with which scripts/publish.py refuses."""
    done = run_here(publish, *words)
    assert done.returncode == 2
    return done.stderr


def test_what_makes_no_sense_is_refused(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options of the other target, addresses that name no version, no server, and no client."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    assert "--revision is for the hub" in refusal(model_folder, "--to", "models:/mine", "--revision", "v1")
    assert "--create-pr is for the hub" in refusal(model_folder, "--to", "models:/mine", "--create-pr")
    assert "--alias is for a model registry" in refusal(model_folder, "--to", "org/mine", "--alias", "champion")
    assert "models:/mine: set MLFLOW_TRACKING_URI" in refusal(model_folder, "--to", "models:/mine")
    with pytest.raises(ScriptError, match="--to models:/mine/3: give models:/NAME, MLflow numbers the versions itself"):
        push({}, "models:/mine/3", "", None)
    for word in ("models:/mine", "models:/mine/latest", "models:/mine@", "models:/../1x"):
        with pytest.raises(ScriptError, match="give models:/NAME/VERSION or models:/NAME@ALIAS"):
            fetch(word, tmp_path)
    with (
        pytest.raises(ScriptError, match="models:/mine/1: --revision is for an id of the hub"),
        open_model(ModelRequest("models:/mine/1", "main")),
    ):
        pass
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tmp_path.as_uri())
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ScriptError, match=r"models:/mine/1 needs the client of MLflow: pip install mlflow-skinny"):
        fetch("models:/mine/1", tmp_path)


def test_folders_and_archives_come_back_as_they_were(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By MLflow's own client over its store of files: versions, an alias, the same bytes, refusals by name."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "registry").as_uri())
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    folder = Path(shutil.copytree(model_folder, tmp_path / "mine"))
    assert "pushed: models:/mine/1" in run_here(publish, folder, "--to", "models:/mine").stderr
    with open_model(ModelRequest("models:/mine/1")) as source:
        weights = "model.safetensors"
        assert (source.folder / weights).read_bytes() == (folder / weights).read_bytes()
        assert source.provenance.steps[0].startswith("fetched from models:/mine/1, run ")
        archive = build(
            ArchiveContents(source.folder, "mine", "1.0", ModelConfig(), provenance=source.provenance), tmp_path
        )
    done = run_here(publish, archive, "--to", "models:/mine", "--alias", "champion")
    assert "pushed: models:/mine/2" in done.stderr
    from mlflow import MlflowClient

    for version in "12":  # MLflow's page shows Markdown: metadata before it would be headings and lists
        assert MlflowClient().get_model_version("mine", version).description.startswith("# mine")
    (tmp_path / "store").mkdir()
    fetched = fetch_archive("models:/mine@champion", Store(tmp_path / "store"))
    assert fetched.file == tmp_path / "store" / "mine.mar"
    assert fetched.file.read_bytes() == archive.read_bytes()
    with (
        pytest.raises(ScriptError, match=r"it is an archive, mine\.mar: scripts/models\.py register models:/mine/2"),
        open_model(ModelRequest("models:/mine/2")),
    ):
        pass
    with pytest.raises(ScriptError, match="0 archives in it, one is registered"):
        fetch_archive("models:/mine/1", Store(tmp_path / "store"))
    for word in ("models:/mine@nobody", "models:/nobody/1"):
        with pytest.raises(ScriptError, match=f"{word}: MLflow refused: .* not found"):
            fetch(word, tmp_path)
