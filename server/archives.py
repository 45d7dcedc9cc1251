"""An archive of the model store -> a folder, and the name and version that TorchServe's manifest in it gives."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from handler.config import ModelConfig
from handler.errors import MalformedBody, ModelMismatch
from handler.protocol import loads
from server.errors import ApiError, bad_request

MANIFEST = "MAR-INF/MANIFEST.json"
MODEL_CONFIG = "model-config.yaml"


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
        ApiError: no such archive in the store.
        ModelMismatch: it is no whole archive.
        ConfigError: its model-config.yaml is wrong.
    """
    path = _in_store(store, file)
    folder = Path(tempfile.mkdtemp(prefix="model-", dir=temp))
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
    path = store / file
    if ".." in Path(file).parts or path.parent.resolve() != store.resolve():
        raise ApiError(404, "ModelNotFoundException", f"Relative path is not allowed in url: {file[:200]}")
    if not path.exists():
        raise ApiError(404, "ModelNotFoundException", f"Model not found at: {file[:200]}")
    return path


def _extract(path: Path, folder: Path) -> None:
    try:
        if path.is_dir():
            shutil.copytree(path, folder, dirs_exist_ok=True)
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                archive.extractall(folder, filter="data")
        else:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)  # noqa: S202 - a zip's members stay in the folder
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise ModelMismatch(f"{path.name} is no whole archive, perhaps cut short: pack or copy it again") from error


def _manifest(folder: Path, file: str) -> dict[str, str]:
    try:
        model = loads((folder / MANIFEST).read_text(encoding="utf-8"))["model"]
        return {key: str(model[key]) for key in ("modelName", "modelVersion") if key in model or key == "modelName"}
    except (OSError, UnicodeDecodeError, MalformedBody, KeyError, TypeError) as error:
        raise ModelMismatch(f"{file} has no {MANIFEST} that can be read: pack it with scripts/package.py") from error
