"""The files of a .mar, and the check that an unpacked archive is what was packed.

    MAR-INF/MANIFEST.json   written by torch-model-archiver
    bert_handler.py         the entry file, a copy of handler/bert_handler.py
    handler/                this package
    model/                  config, safetensors, tokenizer, training.json
    model-config.yaml       TorchServe's settings and the handler's
    golden.json             inputs of the self-test, and their answers by plain transformers (fp32, one by one)
    golden-int8.json        their answers in int8, if the archive has int8 weights
    golden-fp8.json         their answers in fp8, if the archive is packed for it
    calibration.json        of the scores, by precision, and histograms of inputs, if packed with --calibrate-scores;
                            golden-*-calibrated.json has the answers with calibrated scores
    model-card.md  openapi.json
    provenance.json         repositories, commits and hashes that the model was made from
    manifest.json           SHA-256 of every file above except the first

`write_manifest` is called when an archive is built, `verify` when a worker starts: every listed file must exist
with its hash, and no other file may exist in the folders from which code or weights are loaded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from handler import protocol
from handler.confidence import ScoreCalibration
from handler.errors import MalformedBody, ModelMismatch
from handler.paths import stays_inside
from handler.protocol import JSON

MODEL = "model"
CODE = "handler"
GOLDEN = "golden.json"
GOLDEN_BY_PRECISION = {"int8": "golden-int8.json", "fp8": "golden-fp8.json"}  # precisions with answers of their own
CALIBRATION = "calibration.json"
MANIFEST = "manifest.json"
CARD = "model-card.md"
PROVENANCE = "provenance.json"
OPENAPI = "openapi.json"
MODEL_CONFIG = "model-config.yaml"
FORMAT = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")  # of a model: it becomes a part of routes and of file names
VERSION = re.compile(r"[A-Za-z0-9_.+-]{1,64}")  # the same; scripts/package.py makes numbers and dots
MAX_TEXT_BYTES = 64 << 20  # of a file that is read as a whole


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`."""

    files: dict[str, str]  # path in the archive -> SHA-256
    name: str
    version: str
    task: str

    @property
    def model_hash(self) -> str:
        """SHA-256 over the paths and hashes of the model's files: equal for equal models."""
        lines = [f"{path} {digest}\n" for path, digest in sorted(self.files.items()) if path.startswith(f"{MODEL}/")]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Golden:
    """Inputs of the self-test, and their answers when the archive was built."""

    items: list[JSON]
    parameters: dict[str, JSON]
    answers: list[JSON]


