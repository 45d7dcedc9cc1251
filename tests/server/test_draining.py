"""A server that stops ends each connection with a response: what a client would send behind it would be lost."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from server.connections import BoundedConnection, uvicorn_options
from server.errors import queue_full
from server.transport import PreparedResponse

REQUEST = b"POST /predictions/m HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
FULL = PreparedResponse(queue_full(1).to_response())


class Server:
    """Connections of an application that answers when it is told to."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.is_draining = False
        self.state = ServerState()
        self.go_on = asyncio.Event()
        options = uvicorn_options((lambda _: FULL) if refuses else None, lambda: self.is_draining)
        self.config = uvicorn.Config(self, **options)
        self.config.load()

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Answer with 200."""
        await receive()
        await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    def drain(self) -> None:
        """Begin to stop, as the lifecycle does."""
        self.is_draining = True
        for connection in self.state.connections:
            assert isinstance(connection, BoundedConnection)
            connection.end_after_response()

    def connection(self) -> asyncio.Protocol:
        """Make the protocol of one connection."""
        make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return make(config=self.config, server_state=self.state, app_state={})


def responses(*parts: bytes | str, refuses: bool = False) -> list[tuple[int, bool]]:
    """Return status, and whether the connection ends, of each response that comes before the connection ends.

    Args:
        parts: what one client sends; "drain": the server begins to stop; "answer": the application goes on.
    """

    async def scenario() -> bytes:
        server = Server(refuses=refuses)
        listening = await asyncio.get_running_loop().create_server(server.connection, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        for part in parts:
            if isinstance(part, bytes):
                writer.write(part)
            elif part == "drain":
                server.drain()
            else:
                server.go_on.set()
            await asyncio.sleep(0.05)
        content = await asyncio.wait_for(reader.read(), 100)
        writer.close()
        listening.close()
        return content

    content = asyncio.run(scenario())
    heads = re.findall(rb"HTTP/1.1 (\d{3}) .*?\r\n\r\n", content, re.DOTALL)
    ends = [b"connection: close" in part for part in content.split(b"HTTP/1.1 ")[1:]]
    return [(int(status), end) for status, end in zip(heads, ends, strict=True)]


def test_what_is_computed_is_the_last_of_its_connection() -> None:
    """It was sent before the server began to stop, and its client does not send another one into the void."""
    assert responses(REQUEST, "drain", "answer") == [(200, True)]


def test_a_request_on_an_idle_connection_is_answered() -> None:
    """It came before the client could know; the connection ends with its response."""
    assert responses("answer", REQUEST, "drain", REQUEST) == [(200, False), (200, True)]
    assert responses("drain", REQUEST, refuses=True) == [(503, True)]


def test_requests_behind_another_are_answered() -> None:
    """Those that had come, and those that come while the ones before are computed."""
    assert responses(REQUEST * 3, "drain", "answer") == [(200, False), (200, False), (200, True)]
    assert responses(REQUEST, "drain", REQUEST * 2, "answer") == [(200, False), (200, False), (200, True)]
    assert responses("drain", REQUEST * 2, "answer") == [(200, False), (200, True)]
