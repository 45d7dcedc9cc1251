"""Several TorchServes behind one gateway, and clients that keep asking while one of them is away."""

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

from scripts.benchmark.accounting import Ledger
from tests.support.gateway import Gateway, running
from tests.support.live import Live, activated, own_config
from tests.support.samples import JSON_TYPE, ROOT

PATIENCE_S = 120  # that a start or a stop may take on a busy machine


@dataclass
class Replica:
    """One TorchServe in the foreground, as it runs in a container."""

    live: Live
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def within(cls, folder: Path, store: Path) -> Replica:
        """Make settings with ports of its own."""
        folder.mkdir()
        config, ports = own_config(folder)
        return cls(Live(folder, config, store, ports))

    @property
    def key_file(self) -> Path:
        """Where its keys will be."""
        return self.live.run_dir / "key_file.json"

    def start(self) -> None:
        """Start it with every model of the store."""
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
        """Wait until its models are ready."""
        starting, deadline = self.live.run_dir / "run" / "starting", time.monotonic() + PATIENCE_S
        while not self.key_file.exists() or starting.exists():
            assert self.process
            assert self.process.poll() is None, (self.live.run_dir / "output").read_text()
            assert time.monotonic() < deadline, (self.live.run_dir / "output").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it as `docker stop` does; raises where it does not end well."""
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            code = self.process.wait(PATIENCE_S)
            self.process = None
            assert code == 0, (self.live.run_dir / "output").read_text()


@contextmanager
def replicas(folder: Path, store: Path, count: int = 2) -> Iterator[tuple[Gateway, list[Replica]]]:
    """Run several servers and the gateway before them."""
    made = [Replica.within(folder / str(number), store) for number in range(count)]
    with ExitStack() as stack:
        for replica in made:
            stack.callback(replica.stop)
            replica.start()
        for replica in made:
            replica.wait()
        first, *others = [(replica.live.ports["inference_address"], replica.key_file) for replica in made]
        yield stack.enter_context(running(folder / "gateway", *first, others=others)), made


@dataclass
class Clients:
    """Threads that ask one text after the other, each once, over connections that they keep.

    They try nothing again: whatever is not the known answer stands in the ledger.
    """

    gateway: Gateway
    path: str
    texts: Sequence[str]
    ledger: Ledger
    count: int = 3
    pause_s: float = 0.1
    failures: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> Clients:
        self._next = itertools.count()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(self.count)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(30)

    def wait_for(self, answers: int) -> None:
        """Wait until so many more questions are answered."""
        wanted, deadline = self.ledger.right + answers, time.monotonic() + PATIENCE_S
        while self.ledger.right < wanted:
            assert time.monotonic() < deadline, self.ledger.to_json()
            time.sleep(0.05)

    def _ask(self) -> None:
        context = ssl.create_default_context(cafile=str(self.gateway.folder / "ca.pem"))
        connection = HTTPSConnection("localhost", self.gateway.port, timeout=60, context=context)
        headers = {"Authorization": f"Bearer {self.gateway.key}", "Content-Type": JSON_TYPE}
        while not self._stopped.wait(self.pause_s) and (index := next(self._next)) < len(self.texts):
            question = {"inputs": [self.texts[index]], "parameters": {"top_k": None}}
            status, answers = 0, None
            try:
                connection.request("POST", self.path, json.dumps(question), headers)
                response = connection.getresponse()
                status, body = response.status, response.read()
                answers = json.loads(body)
            except (OSError, HTTPException, ValueError) as error:
                self.failures[type(error).__name__] += 1
                connection.close()
            self.ledger.record([index], status, answers)
        connection.close()


def rounds() -> int:
    """How often a long run repeats: ROLLING_RESTARTS in the environment."""
    return int(os.environ.get("ROLLING_RESTARTS", "1"))
