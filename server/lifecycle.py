"""Start, drain and stop: three ports of one process.

SIGTERM makes the server unready at once. It goes on answering whatever comes until nothing has come for a moment or
half of the grace has passed; then it listens no more, answers what it accepted, and ends with 0. A second signal ends
it at once, with 143. When an engine hangs or its device has failed, all requests get an error, and it ends with 1:
whatever runs it starts it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from handler.errors import ConfigError, StartupError
from handler.predictor import Predictor
from handler.tracing import Tracing
from server import log
from server.applications import (
    EarlyRefusal,
    Parts,
    inference_application,
    management_application,
    metrics_application,
)
from server.connections import BoundedConnection, end_stalled, uvicorn_options
from server.errors import ApiError
from server.health import Health, ServerState
from server.keys import KEY_FILE, KeyRing
from server.loaded_model import import_for
from server.metrics import MetricsRegistry, record_machine
from server.registry import ModelRegistry
from server.settings import Address, ServerSettings

ABANDON_S = 2.0  # for the errors that requests get when the engine does not answer any more
QUIET_S = 1.5  # without a request, after which a draining server listens no more
POLL_S = 0.1
ENDED_BY_FAILURE, ENDED_BY_SECOND_SIGNAL = 1, 143

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """What one server is started with."""

    config: Path
    store: Path
    run_dir: Path
    temp: Path
    models: Sequence[str] = ()  # FILE or NAME=FILE
    grace_s: float = 30.0


class _Port(uvicorn.Server):
    """One port; signals are handled by the lifecycle for all of them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Lifecycle:
    """One server from its start to its end."""

    def __init__(self, start: Start) -> None:
        """Read the settings and bind the ports, so that what is wrong is said at once.

        Raises:
            ConfigError: a setting that cannot be obeyed, or a port that is in use.
        """
        self.start = start
        self.settings = ServerSettings.read(start.config, start.run_dir)
        self.metrics = MetricsRegistry(self.settings.metrics_config)
        self.metrics.collect_with(lambda: record_machine(self.metrics))
        self.state = ServerState()
        self._tls = self.settings.tls()
        self._tracing = Tracing.from_environment()
        self._sockets = {name: _bind(name, address) for name, address in self.settings.addresses.items()}
        self._n_signals = 0
        self._code: int | None = None  # set: end now

    async def run(self) -> int:
        """Serve until a signal or a failure; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) != signal.SIG_IGN:  # a shell's background process ignores Ctrl-C
                loop.add_signal_handler(number, self._on_signal)
        models = ModelRegistry(self.start.store, self.start.temp, self.settings, self.metrics)
        keys = KeyRing(self.start.run_dir, self.settings.key_lifetime_s) if self.settings.authorized else None
        parts = Parts(self.settings, models, self.metrics, Health(models, self.state), keys, self._tracing)
        applications = {
            "inference": inference_application(parts),
            "management": management_application(parts),
            "metrics": metrics_application(parts),
        }
        early = {"inference": EarlyRefusal(parts)}
        ports = {name: self._port(name, each, early.get(name)) for name, each in applications.items()}
        loading = await self._register(models)
        serving = [loop.create_task(port.serve([self._sockets[name]])) for name, port in ports.items()]
        if loading:
            await asyncio.wait(loading)
        self.state.starting = False
        await self._until_stopped(models, ports["inference"])
        for port in ports.values():
            port.should_exit = True
            port.force_exit = self._code is not None
        await asyncio.gather(*serving)
        if self._tracing:
            await loop.run_in_executor(None, self._tracing.close)
        (self.start.run_dir / KEY_FILE).unlink(missing_ok=True)
        if self._code is not None:
            logging.shutdown()
            os._exit(self._code)  # an end in order waits for threads, and one of them may hang
        return 0

    def _port(self, name: str, application: ASGIApp, refuse: EarlyRefusal | None) -> uvicorn.Server:
        options = uvicorn_options(refuse, lambda: self.state.draining)
        config = uvicorn.Config(application, timeout_graceful_shutdown=int(self.start.grace_s), **options)
        config.load()
        config.ssl = self._tls if self.settings.addresses[name].tls else None
        return _Port(config)

    async def _register(self, models: ModelRegistry) -> list[asyncio.Future[Predictor]]:
        """Register the archives of the command line; return what is done when they have loaded or failed."""
        archives = []
        for word in self.start.models:
            name, _, file = word.rpartition("=")
            try:
                archives.append(await models.unpack(file, name or None))
            except (ApiError, StartupError) as error:
                log.archive_failed(file, error)
        await asyncio.get_running_loop().run_in_executor(None, import_for, archives)
        return [models.register(archive, at_startup=True).batcher.ready for archive in archives]

    async def _until_stopped(self, models: ModelRegistry, inference: uvicorn.Server) -> None:
        while not self._n_signals and self._code is None:
            await asyncio.sleep(POLL_S)
            self.metrics.add_up()
            if models.device_failed.is_set():
                self._fail("the device failed: start again")
            if hung := [model.name for model in models if model.is_hung]:
                self._fail(f"no answer of {', '.join(hung)} within responseTimeout: start again")
        self.state.draining = True
        for connection in inference.server_state.connections:
            if isinstance(connection, BoundedConnection):
                connection.end_after_response()
        if self._code is not None:
            await self._abandon(models)
            return
        end = time.monotonic() + self.start.grace_s / 2
        quiet_since, n_before = time.monotonic(), inference.server_state.total_requests
        while time.monotonic() < end and time.monotonic() - quiet_since < QUIET_S and self._code is None:
            n_requests = inference.server_state.total_requests
            if n_requests != n_before or any(model.n_running for model in models):
                quiet_since, n_before = time.monotonic(), n_requests
            await asyncio.sleep(POLL_S)

    async def _abandon(self, models: ModelRegistry) -> None:
        """Answer all requests with an error, and wait for a moment until that is written."""
        end = time.monotonic() + ABANDON_S
        await asyncio.sleep(POLL_S)  # for the answers of the last batch
        for model in models:
            model.abandon()
        while time.monotonic() < end and any(model.n_running for model in models):
            await asyncio.sleep(POLL_S)
        await asyncio.sleep(POLL_S)  # for what is written last

    def _fail(self, reason: str) -> None:
        logger.error("%s", reason)
        self._code = ENDED_BY_FAILURE

    def _on_signal(self) -> None:
        self._n_signals += 1
        if self._n_signals > 1:
            os._exit(ENDED_BY_SECOND_SIGNAL)


def _bind(name: str, address: Address) -> socket.socket:
    """Return a socket that listens when it is served."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end_stalled(bound)
    try:
        bound.bind((address.host, address.port))
    except OSError as error:
        raise ConfigError(f"{name}_address {address.host}:{address.port} cannot be bound: {error.strerror}") from None
    bound.set_inheritable(False)
    return bound
