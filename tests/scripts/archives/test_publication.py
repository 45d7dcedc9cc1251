"""Pushing to the hub by the real client, to a local server: what arrives, what stays, and that it comes back equal."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from transformers import BertForMaskedLM

from handler.archive import sha256
from handler.config import ModelConfig
from scripts import publish
from scripts.archives.build import ArchiveContents, build
from scripts.cli.console import ROOT, ScriptError
from scripts.pretrained.options import ModelRequest
from scripts.pretrained.source import open_model
from tests.support.fake_hub import FakeHub, fake_hub
from tests.support.samples import MakeModel

# of the hub's client, which sends large files with httpx2
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "org/mine"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Return a hub that this process asks, with large files by LFS."""
    with fake_hub() as server:
        server.storage = tmp_path / "hub"
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants._HF_DEFAULT_ENDPOINT, server.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "key")
        yield server


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """Return a trained model's folder, with a state of the optimizer and data beside it."""
    target = tmp_path / "mine"
    shutil.copytree(model_folder, target)
    part = {"name": "t.csv", "rows": 9, "sha256": "0" * 64}
    record = {"labels": ["joy"], "data": {"test": part}, "test": {"accuracy": 0.9}, "base_model": {"name": "org/base"}}
    (target / "training.json").write_text(json.dumps(record))
    (target / "training.png").write_bytes(b"curves")
    for path in ("checkpoints/checkpoint-9/optimizer.pt", "train.csv", ".env", "pytorch_model.bin"):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_bytes(b"stays here")
    return target


def pushed(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    """Run the command."""
    monkeypatch.setattr(sys, "argv", ["publish.py", *map(str, words), "--to", NAME])
    publish.main()


def test_a_folder_comes_back_equal(hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed(monkeypatch, folder)
    arrived = hub.files(NAME)
    assert not [path for path, content in arrived.items() if content == b"stays here"]
    assert {"model.safetensors", "training.json", "training.png", "README.md"} <= arrived.keys()
    assert (hub.private[NAME], hub.commits) == (True, [(NAME, "main", "")])
    metadata = yaml.safe_load(arrived["README.md"].decode().split("---")[1])
    assert (metadata["base_model"], metadata["library_name"]) == ("org/base", "transformers")
    (result,) = metadata["model-index"][0]["results"]
    assert (result["metrics"], result["dataset"]["split"]) == ([{"type": "accuracy", "value": 0.9}], "test")
    with open_model(ModelRequest(NAME)) as source:
        files = [path for path in source.folder.iterdir() if path.name != "README.md"]
        assert {path.name: sha256(path) for path in files} == {path.name: sha256(folder / path.name) for path in files}
        assert {"config.json", "model.safetensors", "tokenizer.json", "training.json"} <= {path.name for path in files}


def test_the_transformer_of_a_router_is_pushed_where_it_is(
    hub: FakeHub, make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As sentence-transformers saved it, with the tokenizer beside its weights; it comes back as it is packed."""
    documents = Transformer(str(make_model(architecture=BertForMaskedLM)), transformer_task="fill-mask")
    table = SparseStaticEmbedding(documents.tokenizer, frozen=True)
    routes = {"query": [table], "document": [documents, SpladePooling()]}
    encoder = SparseEncoder(modules=[Router(routes, default_route="document")])
    encoder.save(str(tmp_path / "saved"), create_model_card=False)
    saved = {str(path.relative_to(tmp_path / "saved")) for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    assert "document_0_Transformer/model.safetensors" in saved
    pushed(monkeypatch, tmp_path / "saved")
    arrived = hub.files(NAME)
    assert arrived.keys() - {".gitattributes", "README.md"} == saved
    metadata = yaml.safe_load(arrived["README.md"].decode().split("---")[1])
    assert (metadata["library_name"], metadata["pipeline_tag"]) == ("sentence-transformers", "feature-extraction")
    with open_model(ModelRequest(NAME)) as source:
        weights = sha256(source.folder / "model.safetensors")
    assert weights == sha256(tmp_path / "saved" / "document_0_Transformer" / "model.safetensors")
    (tmp_path / "saved" / "document_0_Transformer" / "model.safetensors").unlink()
    with pytest.raises(ScriptError, match="no weights in it"):
        pushed(monkeypatch, tmp_path / "saved", "--dry-run")


def test_branches_pull_requests_and_the_own_card(hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# By hand\n")
    pushed(monkeypatch, folder, "--public", "--revision", "v1")
    pushed(monkeypatch, folder, "--create-pr")
    assert (hub.private[NAME], hub.commits) == (False, [(NAME, "v1", ""), (NAME, "main", "create_pr=1")])
    assert ("POST", f"/api/models/{NAME}/branch/v1") in hub.requests
    card = hub.files(NAME)["README.md"].decode()
    assert card.endswith("# By hand\n")
    metadata = yaml.safe_load(card.split("---")[1])
    assert (metadata["license"], metadata["library_name"]) == ("mit", "transformers")


def test_an_archive_with_its_card(hub: FakeHub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = build(ArchiveContents(folder, "mine", "1.0", ModelConfig.read(ROOT / "model-config.yaml")), tmp_path)
    pushed(monkeypatch, archive)
    arrived = hub.files(NAME)
    assert set(arrived) == {"mine.mar", "mine.openapi.json", "README.md"}
    assert arrived["mine.mar"] == archive.read_bytes()
    assert "# mine 1.0" in arrived["README.md"].decode()


def test_what_is_refused(
    hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed(monkeypatch, folder, "--dry-run")
    assert "checkpoints/checkpoint-9/optimizer.pt" in capsys.readouterr().err
    assert not hub.requests
    hub.status = 403
    with pytest.raises(ScriptError, match=r"org/mine: the hub refused \(403\): set HF_TOKEN"):
        pushed(monkeypatch, folder)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ScriptError, match="which nobody else has: give its id on the hub with --base-model"):
        pushed(monkeypatch, folder, "--dry-run")
    (folder / "adapter_model.safetensors").unlink()
    key = "hf_" + "A" * 34
    (folder / "vocab.txt").write_text(f"word\n{key}\n")
    with pytest.raises(ScriptError, match=r"vocab\.txt holds what looks like a secret key") as refused:
        pushed(monkeypatch, folder, "--dry-run")
    assert key not in str(refused.value)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ScriptError, match=r"pytorch_model\.bin is a pickle"):
        pushed(monkeypatch, folder, "--dry-run")


@pytest.mark.parametrize(
    "target", ["", "banana", "not/an/id", "ö/ü", "models:mine", "models:/mine/3", "oci://host", "oci://host/team/mine"]
)
def test_a_target_is_checked_before_anything_is_read(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run, too, says what cannot be pushed to."""
    monkeypatch.setattr(sys, "argv", ["publish.py", "nowhere", "--to", target, "--dry-run"])
    with pytest.raises(ScriptError, match=f"{re.escape(target)}: give "):
        publish.main()
