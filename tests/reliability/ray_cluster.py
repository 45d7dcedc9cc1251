"""Try deploy/ray/serve.yaml: two nodes of a Ray cluster on this machine; replicas are killed and replaced under load.

    pip install -r requirements/ray-serve.txt -c requirements/constraints.txt
    python -m tests.reliability.ray_cluster [--kills 2] [--model-store model_store] [--archive intents.mar]

Nodes are started by `ray start` and the application by `serve deploy`, from the file as it is but for the port of HTTP
and the archive. Each request has a text whose answer is computed before, from the same archive. Ray answers requests of
a replica that dies with 500 and repeats none: the clients send those again, and count them. Exit code 1: an invariant
is violated.
"""

from __future__ import annotations

from scripts.cli.command import run

import argparse
import contextlib
import http.client
import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import requests

from scripts.benchmark.accounting import OK
from scripts.cli.console import ROOT, ScriptError, say
from scripts.cli.options import natural_int, path_name
from scripts.client.ports import free_ports
from tests.reliability.oracle import Oracle, different_texts

FILE = ROOT / "deploy" / "ray" / "serve.yaml"
KEY = "a-key-of-this-trial-for-a-cluster-of-two-nodes"
N_NODES = 2  # of one core each, so that each has one replica
N_TEXTS = 1000
N_CLIENTS = 4
START_S = 300.0  # within which nodes and replicas must be there
AGAIN_S = 0.1  # after which a client sends a request again


def main() -> int:
    """Run the trial and report it."""
    arguments = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the nodes are ended
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        trial = Trial(Path(folder), arguments.model_store.resolve(), arguments.archive)
        with trial.cluster():
            trial.deploy("config.properties")
            trial.wait_for_replicas()
            held = [trial.killed() for _ in range(arguments.kills)]
            held.append(trial.deployed_again())
    return 0 if all(held) else 1


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.reliability.ray_cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--kills", type=natural_int, default=2, metavar="N", help="replicas that are killed (default: 2)"
    )
    parser.add_argument("--model-store", type=path_name, default=ROOT / "model_store", metavar="DIR")
    parser.add_argument("--archive", default="intents.mar", metavar="FILE", help="of the store (default: intents.mar)")
    return parser


