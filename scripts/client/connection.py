"""HTTP/1.1 over kept connections, bytes in and bytes out: the blocking transport of the clients in this repository.

The load generator has its own, with an event loop (scripts/benchmark/http.py).

It repeats nothing and judges no status: that is for its callers (scripts/client/http.py for TorchServe's API). It takes
little processor time, so that a load generator on the same machine does not measure itself: a library with sessions,
hooks and cookies takes five times as much a request.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import select
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

CONNECT_S = 5.0  # to connect; an answer may take longer


@dataclass(frozen=True)
class RawResponse:
    """One response as it came."""

    status: int
    reason: str = ""
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)  # by lower-case name


class Connections:
    """Kept connections to one server: each request takes one that is idle, or a new one. Threads may share them.

    A failure is an OSError: TimeoutError, ConnectionRefusedError where nobody listens, ConnectionError where the
    connection ended before a whole response had come, or what came is not HTTP. The caller decides whether to repeat.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.surplus = 0  # times that bytes came which no request had asked for
        self._tls = _tls() if parts.scheme == "https" else None
        self._netloc = parts.netloc
        self._idle: deque[_Connection] = deque()

    def request(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> RawResponse:
        """Send one request; return its response. The timeout is for each wait for bytes, not for all of them."""
        return self.exchange(message(method, target, self._netloc, body, headers or {}), method, timeout)

    def exchange(self, request: bytes, method: str = "POST", timeout: float = 60) -> RawResponse:
        """Send the bytes of one request as they are; return its response."""
        connection = self._kept() or _Connection(self.host, self.port, self._tls)
        try:
            response = connection.exchange(request, method, timeout)
        except BaseException:
            connection.close()
            raise
        if connection.reusable:
            self._idle.append(connection)  # surplus bytes are looked for when it is taken again
        else:
            self._drop(connection)
        return response

    def close(self) -> None:
        """Close the idle connections."""
        while (connection := self._pop()) is not None:
            self._drop(connection)

    def _kept(self) -> _Connection | None:
        while (connection := self._pop()) is not None:
            if not (connection.has_surplus() or connection.has_ended()):
                return connection
            self._drop(connection)
        return None

    def _pop(self) -> _Connection | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _drop(self, connection: _Connection) -> None:
        self.surplus += connection.has_surplus()
        connection.close()


def message(method: str, target: str, host: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
    """Return the bytes of a request.

    >>> message("POST", "/predictions/toy", "127.0.0.1:8080", b"hi", {})
    b'POST /predictions/toy HTTP/1.1\\r\\nHost: 127.0.0.1:8080\\r\\nContent-Length: 2\\r\\n\\r\\nhi'
    """
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    if body is not None or method not in ("GET", "DELETE"):
        lines.append(f"Content-Length: {len(body or b'')}")
    if any(character in line for line in lines for character in "\r\n"):
        raise ValueError("a header of a request has a line break")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


class _Connection:
    """One connection: a request, its response, the next request."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self.reusable = True
        self._socket = socket.create_connection((host, port), CONNECT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname=host)
        self._received = _Received(self._socket.makefile("rb", buffering=0))

    def __del__(self) -> None:
        if hasattr(self, "_received"):
            self.close()

    def exchange(self, request: bytes, method: str, timeout: float) -> RawResponse:
        self._socket.settimeout(timeout)
        with contextlib.suppress(BrokenPipeError):  # a server that refuses a large body answers before it has read it
            self._socket.sendall(request)
        response = http.client.HTTPResponse(cast("socket.socket", self._received), method=method)
        try:
            response.begin()
            content = response.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"no whole HTTP response ({type(error).__name__})") from error
        self.reusable = not response.will_close
        headers = {name.lower(): value for name, value in response.getheaders()}
        return RawResponse(response.status, response.reason, content, headers)

    def has_surplus(self) -> bool:
        """Tell whether bytes came that belong to no response."""
        try:
            self._socket.settimeout(0)
            return bool(self._received.peek(1))
        except OSError:
            return False

    def has_ended(self) -> bool:
        """Tell whether the server closed the connection; to be asked where nothing is left to read."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        self._received.end()
        self._socket.close()


class _Received(io.BufferedReader):
    """What a connection receives; stays open after a response, where `HTTPResponse` would close its file."""

    def makefile(self, mode: str) -> _Received:
        """Be the file of the next response, with what was read already."""
        return self

    def close(self) -> None:
        """Do nothing: the next response follows."""

    def end(self) -> None:
        """Close the stream."""
        super().close()


def _tls() -> ssl.SSLContext:
    import certifi

    return ssl.create_default_context(cafile=certifi.where())
