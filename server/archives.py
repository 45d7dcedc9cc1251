"""An archive of the model store -> a folder, and the name and version that TorchServe's manifest in it gives."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from handler.archive import MAX_TEXT_BYTES, MODEL_CONFIG, NAME, VERSION
from handler.config import ModelConfig
from handler.errors import MalformedBody, ModelMismatch
from handler.protocol import loads
from scripts.client.unpacking import extract
from server.errors import ApiError, bad_request

MANIFEST = "MAR-INF/MANIFEST.json"


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
        extract(path, folder)
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


def _manifest(folder: Path, file: str) -> dict[str, str]:
    try:
        if (folder / MANIFEST).stat().st_size > MAX_TEXT_BYTES:
            raise ModelMismatch(f"{file}: {MANIFEST} has more than {MAX_TEXT_BYTES >> 20} MB: pack it again")
        model = loads((folder / MANIFEST).read_text(encoding="utf-8"))["model"]
        named = {key: str(model[key]) for key in ("modelName", "modelVersion") if key in model or key == "modelName"}
    except (OSError, UnicodeDecodeError, MalformedBody, KeyError, TypeError) as error:
        raise ModelMismatch(f"{file} has no {MANIFEST} that can be read: pack it with scripts/package.py") from error
    if not NAME.fullmatch(named["modelName"]) or not VERSION.fullmatch(named.get("modelVersion", "1.0")):
        raise ModelMismatch(f"{file}: {MANIFEST} has a name or version that no route can have: pack it again")
    return named