def write_manifest(folder: Path, name: str, version: str, task: str) -> Manifest:
    """List every file of a staged archive with its hash, in `manifest.json`."""
    files = {path: sha256(folder / path) for path in _listed(folder)}
    manifest = Manifest(files, name, version, task)
    header = {"format": FORMAT, "name": name, "version": version, "task": task, "model_hash": manifest.model_hash}
    _write(folder / MANIFEST, {**header, "files": files})
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json` of an unpacked archive; raises ModelMismatch if there is none, or none that can be read."""
    value = _read(folder / MANIFEST)
    if value.get("format") != FORMAT:
        raise ModelMismatch(f"{MANIFEST} has format {value.get('format')}, this handler reads {FORMAT}: pack again")
    files = value.get("files", {})
    if not isinstance(files, dict):
        raise ModelMismatch(f"{MANIFEST} has no table of files: pack again")
    if outside := next((path for path in files if not stays_inside(path)), None):
        raise ModelMismatch(f"{MANIFEST} names {outside[:100]!r}, which is not in the archive: pack again")
    try:
        return Manifest(value["files"], value["name"], value["version"], value["task"])
    except KeyError as error:
        raise ModelMismatch(f"{MANIFEST} lacks {error}: pack again") from error


def verify(folder: Path) -> Manifest:
    """Compare an unpacked archive with its manifest.

    Raises:
        ModelMismatch: a file is missing or changed, or was added to the model or the code.
    """
    manifest = read_manifest(folder)
    for path, digest in manifest.files.items():
        if not (folder / path).is_file():
            raise ModelMismatch(f"{path} is missing from the archive: pack again")
        if sha256(folder / path) != digest:
            raise ModelMismatch(f"{path} is not the file that was packed (SHA-256 differs): pack again")
    if extra := added(_listed(folder), manifest.files):
        raise ModelMismatch(f"{extra} was not in the archive when it was packed: pack again")
    return manifest


def added(paths: Iterable[str], files: Mapping[str, str]) -> str | None:
    """Return the first of some paths from which code or weights would be read and that a manifest does not list."""
    unlisted = (path for path in paths if path not in files)
    # The root is on the import path too: a module there would be imported instead of the library of its name.
    code = (".py", ".pyc", ".so")
    return next((path for path in unlisted if path.startswith((f"{MODEL}/", f"{CODE}/")) or path.endswith(code)), None)


def golden_name(precision: str) -> str:
    """Return the name of the file with the golden answers of a precision."""
    return GOLDEN_BY_PRECISION.get(precision, GOLDEN)


def calibrated_golden_name(precision: str) -> str:
    """Return the name of the file with the golden answers of a precision whose scores are calibrated."""
    return f"golden-{calibration_name(precision)}-calibrated.json"


def calibration_name(precision: str) -> str:
    """Return the name under which a precision is calibrated: all without weights of their own share one."""
    return precision if precision in GOLDEN_BY_PRECISION else "float"


def write_golden(folder: Path, golden: Golden, name: str = GOLDEN) -> None:
    """Write golden answers, the inverse of `read_golden`."""
    _write(folder / name, {"items": golden.items, "parameters": golden.parameters, "answers": golden.answers})


def read_golden(folder: Path, name: str = GOLDEN) -> Golden:
    """Read golden answers; raises ModelMismatch if they cannot be read."""
    value = _read(folder / name)
    try:
        golden = Golden(value["items"], value["parameters"], value["answers"])
    except KeyError as error:
        raise ModelMismatch(f"{name} lacks {error}: pack again") from error
    if len(golden.items) != len(golden.answers):
        raise ModelMismatch(f"{name} has {len(golden.items)} questions and {len(golden.answers)} answers: pack again")
    return golden


def write_calibration(folder: Path, by_precision: dict[str, ScoreCalibration]) -> None:
    """Write the calibration of the scores of each precision that has one, the inverse of `read_calibration`."""
    _write(folder / CALIBRATION, {name: calibration.to_json() for name, calibration in by_precision.items()})


def read_calibration(folder: Path, precision: str) -> ScoreCalibration | None:
    """Return the calibration of the scores in a precision; None where the archive was packed without.

    Raises:
        ModelMismatch: it cannot be read, or is not there for this precision.
    """
    if not (folder / CALIBRATION).is_file():
        return None
    by_precision = _read(folder / CALIBRATION)
    name = calibration_name(precision)
    if name not in by_precision:
        raise ModelMismatch(f"{CALIBRATION} has no scores in {precision}: pack again with --precision {precision}")
    return ScoreCalibration.from_json(by_precision[name])


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return sha256_of_stream(file)


def sha256_of_stream(stream: IO[bytes]) -> str:
    """Return the SHA-256 of what is left of a stream, in hexadecimal; `hashlib.file_digest` needs Python 3.11."""
    digest = hashlib.sha256()
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _listed(folder: Path) -> list[str]:
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    skipped = {"MAR-INF", "__pycache__"}
    return [str(path) for path in paths if not skipped & set(path.parts) and str(path) != MANIFEST]


def _write(path: Path, value: JSON) -> None:
    path.write_bytes(protocol.serialize_value(value) + b"\n")


def _read(path: Path) -> JSON:
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise ModelMismatch(f"{path.name} has more than {MAX_TEXT_BYTES >> 20} MB: pack again")
        value = protocol.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, MalformedBody) as error:
        raise ModelMismatch(f"{path.name} cannot be read ({type(error).__name__}): pack again") from error
    if not isinstance(value, dict):
        raise ModelMismatch(f"{path.name} does not hold an object: pack again")
    return value
