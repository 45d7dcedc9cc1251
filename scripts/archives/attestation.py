"""Provenance of an archive: a signed statement of what it was packed from, with what, and when.

It is an in-toto statement (v1) with the predicate of SLSA's provenance (v1) in a DSSE envelope, signed with the key of
the archive's signature by `securesystemslib`: NAME@VERSION.intoto.jsonl in the model store. It is worth what the
machine is worth on which the key lies (SLSA build level 1); ARCHIVE_BUILDER names it.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler import archive
from handler.protocol import JSON
from scripts.archives.store import Archive, Store
from scripts.cli.console import ROOT, ScriptError

STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
PAYLOAD = "application/vnd.in-toto+json"
BUILD_TYPE = "urn:bert-on-torchserve:package:v1"
BUILDER = "ARCHIVE_BUILDER"  # of the environment: the address of what packs, e.g. of a job of CI
UNNAMED = "urn:bert-on-torchserve:unnamed-builder"
LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "torch-model-archiver")
INSTALL = "pip install -r requirements/sign.txt -c requirements/constraints.txt"
MAX_BYTES = 16 << 20
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class Packing:
    """What the archive alone does not say."""

    began: datetime.datetime
    inputs: Mapping[str, Path]  # files that were read beside the model, by the name of their option


@dataclass(frozen=True)
class Attestation:
    """What the provenance of an archive says."""

    builder: str
    n_inputs: int
    finished: datetime.datetime

    def __str__(self) -> str:
        """Return it in one line."""
        finished = self.finished.strftime(TIME_FORMAT)
        return f"packed by {self.builder} from {self.n_inputs} inputs, finished {finished}"


def attestation_file(store: Store, read: Archive) -> Path:
    """Return where the provenance of an archive lies."""
    return store.folder / f"{read.name}@{read.version}.intoto.jsonl"


def attest(mar: Path, private_key: Path, packing: Packing) -> Path:
    """Write the provenance of an archive that was just packed, signed with an elliptic key in PEM; return its file.

    Raises:
        ScriptError: no such key, or `securesystemslib` is not installed.
    """
    dsse, signer, serialization = _libraries()
    read = Archive.read(mar)
    try:
        key = serialization.load_pem_private_key(private_key.read_bytes(), None)
        envelope = dsse.Envelope(json.dumps(statement(read, packing)).encode(), PAYLOAD, {})
        envelope.sign(signer.CryptoSigner(key))
    except (OSError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no elliptic private key in PEM without a password"
        raise ScriptError(f"{private_key} cannot sign: {reason}") from error
    file = attestation_file(Store(mar.parent), read)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(envelope.to_dict()) + "\n", encoding="utf-8")
    return partial.replace(file)


def statement(read: Archive, packing: Packing) -> dict[str, JSON]:
    """Return the statement about an archive."""
    origins = read.json(archive.PROVENANCE).get("origins", []) if archive.PROVENANCE in read.manifest["files"] else []
    given = [
        {"name": f"--{option}", "digest": {"sha256": archive.sha256(file)}} for option, file in packing.inputs.items()
    ]
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": {
            "name": read.name,
            "version": read.version,
            "task": read.manifest.get("task"),
            archive.MODEL_CONFIG: read.text(archive.MODEL_CONFIG),
        },
        "resolvedDependencies": [*_code(), *_model(read, origins), *given],
    }
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    run = {
        "builder": {
            "id": os.environ.get(BUILDER) or UNNAMED,
            "version": {"python": platform.python_version(), **versions},
        },
        "metadata": {"startedOn": _time(packing.began), "finishedOn": _time(now())},
    }
    return {
        "_type": STATEMENT,
        "subject": [{"name": read.file.name, "digest": {"sha256": archive.sha256(read.file)}}],
        "predicateType": PREDICATE,
        "predicate": {"buildDefinition": definition, "runDetails": run},
    }


def check_attestation(store: Store, read: Archive, public_key: Path) -> Attestation:
    """Return what the provenance of an archive says.

    Args:
        store: that has the provenance; the archive may be a copy elsewhere.

    Raises:
        ScriptError: there is none, another key signed it, or it is about another archive.
    """
    dsse, signer, serialization = _libraries()
    file = attestation_file(store, read)
    if not file.is_file():
        raise ScriptError(f"{file} is missing: scripts/package.py --sign makes it")
    try:
        key = signer.SSlibKey.from_crypto(serialization.load_pem_public_key(public_key.read_bytes()))
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES >> 20} MB")
        envelope = dsse.Envelope.from_dict(json.loads(file.read_text(encoding="utf-8")))
        envelope.verify([key], 1)
        said = json.loads(envelope.payload)
        kinds = (envelope.payload_type, said["_type"], said["predicateType"])
        run, definition = said["predicate"]["runDetails"], said["predicate"]["buildDefinition"]
        digests = {subject["digest"]["sha256"] for subject in said["subject"]}
        finished = datetime.datetime.strptime(run["metadata"]["finishedOn"], TIME_FORMAT)
        attestation = Attestation(
            str(run["builder"]["id"]),
            len(definition["resolvedDependencies"]),
            finished.replace(tzinfo=datetime.timezone.utc),
        )
    except Exception as error:  # whatever the content makes the libraries raise
        raise ScriptError(f"{file} has no valid signature of {public_key} ({type(error).__name__})") from error
    if kinds != (PAYLOAD, STATEMENT, PREDICATE):
        raise ScriptError(f"{file} is no provenance of SLSA v1")
    if digests != {archive.sha256(read.file)}:
        raise ScriptError(f"{file} is about another archive than {read.file}")
    return attestation


def now() -> datetime.datetime:
    """Return the time in UTC."""
    return datetime.datetime.now(datetime.timezone.utc)


def _time(at: datetime.datetime) -> str:
    return at.strftime(TIME_FORMAT)


def _code() -> list[dict[str, JSON]]:
    """Return the commit of this repository; nothing where it is not one, or has changes that no commit has."""
    git = ["git", "-C", str(ROOT)]
    try:
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return []
    return [] if changes else [{"name": "bert-on-torchserve", "digest": {"gitCommit": commit}}]


def _model(read: Archive, origins: list[dict[str, Any]]) -> list[dict[str, JSON]]:
    """Return the files that the model was made from; of a local folder those that were packed."""
    sources: list[dict[str, JSON]] = []
    for origin in origins:
        name = origin.get("name")
        where = f"{name}@{origin['commit']}/" if name and origin.get("commit") else f"{origin.get('role', 'model')}/"
        sources += [{"name": where + path, "digest": {"sha256": digest}} for path, digest in origin["files"].items()]
    packed = read.manifest["files"].items()
    local = [{"name": path, "digest": {"sha256": digest}} for path, digest in packed if path.startswith("model/")]
    return sources or local


def _libraries() -> tuple[Any, Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from securesystemslib import dsse, signer
    except ImportError as error:
        raise ScriptError(f"provenance needs securesystemslib ({error.name} is missing): {INSTALL}") from error
    return dsse, signer, serialization
