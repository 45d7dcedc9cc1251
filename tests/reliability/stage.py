"""A server of the suite's own, started by the entrypoint of the image, with ports and a folder of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from handler.config import ModelConfig
from scripts.archives.build import build
from scripts.cli.console import ScriptError
from scripts.client.http import Inference, Management, Model
from scripts.client.server import ServerError
from tests.reliability.oracle import Exam, different_texts
from tests.support.live import Live, own_config
from tests.support.samples import ROOT

MODEL = "reliable"
START_S = 180  # within which a server must be ready, and one that was told to stop must have ended
LOOK_S = 0.1  # between two looks


@dataclass(frozen=True)
class Target:
    """One model on one server, and what it must answer."""

    live: Live
    model: str
    exam: Exam

    def message(self, number: int, key: str) -> bytes:
        """Return request `number` as bytes; its id comes back with the answer."""
        body = self.exam.body(number)
        head = (
            f"POST /predictions/{self.model} HTTP/1.1",
            "Host: 127.0.0.1",
            f"Authorization: Bearer {key}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            f"x-request-id: {number}",
        )
        return "\r\n".join([*head, "", ""]).encode() + body


class Stage:
    """One model served by one worker. Scenarios may kill what they like: `up` mends it."""

    def __init__(self, target: Target, settings: ModelConfig) -> None:
        self.target = target
        self.live = target.live
        self.settings = settings.frontend
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def queue(self) -> int:
        """How many requests may wait."""
        return self.settings.jobQueueSize or 100

    @property
    def batch(self) -> int:
        """How many requests a worker takes at once."""
        return self.settings.batchSize or 1

    @property
    def hang_s(self) -> int:
        """How long a worker may take for one batch."""
        return self.settings.responseTimeout or 120

    def up(self) -> None:
        """Start the server, unless it runs, and wait until the model answers."""
        if self.process is None or self.process.poll() is not None:
            home = self.live.run_dir
            words = ["--config", str(self.live.config), "--run-dir", str(home), "--model-store", str(self.live.store)]
            (home / "logs").mkdir(exist_ok=True)
            with (home / "logs" / "entrypoint.log").open("ab") as log:
                command = [str(ROOT / "scripts" / "serve.sh"), "run", *words, "--models", self.target.model]
                self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            self._wait_for_server(self.process)
        self.wait_for_worker()
        if problem := Inference(self.live.server).responds(self.target.model, "1.0", patience=START_S):
            raise ScriptError(f"the server of the suite does not answer: {problem}")

    def stop(self) -> int:
        """Tell the server to stop, unless it has ended; return its exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(START_S)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGTERM)  # a second one stops at once
            return self.process.wait(START_S)

    def look(self) -> Model:
        """Return what the management API says of the model."""
        return Management(self.live.server).model(self.target.model, "1.0")

    def worker(self) -> int:
        """Return the process of the worker."""
        (pid,) = self.look().pids
        return pid

    def wait_for_worker(self, instead_of: int = 0) -> int:
        """Wait until a worker other than one that was there is ready; return its process."""
        deadline = time.monotonic() + START_S + self.hang_s
        while time.monotonic() < deadline:
            with contextlib.suppress(ServerError):
                seen = self.look()
                if seen.is_ready and instead_of not in seen.pids:
                    return seen.pids[0]
            time.sleep(LOOK_S)
        raise ScriptError(f"no worker of {self.target.model} became ready; see {self.live.run_dir}/logs")

    def family(self) -> list[psutil.Process]:
        """Return Java and every process that it has started."""
        java = psutil.Process(int((self.live.run_dir / "run" / "pid").read_text()))
        return [java, *java.children(recursive=True)]

    def _wait_for_server(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                told = (self.live.run_dir / "logs" / "entrypoint.log").read_text(errors="replace")
                raise ScriptError(f"the server of the suite ended: {' '.join(told.split())[-600:]}")
            with contextlib.suppress(ServerError):
                self.look()
                return
            time.sleep(LOOK_S)
        raise ScriptError(f"the server of the suite does not start: see {self.live.run_dir}/logs")


@contextlib.contextmanager
def stage(folder: Path, settings: ModelConfig, n_texts: int) -> Iterator[Stage]:
    """Pack a model folder and answer texts by it; the server is started by whoever needs it first."""
    with tempfile.TemporaryDirectory(prefix="r-") as scratch:
        home = Path(scratch)
        (home / "store").mkdir()
        config, ports = own_config(home)
        mar = build(folder, MODEL, "1.0", settings, home / "store")
        exam = Exam.of(different_texts(n_texts), mar)
        staged = Stage(Target(Live(home, config, home / "store", ports), MODEL, exam), settings)
        try:
            yield staged
        finally:
            staged.stop()


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold a process."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
