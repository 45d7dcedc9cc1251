"""An archive of the model store -> a folder, and the name and version that TorchServe's manifest in it gives."""

from __future__ import annotations

import lzma
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from handler.config import ModelConfig
from handler.errors import MalformedBody, ModelMismatch
from handler.protocol import loads
from server.errors import ApiError, bad_request

MANIFEST = "MAR-INF/MANIFEST.json"
MODEL_CONFIG = "model-config.yaml"
MAX_RATIO = 100  # of unpacked to packed bytes: packed archives are stored, and weights hardly shrink
MB = 1 << 20
DAMAGED = (zlib.error, lzma.LZMAError, RuntimeError, ValueError)  # what the readers of broken or encrypted zips raise
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # as scripts/package.py allows and the gateway forwards
VERSION = re.compile(r"[A-Za-z0-9_.+-]{1,64}")


@dataclass(frozen=True)
class UnpackedArchive:
    """One archive in a folder of its own."""

    file: str  # its name in the store
    folder: Path
    name: str
    version: str
    config: ModelConfig

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def unpack(store: Path, file: str, temp: Path, name: str | None = None) -> UnpackedArchive:
    """Unpack an archive of the store.

    Args:
        name: instead of the one in the archive.

    Raises:
        ApiError: no such archive in the store, or no such name is allowed.
        ModelMismatch: it is no whole archive, or there is no room for it.
        ConfigError: its model-config.yaml is wrong.
    """
    path = _in_store(store, file)
    if name is not None and not NAME.fullmatch(name):
        raise bad_request("model_name: letters, digits, '_', '-' and '.' are accepted")
    try:
        folder = Path(tempfile.mkdtemp(prefix="model-", dir=temp))
    except OSError as error:
        raise ModelMismatch(f"{file} cannot be unpacked in {temp}: {error.strerror}") from error
    try:
        _extract(path, folder)
        model = _manifest(folder, file)
        config = ModelConfig.read(folder / MODEL_CONFIG) if (folder / MODEL_CONFIG).is_file() else ModelConfig()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return UnpackedArchive(file, folder, name or model["modelName"], model.get("modelVersion", "1.0"), config)


def _in_store(store: Path, file: str) -> Path:
    if "://" in file:
        raise ApiError(404, "ModelNotFoundException", f"Given URL {file[:200]} does not match any allowed URL(s)")
    if not file:
        raise bad_request("Parameter url is required.")
    path = store / file.replace("\0", "?")  # which no file name has
    if ".." in Path(file).parts or path.parent.resolve() != store.resolve():
        raise ApiError(404, "ModelNotFoundException", f"Relative path is not allowed in url: {file[:200]}")
    if not path.exists():
        raise ApiError(404, "ModelNotFoundException", f"Model not found at: {file[:200]}")
    return path


def _extract(path: Path, folder: Path) -> None:
    room = _Room(path, folder)
    try:
        if path.is_dir():
            room.take(sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
            shutil.copytree(path, folder, dirs_exist_ok=True)
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                for member in archive:  # sizes first: a compressed stream may be longer than any disk
                    room.take(member.size)
                archive.extractall(folder, filter="data")
        else:
            with zipfile.ZipFile(path) as archive:
                room.take(sum(entry.file_size for entry in archive.infolist()))
                archive.extractall(folder)  # noqa: S202 - a zip's members stay in the folder, and become plain files
    except ModelMismatch:
        raise
    except OSError as error:
        raise ModelMismatch(f"{path.name} cannot be unpacked in {folder.parent}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, *DAMAGED) as error:
        raise ModelMismatch(f"{path.name} is no whole archive, perhaps cut short: pack or copy it again") from error


class _Room:
    """What an archive may unpack to: what fits on the disk, and no multiple that weights never have."""

    def __init__(self, path: Path, folder: Path) -> None:
        self._path, self._folder = path, folder
        self._taken = 0
        self._free = shutil.disk_usage(folder).free
        self._most = None if path.is_dir() else MAX_RATIO * path.stat().st_size

    def take(self, n_bytes: int) -> None:
        """Count what will be written; raise ModelMismatch when that is too much."""
        self._taken += n_bytes
        if self._most is not None and self._taken > self._most:
            raise ModelMismatch(f"{self._path.name} unpacks to more than {MAX_RATIO} times its size: pack it again")
        if self._taken > self._free:
            free = f"{self._free / MB:.0f} MB are free"
            raise ModelMismatch(
                f"{self._path.name} needs {self._taken / MB:.0f} MB in {self._folder.parent}, where {free}"
            )


def _manifest(folder: Path, file: str) -> dict[str, str]:
    try:
        model = loads((folder / MANIFEST).read_text(encoding="utf-8"))["model"]
        named = {key: str(model[key]) for key in ("modelName", "modelVersion") if key in model or key == "modelName"}
    except (OSError, UnicodeDecodeError, MalformedBody, KeyError, TypeError) as error:
        raise ModelMismatch(f"{file} has no {MANIFEST} that can be read: pack it with scripts/package.py") from error
    if not NAME.fullmatch(named["modelName"]) or not VERSION.fullmatch(named.get("modelVersion", "1.0")):
        raise ModelMismatch(f"{file}: {MANIFEST} has a name or version that no route can have: pack it again")
    return named
