"""The provenance of an archive: what it says, and that only the key and the archive of its statement pass."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handler import archive
from scripts.archives.attestation import BUILDER, Packing, attest, attestation_file, check_attestation, now
from scripts.archives.signing import PUBLIC_KEY, sign
from scripts.archives.store import Archive, Store
from scripts.cli.console import ROOT, ScriptError
from tests.support.key_pairs import key_pair
from tests.support.live import activated


@pytest.fixture
def packed(tmp_path: Path, mar: Path) -> Path:
    """Return an archive in a store of its own."""
    (tmp_path / "store").mkdir()
    return Path(shutil.copy(mar, tmp_path / "store"))


def envelope(packed: Path) -> dict[str, Any]:
    """Return what was written."""
    content: dict[str, Any] = json.loads(attestation_file(Store(packed.parent), Archive.read(packed)).read_text())
    return content


def test_the_statement_is_that_of_slsa(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subject, what was asked for, every input by its hash, who packed with what, and when."""
    private, public = key_pair(tmp_path, "mine")
    (tmp_path / "examples.csv").write_text("text,label\n")
    monkeypatch.setenv(BUILDER, "https://ci.example.org/jobs/7")
    file = attest(packed, private, Packing(now(), {"calibration": tmp_path / "examples.csv"}))
    assert file.name == "tiny@1.0.intoto.jsonl"
    content = envelope(packed)
    assert content["payloadType"] == "application/vnd.in-toto+json"
    said = json.loads(base64.b64decode(content["payload"]))
    assert (said["_type"], said["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    assert said["subject"] == [{"name": "tiny.mar", "digest": {"sha256": archive.sha256(packed)}}]
    definition, run = said["predicate"]["buildDefinition"], said["predicate"]["runDetails"]
    assert {"name": "tiny", "version": "1.0", "task": "text-classification"}.items() <= (
        definition["externalParameters"].items()
    )
    inputs = {entry["name"]: entry["digest"] for entry in definition["resolvedDependencies"]}
    assert inputs["--calibration"] == {"sha256": archive.sha256(tmp_path / "examples.csv")}
    assert (
        inputs["model/model.safetensors"]["sha256"] == Archive.read(packed).manifest["files"]["model/model.safetensors"]
    )
    assert run["builder"]["id"] == "https://ci.example.org/jobs/7"
    assert run["metadata"]["startedOn"] <= run["metadata"]["finishedOn"]
    line = str(check_attestation(Store(packed.parent), Archive.read(packed), public))
    assert line.startswith(f"packed by https://ci.example.org/jobs/7 from {len(inputs)} inputs, finished 20")


def change_payload(content: dict[str, Any]) -> None:
    said = base64.b64decode(content["payload"]).replace(b"unnamed-builder", b"another-builder")
    content["payload"] = base64.b64encode(said).decode()


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "another statement": change_payload,
    "another type": lambda content: content.update(payloadType="text/plain"),
    "no signature": lambda content: content.update(signatures=[]),
    "no envelope": lambda content: content.clear(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_provenance_is_refused(
    packed: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    private, public = key_pair(tmp_path, "mine")
    file = attest(packed, private, Packing(now(), {}))
    content = envelope(packed)
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ScriptError, match=r"intoto\.jsonl has no valid signature of .*mine\.pub"):
        check_attestation(Store(packed.parent), Archive.read(packed), public)


def test_of_another_key_or_archive_it_proves_nothing(packed: Path, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "mine")
    with pytest.raises(ScriptError, match=r"tiny@1\.0\.intoto\.jsonl is missing"):
        check_attestation(Store(packed.parent), Archive.read(packed), public)
    attest(packed, private, Packing(now(), {}))
    with pytest.raises(ScriptError, match="has no valid signature"):
        check_attestation(Store(packed.parent), Archive.read(packed), key_pair(tmp_path, "other")[1])
    with packed.open("ab") as file:
        file.write(b"\0")  # a zip may end so
    with pytest.raises(ScriptError, match="is about another archive"):
        check_attestation(Store(packed.parent), Archive.read(packed), public)
    with pytest.raises(ScriptError, match="cannot sign"):
        attest(packed, public, Packing(now(), {}))


def test_the_command_verifies_both(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`models.py verify`, without a server; `--provenance` refuses an archive that has none."""
    private, public = key_pair(tmp_path, "mine")
    sign(packed, private)
    monkeypatch.setenv(PUBLIC_KEY, str(public))

    def verify(*options: str) -> subprocess.CompletedProcess[str]:
        command = [str(ROOT / "scripts" / "models.py"), "verify", "tiny.mar", "--model-store", str(packed.parent)]
        return subprocess.run([*command, *options], capture_output=True, text=True, check=False, env=activated())

    assert verify().returncode == 0
    assert "is missing" in verify("--provenance").stderr
    attest(packed, private, Packing(now(), {}))
    done = verify("--provenance")
    assert (done.returncode, "tiny.mar: packed by urn:bert-on-torchserve:unnamed-builder" in done.stderr) == (0, True)
