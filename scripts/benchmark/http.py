"""HTTP client of load runs: one thread, kept connections, one request at a time on each.

An open loop has hundreds of requests in flight, for which an event loop takes less of the machine than the blocking
sockets of scripts/client/connection.py. The client retries nothing and counts bytes that no request asked for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from scripts.client.connection import RawResponse, message

TIMEOUT_S = 150.0  # of one request: a worker may hang for its responseTimeout and load again


class LoadResponse(RawResponse):
    """A response; status 0 means that none came."""

    @cached_property
    def value(self) -> Any:
        """The JSON of the content, None where it is not JSON."""
        try:
            return json.loads(self.content)
        except ValueError:
            return None

    def error(self) -> str:
        """Return status and error type, or the start of the content."""
        kind = self.value.get("type", "") if isinstance(self.value, dict) else ""
        return f"{self.status} {kind or self.content[:40].decode(errors='replace')}".strip()


@dataclass(frozen=True)
class Endpoint:
    """One model on one server, and how its requests and responses are written."""

    url: str
    headers: Mapping[str, str]
    write: Callable[[Sequence[str]], bytes]  # texts -> the body of a request
    read: Callable[[Any], Any]  # JSON of a response -> the labels with scores of each text

    @property
    def host(self) -> str:
        """Host name."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """Port, 80 where the URL has none."""
        return urlsplit(self.url).port or 80

    def message(self, texts: Sequence[str], **headers: str) -> bytes:
        """Return the bytes of one request."""
        parts = urlsplit(self.url)
        return message("POST", parts.path, parts.netloc, self.write(texts), {**self.headers, **headers})

    def answers(self, response: LoadResponse) -> Any:
        """Return the answers of a response, None where it has none."""
        try:
            return self.read(response.value) if response.status == 200 and response.value is not None else None
        except (ValueError, KeyError, TypeError):
            return None


class LoadClient:
    """Sends requests to one server. Belongs to one event loop."""

    def __init__(self, host: str, port: int, timeout_s: float = TIMEOUT_S) -> None:
        self.host, self.port, self.timeout_s = host, port, timeout_s
        self.surplus = 0  # times that bytes came without a request
        self._idle: list[_LoadConnection] = []

    async def send(self, message: bytes) -> LoadResponse:
        """Send the bytes of one request and wait for its response."""
        connection = self._idle_connection()
        if connection is None:
            try:
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: _LoadConnection(self._count), self.host, self.port
                )
            except OSError as error:
                return LoadResponse(0, content=f"no connection: {type(error).__name__}".encode())
        response = await connection.exchange(message, self.timeout_s)
        if connection.is_open:
            self._idle.append(connection)
        return response

    def close(self) -> None:
        """Close every connection."""
        while self._idle:
            self._idle.pop().close()

    def _idle_connection(self) -> _LoadConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    def _count(self) -> None:
        self.surplus += 1


class _LoadConnection(asyncio.Protocol):
    """One connection: a request, its response, the next request."""

    def __init__(self, on_surplus: Callable[[], None]) -> None:
        self.on_surplus = on_surplus
        self.is_open = True
        self._received = bytearray()
        self._awaited: asyncio.Future[LoadResponse] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a stream transport is needed")
        self._transport = transport

    async def exchange(self, message: bytes, timeout_s: float) -> LoadResponse:
        """Send a request; return its response, status 0 after `timeout_s` without one."""
        loop = asyncio.get_running_loop()
        self._awaited = loop.create_future()
        self._transport.write(message)
        timer = loop.call_later(timeout_s, self._time_out, timeout_s)
        try:
            return await self._awaited
        finally:
            timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._awaited is None:
            self.on_surplus()
            self.close()
            return
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        status, headers = _read_head(head.decode("latin-1"))
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        if len(rest) > length:
            self.on_surplus()
        if len(rest) > length or headers.get("connection", "").lower() == "close":
            self.close()
        self._received.clear()
        self._finish(LoadResponse(status, content=bytes(rest[:length]), headers=headers))

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        self._finish(LoadResponse(0, content=b"the connection ended"))

    def close(self) -> None:
        self.is_open = False
        self._transport.close()

    def _time_out(self, timeout_s: float) -> None:
        self.close()
        self._finish(LoadResponse(0, content=f"no answer within {timeout_s:g} s".encode()))

    def _finish(self, response: LoadResponse) -> None:
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(response)
        self._awaited = None


def _read_head(head: str) -> tuple[int, dict[str, str]]:
    """Read status and headers.

    >>> _read_head("HTTP/1.1 200 OK\\r\\nContent-Length: 2")
    (200, {'content-length': '2'})
    """
    first, *lines = head.split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split(" ")[1]), {name.strip().lower(): text.strip() for name, _, text in pairs}
