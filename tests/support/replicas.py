"""Run several servers behind one gateway, and clients that send requests while one of them restarts.

SERVE_SERVER in the environment chooses the kind of server, as for scripts/serve.sh.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPSConnection
from pathlib import Path

from scripts.benchmark.accounting import ExpectedScores, RequestAccounting
from tests.support.gateway import Gateway, running
from tests.support.live import Live, activated, own_config, server_kind
from tests.support.samples import JSON_TYPE, ROOT

TIMEOUT_S = 120  # of a start or a stop on a busy machine


@dataclass
class Replica:
    """One server in the foreground, as in a container."""

    live: Live
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def within(cls, folder: Path, store: Path) -> Replica:
        """Create a replica with settings for free ports."""
        folder.mkdir()
        config, ports = own_config(folder)
        return cls(Live(folder, config, store, ports))

    @property
    def key_file(self) -> Path:
        """Return the path of its key_file.json, which it writes at its start."""
        return self.live.run_dir / "key_file.json"

    def start(self) -> None:
        """Start it with all models of the store."""
        folders = {"--config": self.live.config, "--run-dir": self.live.run_dir, "--model-store": self.live.store}
        options = [str(word) for option in folders.items() for word in option]
        environment = {name: value for name, value in activated().items() if name != "PYTHONPATH"}
        with (self.live.run_dir / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [ROOT / "scripts" / "serve.sh", "run", *options, "--models", "all"],
                stdout=output,
                stderr=output,
                env=environment,
            )

    def wait(self) -> None:
        """Wait until all models are ready."""
        starting, deadline = self.live.run_dir / "run" / "starting", time.monotonic() + TIMEOUT_S
        while not self.key_file.exists() or starting.exists():
            assert self.process
            assert self.process.poll() is None, (self.live.run_dir / "output").read_text()
            assert time.monotonic() < deadline, (self.live.run_dir / "output").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it as `docker stop` does; fail unless it exits with 0."""
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            code = self.process.wait(TIMEOUT_S)
            self.process = None
            assert code == 0, (self.live.run_dir / "output").read_text()


@contextmanager
def replicas(folder: Path, store: Path, count: int = 2) -> Iterator[tuple[Gateway, list[Replica]]]:
    """Run several servers behind a gateway."""
    started = [Replica.within(folder / str(number), store) for number in range(count)]
    with ExitStack() as stack:
        for replica in started:
            stack.callback(replica.stop)
            replica.start()
        for replica in started:
            replica.wait()
        first, *others = [(replica.live.ports["inference_address"], replica.key_file) for replica in started]
        yield stack.enter_context(running(folder / "gateway", *first, others=others, kind=server_kind())), started


@dataclass
class Clients:
    """Threads that send each text once over persistent connections.

    They retry nothing: `accounting` counts the outcome of every request.
    """

    gateway: Gateway
    path: str
    texts: Sequence[str]
    expected: ExpectedScores
    accounting: RequestAccounting
    count: int = 3
    pause_s: float = 0.1
    failures: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> Clients:
        self._next = itertools.count()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._send_texts, daemon=True) for _ in range(self.count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(30)

    def wait_for(self, answers: int) -> None:
        """Wait for this many more correct responses."""
        target = self.accounting.counts["right"] + answers
        assert self.accounting.wait_for("right", target, TIMEOUT_S), self.accounting.to_json()

    def _send_texts(self) -> None:
        context = ssl.create_default_context(cafile=str(self.gateway.folder / "ca.pem"))
        connection = HTTPSConnection("localhost", self.gateway.port, timeout=60, context=context)
        headers = {"Authorization": f"Bearer {self.gateway.key}", "Content-Type": JSON_TYPE}
        while not self._stopped.wait(self.pause_s) and (index := next(self._next)) < len(self.texts):
            request = {"inputs": [self.texts[index]], "parameters": {"top_k": None}}
            status, answers = 0, None
            try:
                connection.request("POST", self.path, json.dumps(request), headers)
                response = connection.getresponse()
                status, body = response.status, response.read()
                answers = json.loads(body)
            except (OSError, HTTPException, ValueError) as error:
                self.failures[type(error).__name__] += 1
                connection.close()
            self.accounting.add(self.expected.outcomes([index], status, answers))
        connection.close()


def rounds() -> int:
    """Return the repetitions of a long run: ROLLING_RESTARTS in the environment."""
    return int(os.environ.get("ROLLING_RESTARTS", "1"))
