"""Models of the hub: fetched through the real client from a local server, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import ModelCard, constants
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from transformers import BertModel

from handler.archive import sha256
from handler.config import ModelConfig, ServingConfig
from handler.errors import ModelMismatch
from handler.loading import load_predictor
from scripts import train
from scripts.archives.build import ArchiveContents, build
from scripts.cli.console import ScriptError
from scripts.examination.folder import examine_model
from scripts.pretrained.options import ModelRequest
from scripts.pretrained.source import ModelSource, open_model
from tests.support.fake_hub import COMMIT, FakeHub, fake_hub
from tests.support.samples import ROOT, MakeModel

NAME = "org/tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Return a hub that this process asks, with an empty cache."""
    with fake_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants._HF_DEFAULT_ENDPOINT, server.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


@pytest.fixture
def repository(hub: FakeHub, model_folder: Path, tmp_path: Path) -> Path:
    """Return the folder of a repository with a model, and with what is not fetched."""
    folder = tmp_path / "repository"
    shutil.copytree(model_folder, folder)
    for path in ("onnx/model.onnx", "model.fp16.safetensors", "pytorch_model.bin", "train.py", "onnx/config.json"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(b"not fetched")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# Tiny\n")
    hub.repositories[NAME] = folder
    return folder


def files_of(source: ModelSource) -> dict[str, str]:
    """Return the files of a folder by hash."""
    folder = source.folder
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def fetched(name: str = NAME, **options: Any) -> tuple[ModelSource, dict[str, str]]:
    """Open a model; return the source and the hashes of the files it had."""
    with open_model(ModelRequest(name, **options)) as source:
        return source, files_of(source)


def refusal(name: str = NAME, **options: Any) -> str:
    """Return the message with which a model is refused: one line."""
    with pytest.raises(ScriptError) as caught, open_model(ModelRequest(name, **options)):
        pass
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_settings_tokenizer_and_weights_are_fetched_and_nothing_else(hub: FakeHub, repository: Path) -> None:
    """Weights come from another host, which gets no key; hashes, commit and license are kept."""
    source, files = fetched()
    expected = {path.name for path in repository.iterdir() if path.is_file()}
    expected -= {"train.py", "pytorch_model.bin", "model.fp16.safetensors"}
    assert files == {name: sha256(repository / name) for name in expected}
    (origin,) = source.provenance.origins
    assert (origin.role, origin.name, origin.commit, origin.license) == ("model", NAME, COMMIT, "apache-2.0")
    assert origin.files == files
    assert any(path.endswith("/-/model.safetensors") for _, path in hub.requests)
    assert not any("onnx" in path or path.endswith((".py", ".bin")) for _, path in hub.requests)


def test_a_key_stays_with_the_hub(hub: FakeHub, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gated model is fetched with a key, which the CDN does not get."""
    hub.gated.add(NAME)
    assert "accept them on its page, and set HF_TOKEN" in refusal()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    _, files = fetched()
    assert files["model.safetensors"] == sha256(repository / "model.safetensors")
    assert ("hub", "Bearer hf_secret") in hub.keys
    assert ("cdn", None) in hub.keys
    assert ("cdn", "Bearer hf_secret") not in hub.keys


@pytest.mark.parametrize("revision", [None, "main", "v1", "refs/pr/1", COMMIT])
@pytest.mark.usefixtures("repository")
def test_a_revision_is_a_branch_a_tag_or_a_commit(revision: str | None) -> None:
    """The commit is kept, whatever named it."""
    source, _ = fetched(revision=revision)
    assert source.commit == COMMIT
    assert source.provenance.origins[0].revision == revision


def test_refusals_name_the_cause(hub: FakeHub, repository: Path) -> None:
    """A line each: no model, no access, no revision, nothing that is read here."""
    assert refusal(revision="v9") == f"{NAME}: the hub has no revision v9: name a branch, a tag or a commit"
    message = refusal("org/other")
    assert message.startswith(
        "model org/other: no such folder here, and as an id of the hub: the hub has no such model"
    )
    assert "HF_TOKEN" in refusal("private/model")
    (repository / "model.safetensors").unlink()
    assert "--convert-pickle" in refusal()
    (repository / "pytorch_model.bin").unlink()
    (repository / "tf_model.h5").write_bytes(b"")
    hub.repositories["org/fresh"] = repository
    reason = "it has model.fp16.safetensors, onnx/model.onnx, tf_model.h5: rename the variant to model.safetensors"
    assert reason in refusal("org/fresh")
    hub.status = 503
    assert "and the cache holds no whole copy of it" in refusal("org/third")


def test_a_word_that_is_no_id(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of the hub for a path, an address, a file, or a missing folder beside others."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "base").mkdir(parents=True)
    (tmp_path / "file.zip").touch()
    assert "no such folder in models; if the hub's model of this id is meant, add --revision main" in refusal(
        "models/x"
    )
    assert refusal("/nowhere/x") == "model /nowhere/x: no such folder, and no id of the hub either (ORG/NAME)"
    assert "no id of the hub either" in refusal("a/b/c")
    assert "is a file: give the folder" in refusal("file.zip")
    assert refusal("https://huggingface.co/org/tiny/tree/main").endswith("give the id alone, org/tiny")
    assert "--revision is for an id of the hub" in refusal("models/base", revision="main")
    assert hub.requests == []


def test_a_folder_wins_over_an_id(
    hub: FakeHub, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local folder org/tiny is read, and the hub is not asked."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(repository, tmp_path / NAME)
    source, _ = fetched()
    assert source.folder == Path(NAME)
    assert not source.provenance.origins
    assert hub.requests == []


def test_a_transfer_that_breaks_goes_on_where_it_broke(hub: FakeHub, repository: Path) -> None:
    """The client asks for the rest, and the file is whole."""
    hub.cut["model.safetensors"] = 1
    _, files = fetched()
    assert files["model.safetensors"] == sha256(repository / "model.safetensors")
    assert sum(path.endswith("/-/model.safetensors") for verb, path in hub.requests if verb == "GET") == 2


def test_a_transfer_that_fails_leaves_nothing_to_use(hub: FakeHub, repository: Path) -> None:
    """One line; the same command later fetches the whole model."""
    hub.wrong.add("model.safetensors")
    message = refusal()
    assert "model.safetensors in the cache is not the file that the hub has: delete" in message
    Path(message.partition("delete ")[2].partition(" and rerun")[0]).unlink()
    hub.wrong.clear()
    _, files = fetched()
    assert files["model.safetensors"] == sha256(repository / "model.safetensors")


@pytest.mark.usefixtures("repository")
def test_a_small_file_is_compared_too() -> None:
    """A byte of config.json that changed on this disk is noticed: git has its hash."""
    fetched()
    (blob,) = {path.resolve() for path in Path(constants.HF_HUB_CACHE).rglob("config.json")}
    blob.write_bytes(blob.read_bytes().replace(b"anger", b"Anger"))
    assert "config.json in the cache is not the file that the hub has" in refusal()


@pytest.mark.usefixtures("repository")
def test_offline_the_cache_is_enough(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same files by branch and by commit, without a request; a part of a model is refused."""
    _, online = fetched()
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for revision in (None, COMMIT):
        source, files = fetched(revision=revision)
        assert (files, source.commit) == (online, COMMIT)
    assert hub.requests == []
    assert refusal("org/never").endswith(
        "the hub is switched off (HF_HUB_OFFLINE), and the cache holds no whole copy of it"
    )
    (link,) = Path(constants.HF_HUB_CACHE).rglob("model.safetensors")
    link.unlink()
    assert refusal().endswith("the hub is switched off (HF_HUB_OFFLINE), and the cache holds no whole copy of it")


@pytest.mark.usefixtures("repository")
def test_a_hub_that_is_down_leaves_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was fetched before is used, and the person is told."""
    _, online = fetched()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetched()[1] == online


def test_shards_are_those_of_the_index(hub: FakeHub, repository: Path) -> None:
    """A model in several files is fetched by its index."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(repository)
    (repository / "model.safetensors").unlink()
    model.save_pretrained(repository, max_shard_size="500KB")
    shards = {path.name for path in repository.glob("model-*.safetensors")}
    assert len(shards) > 1
    _, files = fetched()
    assert {name for name in files if name.endswith(".safetensors")} == shards
    (repository / sorted(shards)[0]).unlink()
    hub.repositories["org/torn"] = repository
    assert "names model-00001-of" in refusal("org/torn")


def test_package_reads_a_model_of_the_hub(hub: FakeHub, repository: Path, tmp_path: Path) -> None:
    """HF_ENDPOINT and `--model ORG/NAME --revision R`; archive and card say what it was made from."""
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
    words = ["scripts/package.py", "--model", NAME, "--revision", "v1", "--name", "tiny", "--model-store", tmp_path]
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "tiny.mar") as packed:
        provenance = json.loads(packed.read("provenance.json"))
        card = packed.read("model-card.md").decode()
        assert "provenance.json" in json.loads(packed.read("manifest.json"))["files"]
    (origin,) = provenance["origins"]
    assert (origin["name"], origin["revision"], origin["commit"]) == (NAME, "v1", COMMIT)
    assert origin["files"]["model.safetensors"] == sha256(repository / "model.safetensors")
    metadata = ModelCard(card).data.to_dict()  # type: ignore[no-untyped-call]
    assert (metadata["base_model"], metadata["license"]) == ([NAME], "apache-2.0")
    assert f"- model: {NAME}, commit {COMMIT} (revision v1), license apache-2.0" in card


def test_a_refusal_names_the_model_and_no_temporary_folder(repository: Path, tmp_path: Path) -> None:
    """What the packer and examine.py say of a model of the hub."""
    (repository / "config.json").write_text("{}")
    message = f"{NAME}/config.json has no model_type"
    with pytest.raises(ModelMismatch, match=message), open_model(ModelRequest(NAME)) as source:
        build(ArchiveContents(source.folder, "tiny", "1.0", ModelConfig()), tmp_path)
    (finding,) = examine_model(ModelRequest(NAME), ModelConfig()).findings
    assert finding.message.startswith(message)


@pytest.mark.usefixtures("repository")
def test_train_reads_a_model_of_the_hub(tmp_path: Path) -> None:
    """The same options; training.json says what it began with."""
    rows = "".join(f"{text},{label}\n" for text, label in (("good", "yes"), ("bad", "no")) for _ in range(8))
    (tmp_path / "train.csv").write_text("text,label\n" + rows)
    options = ["--train", str(tmp_path / "train.csv"), "--output", str(tmp_path / "out"), "--epochs", "1"]
    train.main(["--model", NAME, "--revision", "v1", *options])
    base_model = json.loads((tmp_path / "out" / "training.json").read_text())["base_model"]
    assert (base_model["name"], base_model["revision"], base_model["commit"]) == (NAME, "v1", COMMIT)


def test_the_client_is_the_one_that_was_tried() -> None:
    """The tree cache, on which offline use depends, came with version 2."""
    assert int(huggingface_hub.__version__.split(".")[0]) >= 2


def test_files_of_xet_storage(hub: FakeHub, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the client of that storage they come over the redirect; with it a refusal says how to go without."""
    hub.xet.add("model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    message = refusal()
    assert "the transfer from the hub failed" in message
    assert "HF_HUB_DISABLE_XET=1" in message
    assert any("/xet-read-token/" in path for _, path in hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    _, files = fetched()
    assert files["model.safetensors"] == sha256(repository / "model.safetensors")
    assert any(path.endswith("/-/model.safetensors") for _, path in hub.requests)


def test_a_transformer_in_a_folder_of_its_own(hub: FakeHub, make_model: MakeModel, tmp_path: Path) -> None:
    """Its files are fetched, and those of the modules; none of a folder that modules.json does not name."""
    folder, encoder_folder = tmp_path / "sentences", make_model(architecture=BertModel)
    shutil.copytree(encoder_folder, folder / "0_Transformer")
    pooled = [modules.Transformer(str(encoder_folder)), modules.Pooling(32, "cls")]
    SentenceTransformer(modules=pooled, device="cpu").save(str(tmp_path / "saved"), create_model_card=False)
    shutil.copytree(tmp_path / "saved" / "1_Pooling", folder / "1_Pooling")
    listed = json.loads((tmp_path / "saved" / "modules.json").read_text())
    listed[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    hub.repositories["org/sentences"] = folder
    with open_model(ModelRequest("org/sentences")) as source:
        origin, step = source.provenance.origins[0].files, "the transformer of 0_Transformer in the folder itself"
        assert source.provenance.steps == (step,)
        ours = load_predictor(source.folder, ServingConfig(task="feature-extraction")).answer_items(["my parcel"])
    assert not any(path.startswith("onnx") for path in origin)
    expected = SentenceTransformer(str(folder), device="cpu").encode(["my parcel"])
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    (folder / "0_Transformer" / "model.safetensors").rename(folder / "0_Transformer" / "pytorch_model.bin")
    hub.repositories["org/pickled"] = folder
    assert "its weights are pickled" in refusal("org/pickled")
