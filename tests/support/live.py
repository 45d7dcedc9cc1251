"""A live TorchServe of this project's configuration, on ports and in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from grpc import insecure_channel

from handler.metrics_queue import INTERVAL_S
from scripts.client.http import Inference, Management
from scripts.client.ports import with_free_ports
from scripts.client.server import Server
from tests.support.samples import JSON_TYPE, ROOT

COUNTED_S = 60  # within which a metric must have counted, on a busy machine


@dataclass(frozen=True)
class Live:
    """One running server and how to ask it."""

    run_dir: Path
    config: Path
    store: Path
    ports: Mapping[str, int]
    quickstart: str = ""  # what scripts/quickstart.sh printed

    @property
    def server(self) -> Server:
        """Return the server as the scripts see it."""
        return Server.read(self.config, self.run_dir)

    @property
    def url(self) -> str:
        """Return the address of the inference API."""
        return self.server.inference

    @property
    def key(self) -> str:
        """Return the key of the inference API."""
        return Inference(self.server).key()

    def post(self, path: str, content: Any = None, content_type: str | None = JSON_TYPE, **more: Any) -> Any:
        """Send one request with the server's key."""
        headers = {"Authorization": f"Bearer {self.key}", **more.pop("headers", {})}
        if content_type is not None:
            headers["Content-Type"] = content_type
        return requests.post(self.url + path, data=content, headers=headers, timeout=60, **more)

    def grpc(self, model: str, body: bytes) -> bytes:
        """Call Predictions with a message written by hand: model_name = 1, input map = 3 {key = 1, value = 2}."""

        def field(number: int, content: bytes) -> bytes:
            return bytes([number << 3 | 2]) + varint(len(content)) + content

        def varint(number: int) -> bytes:
            low, rest = number & 127, number >> 7
            return bytes([low | 128]) + varint(rest) if rest else bytes([low])

        message = field(1, model.encode()) + field(3, field(1, b"data") + field(2, body))
        with insecure_channel(f"127.0.0.1:{self.ports['grpc_inference_port']}") as channel:
            call = channel.unary_unary("/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions")
            answer: bytes = call(message, metadata=[("protocol", "gRPC"), ("authorization", f"Bearer {self.key}")])
        length, at, shift = 0, 1, 0  # field 1, bytes
        while True:
            length |= (answer[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if answer[at - 1] < 128:
                return answer[at : at + length]

    def script(self, name: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of the project's scripts against this server."""
        command = [
            str(ROOT / "scripts" / name),
            *arguments,
            "--config",
            str(self.config),
            "--run-dir",
            str(self.run_dir),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=activated(), cwd=ROOT)
        assert done.returncode == 0 or not check, f"{name} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done

    def worker_pids(self, model: str) -> tuple[int, ...]:
        """Return the processes that serve a model."""
        return tuple(pid for version in Management(self.server).versions(model) for pid in version.pids)

    def log(self) -> str:
        """Return everything that was logged."""
        return "".join(
            path.read_text(errors="replace") for path in (self.run_dir / "logs").rglob("*") if path.is_file()
        )

    def metric(self, name: str, **labels: str) -> float:
        """Return one number of the metrics port; 0 where it has not been counted yet."""
        text = requests.get(f"http://127.0.0.1:{self.ports['metrics_address']}/metrics", timeout=10).text
        for line in text.splitlines():
            if line.startswith(f"{name}{{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def steady_metric(self, name: str, **labels: str) -> float:
        """Return a metric after what came before was counted: a worker hands it over a few times a second."""
        before, value = -1.0, self.metric(name, **labels)
        while before != value:
            time.sleep(3 * INTERVAL_S)
            before, value = value, self.metric(name, **labels)
        return value

    def wait_for_metric(self, name: str, at_least: float, **labels: str) -> float:
        """Wait until a counter got there: TorchServe reads them from the worker's output, a moment later."""
        deadline = time.monotonic() + COUNTED_S
        while (value := self.metric(name, **labels)) < at_least and time.monotonic() < deadline:
            time.sleep(0.1)
        return value


def activated() -> dict[str, str]:
    """Return the environment as `source .venv/bin/activate` makes it."""
    return {**os.environ, "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"}


def server_kind() -> str:
    """Return the kind of server that scripts/serve.sh starts without --server: SERVE_SERVER in the environment."""
    return os.environ.get("SERVE_SERVER", "torchserve")


def own_config(folder: Path, *, optimizes_java: bool = False) -> tuple[Path, dict[str, int]]:
    """Copy config.properties with free ports and a number range for worker sockets.

    Args:
        optimizes_java: whether Java compiles its code for speed, as it does by default. A server that is not measured
            starts with 1.7 instead of 3.1 seconds of a core without (2026-11).
    """
    text, ports = with_free_ports((ROOT / "config.properties").read_text(encoding="utf-8"))
    if not optimizes_java:
        text = text.replace("\nvmargs=", "\nvmargs=-XX:TieredStopAtLevel=1 ")
    config = folder / "config.properties"
    config.write_text(text, encoding="utf-8")
    return config, ports
