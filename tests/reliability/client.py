"""HTTP that takes little of the machine: one thread, kept connections, one request at a time on each.

It tries nothing again: what became of each request is what the suite wants to know.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

PATIENCE_S = 150.0  # for one answer: a worker may hang for its responseTimeout and load again


@dataclass(frozen=True)
class Answer:
    """What came back; status 0 is nothing."""

    status: int
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)  # by lower-case name

    @cached_property
    def value(self) -> Any:
        """The JSON of the content, None where there is none."""
        try:
            return json.loads(self.content)
        except ValueError:
            return None

    def reason(self) -> str:
        """Say in short why there is no result."""
        kind = self.value.get("type", "") if isinstance(self.value, dict) else ""
        return f"{self.status} {kind or self.content[:40].decode(errors='replace')}".strip()


class Client:
    """Sends requests to one server. Belongs to one event loop."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.surplus = 0  # times that bytes came which nobody had asked for
        self._idle: list[_Connection] = []

    async def send(self, message: bytes) -> Answer:
        """Send the bytes of one request and wait for its answer."""
        connection = self._kept()
        if connection is None:
            try:
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self._count), self.host, self.port
                )
            except OSError as error:
                return Answer(0, f"no connection: {type(error).__name__}".encode())
        try:
            answer = await asyncio.wait_for(connection.exchange(message), PATIENCE_S)
        except asyncio.TimeoutError:
            connection.close()
            return Answer(0, f"no answer within {PATIENCE_S:g} s".encode())
        if connection.is_open:
            self._idle.append(connection)
        return answer

    def close(self) -> None:
        """End every connection."""
        while self._idle:
            self._idle.pop().close()

    def _kept(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    def _count(self) -> None:
        self.surplus += 1


class _Connection(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self, surplus: Callable[[], None]) -> None:
        self.surplus = surplus
        self.is_open = True
        self._received = bytearray()
        self._awaited: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    async def exchange(self, message: bytes) -> Answer:
        """Send a request; return its answer."""
        self._awaited = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        return await self._awaited

    def data_received(self, data: bytes) -> None:
        if self._awaited is None:
            self.surplus()
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
            self.surplus()
        if len(rest) > length or headers.get("connection", "").lower() == "close":
            self.close()
        self._received.clear()
        self._finish(Answer(status, bytes(rest[:length]), headers))

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        self._finish(Answer(0, b"the connection ended"))

    def close(self) -> None:
        self.is_open = False
        self._transport.close()

    def _finish(self, answer: Answer) -> None:
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(answer)
        self._awaited = None


def _read_head(head: str) -> tuple[int, dict[str, str]]:
    """Read status and headers.

    >>> _read_head("HTTP/1.1 200 OK\\r\\nContent-Length: 2")
    (200, {'content-length': '2'})
    """
    first, *lines = head.split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(first.split(" ")[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}
