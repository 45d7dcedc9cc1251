"""A registry of OCI artifacts as target and source."""

from __future__ import annotations

import base64
import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest

from scripts.archives.registered import fetch_archive
from scripts.archives.signing import PUBLIC_KEY, check_admitted
from scripts.archives.store import Store
from scripts.cli.console import ScriptError
from scripts.client.server import Server
from scripts.pretrained.oci_registry import MANIFEST, TITLE, fetch, push
from scripts.pretrained.options import ModelRequest
from scripts.pretrained.source import open_model
from scripts.publish import main as publish
from tests.support.command import run_here
from tests.support.fake_registry import PASSWORD, USER, FakeRegistry, digest_of, fake_registry
from tests.support.key_pairs import key_pair


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Take the credentials of a folder that is empty."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    return tmp_path / "home"


def write_credentials(folder: Path, host: str, password: str = PASSWORD) -> None:
    """Write what `docker login` writes."""
    folder.mkdir(parents=True, exist_ok=True)
    key = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": key}}}))


def put_manifest(registry: FakeRegistry, name: str, layers: list[dict[str, object]] | None) -> str:
    """Put a manifest as another client might write it; return its address."""
    registry.manifests[name] = json.dumps({"schemaVersion": 2, "layers": layers} if layers is not None else {}).encode()
    return f"oci://{registry.host}/{name}"


@pytest.mark.parametrize("sign_in", ["", "basic", "token"])
def test_folders_and_archives_come_back_as_they_were(
    sign_in: str, model_folder: Path, mar: Path, tmp_path: Path, home: Path
) -> None:
    """By tag and digest, with files in subfolders, signed in by either way; nothing is sent twice."""
    folder = Path(shutil.copytree(model_folder, tmp_path / "mine"))
    with fake_registry(sign_in) as registry:
        write_credentials(home / ".docker", registry.host)
        weights = f"oci://{registry.host}/team/mine-weights:2"
        done = run_here(publish, folder, "--to", weights)
        (pushed,) = re.findall(r"pushed: (\S+)", done.stderr)
        assert re.fullmatch(rf"{re.escape(weights)}@sha256:[0-9a-f]{{64}}", pushed)
        registry.requests.clear()
        assert pushed in run_here(publish, folder, "--to", weights).stderr
        assert [method for method, path in registry.requests if method == "POST"] == []
        with open_model(ModelRequest(weights)) as source:
            assert source.provenance.steps == (f"fetched from {pushed}",)
            for name in ("model.safetensors", "tokenizer.json", "config.json"):
                assert (source.folder / name).read_bytes() == (folder / name).read_bytes()
        run_here(publish, mar, "--to", f"oci://{registry.host}/mine:1.0")
        (tmp_path / "store").mkdir()
        fetched = fetch_archive(f"oci://{registry.host}/mine:1.0", Store(tmp_path / "store"))
        assert fetched.file == tmp_path / "store" / "tiny.mar"
        assert fetched.file.read_bytes() == mar.read_bytes()
        with pytest.raises(ScriptError, match="0 archives in it, one is registered"):
            fetch_archive(pushed.replace(":2@", "@"), Store(tmp_path / "store"))
        with (
            pytest.raises(ScriptError, match=r"it is an archive, tiny\.mar: scripts/models\.py register oci://"),
            open_model(ModelRequest(f"oci://{registry.host}/mine:1.0")),
        ):
            pass


