"""HTTP connections with limits: the head of a request is bounded in size and time, which uvicorn leaves to a proxy."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from handler.protocol import serialize_value

MAX_HEAD_BYTES = 32_768  # of the request line and all headers
HEAD_S = 30.0  # from the first byte of a request to the end of its headers, and for the first byte of a connection
KEEP_ALIVE_S = 75  # of an idle connection: longer than a gateway keeps its own


class BoundedConnection(HttpToolsProtocol):
    """One connection; it ends when a head is too long or does not come."""

    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _idle_timer: asyncio.TimerHandle | None = (
        None  # uvicorn's own ends with any byte, also with one that begins no head
    )

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect the first head."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._head_arrived()
        self._end_idling()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Count a new head."""
        self._head_bytes = 0
        self._end_idling()
        if self._head_timer is None:
            self._expect_head()
        super().on_message_begin()

    def on_response_complete(self) -> None:
        """Expect another request: line ends, or the rest of a body that was refused, are none."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():  # no other one was sent already
            self._end_idling()
            self._idle_timer = self.loop.call_later(KEEP_ALIVE_S, self._give_up)

    def on_url(self, url: bytes) -> None:
        """Count a part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand the request on, unless its head was too long."""
        self._head_arrived()
        if self._head_bytes <= MAX_HEAD_BYTES:
            super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Read bytes; a head that grows without an end is refused."""
        if self.transport.is_closing():
            return
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the shape of every error."""
        if not self.transport.is_closing():
            self._refuse(400, b"Bad Request", "MalformedRequest", "no valid HTTP/1.1 request")

    def _count(self, n_bytes: int) -> None:
        self._head_bytes += n_bytes
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            message = f"request line and headers have more than {MAX_HEAD_BYTES} bytes"
            self._refuse(431, b"Request Header Fields Too Large", "HeadersTooLarge", message)

    def _refuse(self, status: int, phrase: bytes, kind: str, message: str) -> None:
        content = serialize_value({"code": status, "type": kind, "message": message})
        head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (status, phrase, len(content)) + content)
        self.transport.close()

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_S, self._give_up)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_idling(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()


def uvicorn_options() -> dict[str, Any]:
    """Return the options of uvicorn that every port shares."""
    return {
        "http": BoundedConnection,
        "ws": "none",
        "lifespan": "off",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "date_header": False,
        "timeout_keep_alive": KEEP_ALIVE_S,
        "backlog": 2048,
    }
