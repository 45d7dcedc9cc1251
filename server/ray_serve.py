"""The inference port as a deployment of Ray Serve: replicas of one process each, on one node or on many.

Ray Serve routes, starts and replaces replicas; what a replica answers, refuses and limits is the standalone server's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from handler.errors import ConfigError
from handler.tracing import Tracing
from server.applications import Parts, inference_application
from server.health import Health
from server.keys import SharedKeys
from server.loaded_model import import_for
from server.metrics import MetricsRegistry
from server.own_folder import OwnFolder
from server.registry import ModelRegistry
from server.settings import ServerSettings

SIGNATURES = ("ARCHIVE_PUBLIC_KEY", "ARCHIVE_NOT_OLDER_THAN")  # variables that scripts/serve.sh obeys
ARGUMENTS = ("config", "model_store", "models", "key_file")  # of deploy/ray/serve.yaml


class Replica:
    """One process that serves every model of the application."""

    def __init__(self, config: str, model_store: str, models: Sequence[str], key_file: str | None = None) -> None:
        """Read the settings.

        Raises:
            ConfigError: a setting that cannot be obeyed, or keys that cannot be read.
        """
        if name := next(filter(os.environ.get, SIGNATURES), None):
            raise ConfigError(f"{name} is set, and Ray Serve checks no signatures: unset it, or use serve.sh")
        settings = ServerSettings.read(Path(config), Path())
        if settings.authorized and not key_file:
            raise ConfigError("key_file is missing: a file of keys, or disable_token_authorization=true in config")
        self._temp = OwnFolder("replica-")
        self._files = models
        metrics = MetricsRegistry()
        self.models = ModelRegistry(Path(model_store), self._temp.path, settings, metrics)
        self.health = Health(self.models)
        keys = SharedKeys(Path(key_file)) if settings.authorized and key_file else None
        self._parts = Parts(settings, self.models, metrics, self.health, keys, Tracing.from_environment())

    async def load(self) -> None:
        """Load the models; raises what loading one of them raises."""
        archives = [await self.models.unpack(file) for file in self._files]
        await asyncio.get_running_loop().run_in_executor(None, import_for, archives)
        await asyncio.gather(*(self.models.register(each, at_startup=True).batcher.ready for each in archives))
        self.health.state.starting = False

    async def close(self) -> None:
        """Answer what was accepted, then free the models and their folders."""
        for model in list(self.models):
            await model.close()
        self._temp.remove()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return what answers, for Ray Serve."""
        return inference_application(self._parts)

    def check_health(self) -> None:
        """Raise where only a new process helps: a batch that hangs, or a device that failed."""
        if self.models.device_failed.is_set() or any(model.is_hung for model in self.models):
            raise RuntimeError("the device failed, or no answer came within responseTimeout")


def application(arguments: Mapping[str, Any]) -> Any:
    """Return the application that `serve deploy` starts, from the `args` of its file.

    Raises:
        ConfigError: an argument that there is not or that is missing, or Ray Serve is not installed.
    """
    unknown = sorted(set(arguments) - set(ARGUMENTS))
    if unknown or not isinstance(arguments.get("models"), list) or not arguments["models"]:
        raise ConfigError(f"args has {sorted(arguments)}, accepted: {', '.join(ARGUMENTS)}; models lists archives")
    try:
        from ray import serve
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed: install requirements/ray-serve.txt") from error

    class Deployment(Replica):
        async def __init__(self, *given: Any) -> None:  # type: ignore[misc]  # Ray Serve waits for it
            super().__init__(*given)
            await self.load()

    config, store = arguments.get("config", "config.properties"), arguments.get("model_store", "model_store")
    deployment = serve.deployment(name="bert")(serve.ingress()(Deployment))
    return deployment.bind(config, store, arguments["models"], arguments.get("key_file"))
