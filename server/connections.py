"""HTTP connections with limits: the head of a request is bounded in size and time, which uvicorn leaves to a proxy.

What two programs could read differently is refused (RFC 9112, section 11.2); an upgrade to another protocol is ignored,
as RFC 9110 allows and Java's HTTP client, which offers HTTP/2 with every first request, expects.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from handler.protocol import serialize_value
from server.transport import NOTIFY_LEFT, Exchange, PreparedResponse

MAX_HEAD_BYTES = 32_768  # of the request line and all headers
HEADER_ENDS = 4  # bytes of `: ` and the line end
HEAD_S = 30.0  # from the first byte of a request to the end of its headers, and for the first byte of a connection
KEEP_ALIVE_S = 75  # of an idle connection: longer than a gateway keeps its own
MAX_UNREAD_BYTES = 65_536  # of the body of a request that is refused by its headers
MAX_PIPELINED = 32  # requests behind one that is not answered yet; after them the connection ends
STALLED_S = 30.0  # without progress, after which the system ends a connection whose client does not read
VERSIONS = ("1.0", "1.1")
SINGLE = (
    b"host",
    b"authorization",
    b"content-type",
    b"content-encoding",
)  # one program reads the first, another the last
FRAMING = (b"transfer-encoding", b"expect")  # headers of a body whose length is not known or that is not sent yet
HOP_BY_HOP = (b"upgrade", b"http2-settings")  # what an upgrade consists of, apart from `connection`

Refuse = Callable[[Scope], "PreparedResponse | None"]


class _FullError(Exception):
    """Ends the parsing of a connection on which too many requests wait."""


class BoundedConnection(HttpToolsProtocol):
    """One connection; it ends when a head is too long or does not come."""

    _head_bytes = 0
    _deadline = math.inf  # of the head, or of the next request: uvicorn's own ends with any byte that begins no head
    _in_head = False
    _timer: asyncio.TimerHandle | None = None  # one for all requests: to set one costs more than to look at the time
    _n_unread = 0  # bytes of responses that the client does not read, once they are more than a buffer
    _is_refused = False  # by its headers: its body is not read
    _is_full = False  # as many requests wait as may: what comes behind them is not read
    _ending: RequestResponseCycle | None = None  # with whose response the connection ends, because the server stops
    _running: RequestResponseCycle | None = None  # begun last; uvicorn's `cycle` is the request that came last

    def __init__(
        self,
        *arguments: Any,
        refuse: Refuse | None = None,
        is_draining: Callable[[], bool] = bool,
        **named: Any,
    ) -> None:
        """Make a connection.

        Args:
            refuse: returns the response to a request that is refused by its headers; its scope has method, path and
                headers. None: the application answers.
            is_draining: tells whether the server stops: each response then ends its connection.
        """
        super().__init__(*arguments, **named)
        self._refuse_early, self._is_draining = refuse, is_draining
        self._on_left: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect the first head."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer, and tell who computes for the client."""
        self._deadline, self._in_head = math.inf, False
        if self._timer is not None:
            self._timer.cancel()
        self._count_unread(0)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)
        if self._on_left is not None:
            self._on_left()

    def pause_writing(self) -> None:
        """Count what the client does not read."""
        super().pause_writing()
        self._count_unread(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Count it no longer."""
        super().resume_writing()
        self._count_unread(0)

    def _count_unread(self, n_bytes: int) -> None:
        Exchange.unread += n_bytes - self._n_unread
        self._n_unread = n_bytes

    def on_message_begin(self) -> None:
        """Count a new head."""
        self._head_bytes, self._is_refused = 0, False
        if not self._in_head:
            self._expect_head()
        super().on_message_begin()
        self.scope["extensions"] = {NOTIFY_LEFT: {"notify": self._notify_left}}

    def on_response_complete(self) -> None:
        """Begin the next request that came behind this one, or expect another.

        As uvicorn's, without its timer for idle connections: `_look` ends them.
        """
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self.cycle.response_complete:  # line ends, or the rest of a body that was refused, are no request
            self._deadline = self.loop.time() + KEEP_ALIVE_S

    def on_headers_complete(self) -> None:
        """Hand the request on, unless its head was too long, its framing is ambiguous, or it is parsed again."""
        self._deadline, self._in_head = math.inf, False
        if self._count(0) or self.parser.should_upgrade():
            return
        if self.parser.get_http_version() not in VERSIONS or self._is_ambiguous():
            self.send_400_response("")
            return
        if response := self._early_refusal():
            self._answer(response)
            return
        if len(self.pipeline) == MAX_PIPELINED:
            self.cycle.keep_alive = False  # of the last one that waits: clients send the others again
            self._is_full = self._is_refused = True
            raise _FullError
        super().on_headers_complete()
        if self._is_draining():
            self.end_after_response()

    def end_after_response(self) -> None:
        """End the connection with the response to the last request that has come; one without a request stays."""
        if self._ending is not None and self._ending is not self.cycle:
            self._ending.keep_alive = True  # another one has come behind it
        if self.cycle is not None and not self.cycle.response_complete and self.cycle.keep_alive:
            self.cycle.keep_alive, self._ending = False, self.cycle

    def on_url(self, url: bytes) -> None:
        """Count a part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, or a trailer, with what stands between and behind."""
        self._count(len(name) + len(value) + HEADER_ENDS)
        super().on_header(name, value)

    def on_message_complete(self) -> None:
        """Complete the request, unless it was refused or is parsed again."""
        if not self._is_refused and not self.transport.is_closing() and not self.parser.should_upgrade():
            super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        """Hand a part of the body on, unless the request was refused."""
        if not self._is_refused and not self.transport.is_closing():
            super().on_body(body)

    def data_received(self, data: bytes) -> None:
        """Read bytes; a head that grows without an end is refused."""
        rest = data
        while rest and not self._is_full and not self.transport.is_closing():
            try:
                self.parser.feed_data(rest)
                rest = b""
            except httptools.HttpParserUpgrade as upgrade:
                rest = self._without_upgrade(rest[upgrade.args[0] :])
            except httptools.HttpParserError:
                if not self._is_full:
                    self.send_400_response("")
        if self._in_head and not self._is_full:  # the parser keeps what it has of a header to itself until the next one
            self._count(len(data))

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the shape of every error."""
        if not self.transport.is_closing():
            self._refuse(400, b"Bad Request", "MalformedRequest", "no valid HTTP/1.1 request")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _notify_left(self, call: Callable[[], None] | None) -> None:
        """Let a function be called when the client of the request that runs leaves; None: no longer."""
        self._on_left = call
        self.flow.resume_reading()  # another request that came behind it paused that: the end would not be seen

    def _early_refusal(self) -> PreparedResponse | None:
        """Return the response to a request whose body need not be read; only a short one is skipped."""
        path, _, _ = self.url.partition(b"?")
        is_next = self.cycle is None or self.cycle.response_complete  # no earlier one waits for its response
        if self._refuse_early is None or not is_next or b"%" in path or self.parser.get_http_version() != "1.1":
            return None
        headers = dict(self.headers)
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MAX_UNREAD_BYTES or any(name in headers for name in FRAMING):
            return None
        method, words = self.parser.get_method().decode("ascii"), path.decode("latin-1")
        return self._refuse_early({"type": "http", "method": method, "path": words, "headers": self.headers})

    def _answer(self, response: PreparedResponse) -> None:
        """Write a response, and skip the body of its request."""
        self._is_refused = True
        self.server_state.total_requests += 1
        is_last = not self.parser.should_keep_alive() or self._is_draining()
        self.transport.write(response.written(is_last=is_last))
        if is_last:
            self.transport.close()
        else:
            self._deadline = self.loop.time() + KEEP_ALIVE_S

    def _is_ambiguous(self) -> bool:
        """Tell whether another program could see another host, key or type, or another end of the body."""
        names = [name for name, _ in self.headers]
        if any(names.count(name) > 1 for name in SINGLE):
            return True
        is_old = self.parser.get_http_version() == "1.0"
        return b"transfer-encoding" in names if is_old else b"host" not in names

    def _without_upgrade(self, rest: bytes) -> bytes:
        """Return the request as if it did not ask for another protocol: the parser would leave its body out.

        Args:
            rest: the bytes behind the head.
        """
        method = self.parser.get_method()
        if method == b"CONNECT" or self.transport.is_closing():
            self.send_400_response("")
            return b""
        lines = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                value = b", ".join(word for word in value.split(b",") if word.strip().lower() not in HOP_BY_HOP)
            if name not in HOP_BY_HOP:
                lines.append(name + b": " + value)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        return b"\r\n".join(lines) + b"\r\n\r\n" + rest

    def _count(self, n_bytes: int) -> bool:
        """Add to the bytes of the head; refuse it and return True when it has too many."""
        self._head_bytes += n_bytes
        is_long = self._head_bytes > MAX_HEAD_BYTES
        if is_long and not self.transport.is_closing():
            message = f"request line and headers have more than {MAX_HEAD_BYTES} bytes"
            self._refuse(431, b"Request Header Fields Too Large", "HeadersTooLarge", message)
        return is_long

    def _refuse(self, status: int, phrase: bytes, kind: str, message: str) -> None:
        content = serialize_value({"code": status, "type": kind, "message": message})
        head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (status, phrase, len(content)) + content)
        self.transport.close()

    def _expect_head(self) -> None:
        self._deadline, self._in_head = self.loop.time() + HEAD_S, True
        if self._timer is None:
            self._look_later()

    def _look_later(self) -> None:
        """Look at the deadline when it may have passed: no deadline that is set meanwhile can be earlier."""
        soonest = self.loop.time() + min(HEAD_S, KEEP_ALIVE_S)
        self._timer = self.loop.call_at(min(self._deadline, soonest), self._look)

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        if self.loop.time() >= self._deadline:
            self.transport.close()
        else:
            self._look_later()


def end_stalled(listening: socket.socket) -> None:
    """Let the system end connections of this port whose clients stop reading: closing would wait for them for ever."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; accepted connections inherit it
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALLED_S * 1000))


def uvicorn_options(refuse: Refuse | None = None, is_draining: Callable[[], bool] = bool) -> dict[str, Any]:
    """Return the options of uvicorn for a port.

    Args:
        refuse, is_draining: see `BoundedConnection`.
    """
    return {
        "http": partial(BoundedConnection, refuse=refuse, is_draining=is_draining),
        "ws": "none",
        "lifespan": "off",
        "log_config": None,
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "date_header": False,
        "timeout_keep_alive": KEEP_ALIVE_S,
        "backlog": 2048,
    }