class Trial:
    """A cluster in a folder of its own, which looks to every node as the repository does."""

    def __init__(self, folder: Path, store: Path, archive: str) -> None:
        """Lay out what the arguments of the deployment name."""
        if not (store / archive).is_file():
            raise ScriptError(f"no {archive} in {store}: run scripts/quickstart.sh, or name another one")
        self.folder, self.archive = folder, archive
        self.port, self.gcs, self.dashboard, *self._agents = free_ports(3 + 5 * N_NODES)
        self.path = f"/predictions/{archive.removesuffix('.mar')}"
        self.token = secrets.token_hex(32)
        self.oracle = Oracle.of(different_texts(N_TEXTS), store / archive)
        self._sent = itertools.count()
        self._nodes: list[subprocess.Popen[bytes]] = []
        (folder / "model_store").symlink_to(store)
        for name in ("config.properties", "other.properties"):
            shutil.copy(ROOT / "config.properties", folder / name)
        (folder / "key_file.json").write_text(json.dumps({"inference": {"key": KEY}}))

    @contextlib.contextmanager
    def cluster(self) -> Iterator[None]:
        """Run the nodes."""
        with contextlib.ExitStack() as stack:
            for number in range(N_NODES):
                stack.enter_context(self._node(number))
                if number == 0:
                    self._wait("the head of the cluster", lambda: _listens(self.gcs) and _listens(self.dashboard))
            yield

    @contextlib.contextmanager
    def _node(self, number: int) -> Iterator[None]:
        first = number == 0
        ports = self._agents[5 * number : 5 * number + 5]
        names = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port")
        options = [f"--{name}={port}" for name, port in zip((*names, "metrics-export-port"), ports, strict=False)]
        if first:
            options += ["--head", f"--port={self.gcs}", f"--dashboard-port={self.dashboard}"]
            options += [f"--ray-client-server-port={ports[4]}", f"--temp-dir={self.folder / 't'}"]
        else:
            options += [f"--address=127.0.0.1:{self.gcs}"]
        options += ["--node-ip-address=127.0.0.1", "--num-cpus=1", "--object-store-memory=100000000", "--block"]
        with (self.folder / f"node-{number}.log").open("wb") as log:
            command = [*_program("ray"), "start", *options, "--disable-usage-stats"]
            node = subprocess.Popen(command, cwd=self.folder, env=environment(self.token), stdout=log, stderr=log)
            self._nodes.append(node)
            try:
                yield
            finally:
                self._nodes.remove(node)
                with contextlib.suppress(psutil.NoSuchProcess):  # it has ended
                    family = psutil.Process(node.pid).children(recursive=True)
                    node.terminate()
                    _, alive = psutil.wait_procs(family, timeout=20)
                    for process in alive:
                        process.kill()
                node.wait()

    def deploy(self, config: str) -> None:
        """Deploy the file of the repository."""
        text = FILE.read_text(encoding="utf-8")
        for old, new in (
            ("port: 8000", f"port: {self.port}"),
            ("models: [intents.mar]", f"models: [{self.archive}]"),
            ("config: config.properties", f"config: {config}"),
        ):
            if old not in text:
                raise ScriptError(f"{FILE} has no {old!r}: this trial changes it")
            text = text.replace(old, new)
        (self.folder / "serve.yaml").write_text(text)
        command = [*_program("serve"), "deploy", "serve.yaml", "--address", f"http://127.0.0.1:{self.dashboard}"]

        def is_deployed() -> bool:
            done = subprocess.run(
                command, cwd=self.folder, env=environment(self.token), capture_output=True, text=True, check=False
            )
            if done.returncode and "ConnectionError" not in done.stderr:  # the dashboard answers some time later
                raise ScriptError(f"serve deploy ended with {done.returncode}: {done.stderr[-600:]}")
            return done.returncode == 0

        self._wait("the dashboard", is_deployed)

    def replicas(self) -> set[int]:
        """Return the processes of the replicas that run."""
        url = f"http://127.0.0.1:{self.dashboard}/api/serve/applications/"
        with contextlib.suppress(requests.RequestException, KeyError):  # not there yet
            answer = requests.get(url, headers={"Authorization": f"Bearer {self.token}"}, timeout=30).json()
            deployment = answer["applications"]["bert"]["deployments"]["bert"]
            return {replica["pid"] for replica in deployment["replicas"] if replica["state"] == "RUNNING"}
        return set()

    def wait_for_replicas(self, instead_of: int = 0) -> None:
        """Wait until there are as many replicas as nodes, and an answer."""
        self._wait("replicas", lambda: len(self.replicas() - {instead_of}) >= N_NODES)
        self._wait("an answer", lambda: self.ask(0) == "right")

    def ask(self, number: int) -> str:
        """Send one request; return its outcome."""
        index = self.oracle.index(number)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        try:
            connection.request("POST", self.path, self.oracle.body(index), headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__
        finally:
            connection.close()
        if response.status != OK:
            return str(response.status)
        (scores,) = json.loads(content)
        (expected,) = self.oracle.versions.values()
        return "right" if expected.matches(index, scores) else "wrong"

    def killed(self) -> bool:
        """Kill a replica under load; return whether the invariants hold."""
        with self._load() as load:
            time.sleep(2)
            pid = min(self.replicas())
            os.kill(pid, signal.SIGKILL)
            began = time.monotonic()
            self.wait_for_replicas(instead_of=pid)
            away = time.monotonic() - began
            time.sleep(2)
        return load.report(f"a replica killed, another one after {away:.1f} s")

    def deployed_again(self) -> bool:
        """Deploy with another argument under load, so that every replica is replaced."""
        before = self.replicas()
        with self._load() as load:
            self.deploy("other.properties")
            self._wait(
                "other replicas", lambda: len(self.replicas() - before) >= N_NODES and not self.replicas() & before
            )
            time.sleep(2)
        return load.report("deployed again, every replica replaced") and not load.again

    @contextlib.contextmanager
    def _load(self) -> Iterator[Load]:
        load = Load(self, self._sent)
        threads = [threading.Thread(target=load.send) for _ in range(N_CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield load
        finally:
            load.over.set()
            for thread in threads:
                thread.join()

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_S
        while not condition():
            if any(node.poll() is not None for node in self._nodes) or time.monotonic() > deadline:
                logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in self.folder.glob("node-*.log"))
                raise ScriptError(f"{what}: not there within {START_S:.0f} s, or a node ended:\n{logs}")
            time.sleep(0.2)


@dataclass
class Load:
    """Clients that send one request after the other, and again what Ray answered with an error."""

    trial: Trial
    numbers: Iterator[int]
    over: threading.Event = field(default_factory=threading.Event)
    outcomes: Counter[str] = field(default_factory=Counter)  # of requests, in the end
    again: Counter[str] = field(default_factory=Counter)  # why they were sent again
    slowest_s: float = 0.0

    def send(self) -> None:
        """Send requests until the end."""
        while not self.over.is_set():
            number, began = next(self.numbers), time.monotonic()
            while (outcome := self.trial.ask(number)) not in ("right", "wrong"):
                self.again[outcome] += 1
                if time.monotonic() - began > START_S:
                    break
                time.sleep(AGAIN_S)
            self.outcomes[outcome] += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    def report(self, what: str) -> bool:
        """Say what happened; return whether all were answered rightly in the end, after 500 or 503 at most."""
        again = ", ".join(f"{count} times {reason}" for reason, count in self.again.items()) or "none"
        say(f"{what}: {dict(self.outcomes)}, sent again: {again}, slowest {self.slowest_s:.1f} s")
        return set(self.outcomes) == {"right"} and set(self.again) <= {"500", "503"}


def environment(token: str) -> dict[str, str]:
    """Return the environment of Ray's commands, which ask for this token, whatever the home folder has."""
    authentication = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    return {**os.environ, **authentication, "PYTHONPATH": str(ROOT), "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}


def _program(name: str) -> list[str]:
    program = Path(sys.executable).parent / name
    if not program.is_file():
        raise ScriptError(f"no {name} beside {sys.executable}: install requirements/ray-serve.txt")
    return [sys.executable, str(program)]  # not by its first line, which a copied environment has from another one


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    run(main)