def test_what_a_signing_server_refuses_replaces_nothing(
    mar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the store: the next start would refuse it, after the one that was there is no longer NAME.mar."""
    store = Store(tmp_path / "store")
    store.folder.mkdir()
    store.current("tiny").write_bytes(b"what serves")
    with fake_registry("") as registry:
        run_here(publish, mar, "--to", f"oci://{registry.host}/mine:1.0")
        monkeypatch.setenv(PUBLIC_KEY, str(key_pair(tmp_path, "mine")[1]))
        check = partial(check_admitted, Server.at("http://127.0.0.1:1", None, {}), store)
        with pytest.raises(ScriptError, match="is not signed"):
            fetch_archive(f"oci://{registry.host}/mine:1.0", store, check)
    assert store.current("tiny").read_bytes() == b"what serves"


def test_the_manifest_is_one_of_oras(tmp_path: Path) -> None:
    """Titles are paths, so that two config.json stay two; the artifact has a type and an empty config."""
    with fake_registry() as registry:
        uri = push({"config.json": b"{1}", "1_Pooling/config.json": b"{2}"}, f"oci://{registry.host}/mine:1")
        manifest = json.loads(registry.manifests["mine:1"])
        assert manifest["mediaType"] == MANIFEST
        assert manifest["artifactType"] == "application/vnd.bert-on-torchserve.model.v1"
        assert manifest["config"] == {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": digest_of(b"{}"),
            "size": 2,
        }
        assert [layer["annotations"][TITLE] for layer in manifest["layers"]] == ["1_Pooling/config.json", "config.json"]
        assert {layer["mediaType"] for layer in manifest["layers"]} == {"application/json"}
        fetch(uri, tmp_path)
        assert (tmp_path / "config.json").read_bytes() == b"{1}"
        assert (tmp_path / "1_Pooling" / "config.json").read_bytes() == b"{2}"


def test_what_is_not_what_was_pushed_is_refused(tmp_path: Path) -> None:
    """A blob, a manifest by tag and by digest, of which another byte arrives; oras would write all three."""
    with fake_registry() as registry:
        uri = push({"vocab.txt": b"content"}, f"oci://{registry.host}/mine:1")
        registry.wrong = {digest_of(b"content")}
        with pytest.raises(ScriptError, match=r"vocab\.txt is not what was pushed \(sha256:"):
            fetch(uri, tmp_path)
        registry.wrong = {uri.rpartition("@")[2]}
        for address in (uri, uri.partition("@")[0]):
            with pytest.raises(ScriptError, match="its manifest is not what was pushed"):
                fetch(address, tmp_path)


def test_layers_of_others_are_read_or_refused_by_name(tmp_path: Path) -> None:
    """Names that leave the folder, images, folders that oras packed, an index, digests and sizes that are none."""
    with fake_registry() as registry:
        registry.blobs[digest := digest_of(b"mine")] = b"mine"
        layer = {"digest": digest, "size": 4, "annotations": {TITLE: "mine.txt"}}
        fetch(put_manifest(registry, "mine:1", [{**layer, "mediaType": "application/vnd.any"}]), tmp_path)
        assert (tmp_path / "mine.txt").read_bytes() == b"mine"
        for name in ("../evil", "/etc/evil", "a/../../evil"):
            uri = put_manifest(registry, "mine:2", [{**layer, "annotations": {TITLE: name}}])
            with pytest.raises(ScriptError, match=f"the name {re.escape(name)} of a file leaves the folder"):
                fetch(uri, tmp_path)
        for layers, message in (
            ([layer, layer], "stands there twice"),
            ([{"digest": digest, "size": 4}], "an image or a packed folder"),
            ([{**layer, "annotations": {TITLE: "a", "io.deis.oras.content.unpack": "true"}}], "a packed folder"),
            (None, "an index of images, or no manifest at all"),
            ([{**layer, "digest": "sha512:1"}], "has the digest sha512:1, which is no SHA-256"),
            ([{**layer, "size": 3}], r"mine\.txt is not what was pushed"),
            ([{**layer, "size": 5}], r"mine\.txt is not what was pushed"),
        ):
            with pytest.raises(ScriptError, match=message):
                fetch(put_manifest(registry, "mine:3", layers), tmp_path)


def test_refusals_of_a_registry_are_one_line(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such artifact, a used-up quota, no or wrong credentials, no registry; DOCKER_CONFIG counts before the home."""
    with fake_registry() as registry:
        with pytest.raises(ScriptError, match=r"oci://.*/mine: 127\.0\.0\.1:\d+ refused \(404\): manifest unknown"):
            fetch(f"oci://{registry.host}/mine:9", tmp_path)
        registry.status = 403
        with pytest.raises(ScriptError, match=r"refused \(403\): the quota is used up: docker login "):
            push({"a": b"a"}, f"oci://{registry.host}/mine:1")
    for sign_in in ("basic", "token"):
        with fake_registry(sign_in) as registry:
            shutil.rmtree(home, ignore_errors=True)
            uri = f"oci://{registry.host}/mine:1"
            with pytest.raises(ScriptError, match=f"docker login {registry.host}"):
                push({"a": b"a"}, uri)
            write_credentials(home / ".docker", registry.host, "wrong")
            with pytest.raises(ScriptError, match=f"docker login {registry.host}"):
                push({"a": b"a"}, uri)
            write_credentials(tmp_path / "other", registry.host)
            monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "other"))
            push({"a": b"a"}, uri)
            monkeypatch.delenv("DOCKER_CONFIG")
    with pytest.raises(ScriptError, match="the transfer failed: "):
        fetch(uri, tmp_path)


def test_what_makes_no_sense_is_refused(model_folder: Path, tmp_path: Path) -> None:
    """Options of other targets, addresses without a tag or a repository."""

    def refused(*words: str | Path) -> str:
        done = run_here(publish, model_folder, *words)
        assert done.returncode == 2
        return done.stderr

    uri = "oci://127.0.0.1:1/mine:1"
    assert f"--public is for the hub, and {uri} is an OCI registry" in refused("--to", uri, "--public")
    assert "--alias is for a model registry of MLflow" in refused("--to", uri, "--alias", "champion")
    assert "give a tag, oci://HOST/REPOSITORY:TAG" in refused("--to", "oci://127.0.0.1:1/mine")
    for word in ("oci://mine", "oci://host/Mine:1", "oci://host/mine:", "oci://host/mine@sha256:12"):
        with pytest.raises(ScriptError, match="give oci://HOST/REPOSITORY:TAG, the repository in lower case"):
            fetch(word, tmp_path)
    with pytest.raises(ScriptError, match="give oci://HOST/REPOSITORY:TAG or oci://HOST/REPOSITORY@sha256:DIGEST"):
        fetch("oci://host/mine", tmp_path)
    with (
        pytest.raises(ScriptError, match=f"{uri}: --revision is for an id of the hub: the address says the version"),
        open_model(ModelRequest(uri, "main")),
    ):
        pass


def test_oras_pulls_what_is_pushed(tmp_path: Path) -> None:
    """With a client that is not ours, in folders."""
    from oras.client import OrasClient  # type: ignore[import-untyped]

    with fake_registry() as registry:
        push({"config.json": b"{1}", "1_Pooling/config.json": b"{2}"}, f"oci://{registry.host}/team/mine:1")
        client = OrasClient(registry.host, insecure=True)
        client.pull(f"{registry.host}/team/mine:1", outdir=str(tmp_path / "pulled"))
    assert (tmp_path / "pulled" / "config.json").read_bytes() == b"{1}"
    assert (tmp_path / "pulled" / "1_Pooling" / "config.json").read_bytes() == b"{2}"
