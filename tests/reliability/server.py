"""The server of the scenarios, of either kind, started by the image's entrypoint, with its own ports and folder."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from handler.config import ModelConfig
from scripts.archives.build import ArchiveContents, build
from scripts.cli.console import ScriptError
from scripts.client.connection import message
from scripts.client.http import Inference, Management, Model
from scripts.client.server import ServerError
from tests.reliability.oracle import Oracle, different_texts
from tests.support.live import Live, own_config
from tests.support.samples import ROOT

MODEL = "reliable"
START_S = 180  # within which a server must be ready, and must have ended after SIGTERM
POLL_S = 0.1
SERVERS = ("torchserve", "standalone")


@dataclass(frozen=True)
class Target:
    """One model on one server, and its expected answers."""

    live: Live
    model: str
    oracle: Oracle

    def message(self, number: int, key: str) -> bytes:
        """Return request `number` as bytes; the response repeats its id."""
        before, after = self.request(self.oracle.index(number), key)
        return before + str(number).encode() + after

    def request(self, index: int, key: str) -> tuple[bytes, bytes]:
        """Return the bytes of a request for text `index` before and after its id."""
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "x-request-id": "ID"}
        request = message("POST", f"/predictions/{self.model}", "127.0.0.1", self.oracle.body(index), headers)
        before, _, after = request.partition(b"x-request-id: ID")
        return before + b"x-request-id: ", after


class ScenarioServer:
    """One model served by one worker, which is the server itself where that is the standalone one.

    Scenarios may kill both: `up` restores them.
    """

    def __init__(
        self, target: Target, settings: ModelConfig, kind: str = "torchserve", *, is_running: bool = False
    ) -> None:
        """Describe a server.

        Args:
            kind: one of SERVERS.
            is_running: whether another fixture runs it, so that no scenario may end it.
        """
        self.target = target
        self.live = target.live
        self.is_standalone = kind == "standalone"
        self.kind, self._is_running = kind, is_running
        self.settings = settings.frontend
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def queue(self) -> int:
        """How many requests may wait."""
        return self.settings.jobQueueSize or 100

    @property
    def batch(self) -> int:
        """Requests in one batch."""
        return self.settings.batchSize or 1

    @property
    def hang_s(self) -> int:
        """Seconds after which a worker counts as hung."""
        return self.settings.responseTimeout or 120

    def up(self, starter: Sequence[str] = ()) -> None:
        """Start the server, unless it runs, and wait until the model answers.

        Args:
            starter: a command that starts the one behind it.
        """
        if not self._is_running and (self.process is None or self.process.poll() is not None):
            home = self.live.run_dir
            options = ["--config", str(self.live.config), "--run-dir", str(home), "--model-store", str(self.live.store)]
            options += ["--server", self.kind]
            (home / "logs").mkdir(exist_ok=True)
            with (home / "logs" / "entrypoint.log").open("ab") as log:
                command = [*starter, str(ROOT / "scripts" / "serve.sh"), "run", *options, "--models", self.target.model]
                self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            self._wait_for_server(self.process)
        self.wait_for_worker()
        if problem := Inference(self.live.server).probe(self.target.model, "1.0", retry_for=START_S):
            raise ScriptError(f"the server of the suite does not answer: {problem}")
        self._wait_for_entrypoint()

    def stop(self) -> int:
        """Stop the server with SIGTERM, unless it has ended; return its exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(START_S)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGTERM)  # a second one stops at once
            return self.process.wait(START_S)

    def model(self) -> Model:
        """Return the model's entry in the management API."""
        return Management(self.live.server).model(self.target.model, "1.0")

    def worker(self) -> int:
        """Return the process id of the worker."""
        (pid,) = self.model().pids
        return pid

    def wait_for_worker(self, instead_of: int = 0) -> int:
        """Wait until a worker other than `instead_of` is ready; return its process id."""
        deadline = time.monotonic() + START_S + self.hang_s
        while time.monotonic() < deadline:
            with contextlib.suppress(ServerError):
                model = self.model()
                if model.is_ready and instead_of not in model.pids:
                    return model.pids[0]
            if self.process and self.process.poll() is not None:  # the kernel may have killed it while it loaded
                raise ScriptError(self._last_output())
            time.sleep(POLL_S)
        raise ScriptError(f"no worker of {self.target.model} became ready; see {self.live.run_dir}/logs")

    def family(self) -> list[psutil.Process]:
        """Return the process of the server and all its descendants."""
        process = psutil.Process(int((self.live.run_dir / "run" / "pid").read_text()))
        return [process, *process.children(recursive=True)]

    def _wait_for_entrypoint(self) -> None:
        """Wait until serve.sh has tried its models: its own request would take a place of the queue."""
        deadline = time.monotonic() + START_S
        while (self.live.run_dir / "run" / "starting").exists():
            if time.monotonic() > deadline:
                raise ScriptError(f"serve.sh does not end its start: see {self.live.run_dir}/logs")
            time.sleep(POLL_S)

    def _wait_for_server(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ScriptError(self._last_output())
            with contextlib.suppress(ServerError):
                self.model()
                return
            time.sleep(POLL_S)
        raise ScriptError(f"the server of the suite does not start: see {self.live.run_dir}/logs")

    def _last_output(self) -> str:
        output = (self.live.run_dir / "logs" / "entrypoint.log").read_text(errors="replace")
        return f"the server of the suite ended: {' '.join(output.split())[-600:]}"


@contextlib.contextmanager
def scenario_server(
    folder: Path, settings: ModelConfig, n_texts: int, kind: str = "torchserve"
) -> Iterator[ScenarioServer]:
    """Pack a model folder and compute expected answers; the first scenario starts the server, one of SERVERS."""
    with tempfile.TemporaryDirectory(prefix="r-") as scratch:
        home = Path(scratch)
        (home / "store").mkdir()
        config, ports = own_config(home, optimizes_java=True)
        mar = build(ArchiveContents(folder, MODEL, "1.0", settings), home / "store")
        oracle = Oracle.of(different_texts(n_texts), mar)
        server = ScenarioServer(Target(Live(home, config, home / "store", ports), MODEL, oracle), settings, kind)
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Suspend a process (SIGSTOP) and resume it at the end."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
