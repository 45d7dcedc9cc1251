"""All versions of all models: registered, loaded beside one another in this process, made default, removed.

A change loses no request: a version that takes over has loaded before it becomes the default, and one that is removed
first answers what it had accepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from server.archives import UnpackedArchive, unpack
from server.errors import ApiError, model_not_found, version_not_found
from server.loaded_model import LoadedModel
from server.metrics import MetricsRegistry
from server.settings import ServerSettings


class ModelRegistry:
    """The models of one server."""

    def __init__(self, store: Path, temp: Path, settings: ServerSettings, metrics: MetricsRegistry) -> None:
        """Refer to a model store, and to a folder for unpacked archives."""
        self.store, self.temp, self.settings, self.metrics = store, temp, settings, metrics
        self.device_failed = asyncio.Event()
        self._versions: dict[str, dict[str, LoadedModel]] = {}
        self._defaults: dict[str, str] = {}
        self._removals: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[LoadedModel]:
        """Iterate over every version of every model."""
        return (model for versions in self._versions.values() for model in versions.values())

    @property
    def names(self) -> list[str]:
        """The names of all models, in order."""
        return sorted(self._versions)

    def get(self, name: str, version: str | None = None) -> LoadedModel:
        """Return one version, by default the default one; raises the ApiError of an unknown one."""
        versions = self._versions.get(name)
        if versions is None:
            raise model_not_found(name)
        model = versions.get(self._defaults[name] if version is None else version)
        if model is None:
            raise version_not_found(name, version or "")
        return model

    def versions(self, name: str) -> list[LoadedModel]:
        """Return every version of a model."""
        self.get(name)
        return [self._versions[name][version] for version in sorted(self._versions[name])]

    async def unpack(self, file: str, name: str | None = None) -> UnpackedArchive:
        """Unpack an archive of the store.

        Raises:
            ApiError: no such archive.
            StartupError: the archive is broken.
        """
        return await asyncio.get_running_loop().run_in_executor(None, unpack, self.store, file, self.temp, name)

    def register(self, archive: UnpackedArchive, *, at_startup: bool = False) -> LoadedModel:
        """Let an archive load; a first version becomes the default.

        Raises:
            ApiError: this version is there already.
        """
        try:
            self._refuse_conflict(archive)
        except ApiError:
            archive.remove()
            raise
        model = LoadedModel(archive, self.settings, self.metrics, self.device_failed.set, at_startup=at_startup)
        self._versions.setdefault(model.name, {})[model.version] = model
        self._defaults.setdefault(model.name, model.version)
        return model

    def set_default(self, name: str, version: str) -> None:
        """Let requests that name no version go to this one."""
        self.get(name)
        if version not in self._versions[name]:
            message = f"Model version {version[:200]} does not exist for model {name}"
            raise ApiError(404, "ModelVersionNotFoundException", message)
        self._defaults[name] = version

    def unregister(self, name: str, version: str | None = None) -> None:
        """Remove a version, by default the default one: no new requests; accepted ones are answered first."""
        model = self.get(name, version)
        is_default = model.version == self._defaults[name]
        if is_default and len(self._versions[name]) > 1:
            message = f"Can't remove default version: {model.version} for model: {name}"
            raise ApiError(403, "InvalidModelVersionException", message)
        del self._versions[name][model.version]
        if not self._versions[name]:
            del self._versions[name], self._defaults[name]
        removal = asyncio.get_running_loop().create_task(model.close())
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)

    def is_default(self, model: LoadedModel) -> bool:
        """Tell whether requests that name no version go to this one."""
        return self._defaults.get(model.name) == model.version

    def _refuse_conflict(self, archive: UnpackedArchive) -> None:
        if archive.version in self._versions.get(archive.name, {}):
            message = f"Model version {archive.version} is already registered for model {archive.name}"
            raise ApiError(409, "ConflictStatusException", message)
