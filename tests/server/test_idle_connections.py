"""Connections between two requests: they end in time, whatever bytes come that begin no request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from server import connections
from server.connections import BoundedConnection

IDLE_S = 1.0  # three times a pause of the sender, which a busy machine may prolong
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a connection idle for a moment only."""
    monkeypatch.setattr(connections, "KEEP_ALIVE_S", IDLE_S)


async def refuse(_: Scope, __: Receive, send: Send) -> None:
    """Answer at once, before the body has come."""
    await send({"type": "http.response.start", "status": 400, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


async def answer_late(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer after a connection would have idled too long."""
    await asyncio.sleep(2 * IDLE_S)
    await refuse(scope, receive, send)


async def until_closed(first: bytes, then: Sequence[bytes], application: object = refuse) -> tuple[float, int, int]:
    """Send bytes, then more with pauses, until the server ends the connection.

    Returns:
        The seconds that it took, how many answers came, and how many parts were not sent yet.
    """
    config = uvicorn.Config(application, http=BoundedConnection, lifespan="off", log_config=None)  # type: ignore[arg-type]
    config.load()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: BoundedConnection(config, ServerState(), {}), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    began = time.monotonic()
    writer.write(first)
    left = list(then)
    sending = loop.create_task(send_slowly(writer, left))
    try:
        content = await asyncio.wait_for(reader.read(), 100)
        return time.monotonic() - began, content.count(b"HTTP/1.1 400"), len(left)
    finally:
        sending.cancel()
        writer.close()
        server.close()


async def send_slowly(writer: asyncio.StreamWriter, parts: list[bytes]) -> None:
    """Send parts, each a moment after the one before, and remove them."""
    while parts:
        await asyncio.sleep(IDLE_S / 3)
        writer.write(parts.pop(0))


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (GET, []),
        (GET, [b"\r\n"] * 60),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", [b"1\r\na\r\n"] * 60),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n", [b"a"] * 60),
    ],
    ids=["nothing", "line ends", "chunks of a refused body", "the rest of a refused body"],
)
def test_what_begins_no_request_does_not_hold_a_connection(first: bytes, then: list[bytes]) -> None:
    """Anybody could hold as many as there are, without a key, with a byte a minute."""
    seconds, n_answers, n_left = asyncio.run(until_closed(first, then))
    assert n_answers == 1
    assert seconds > IDLE_S * 0.9
    assert n_left > 0 or not then, "it ended while the client still sent"


def test_another_request_is_answered() -> None:
    """Each in time, and then the connection may idle again."""
    seconds, n_answers, _ = asyncio.run(until_closed(GET, [GET] * 6))
    assert n_answers == 7
    assert seconds > IDLE_S * 2.5


def test_a_request_that_is_computed_is_not_idle() -> None:
    """It may take its time, and so may the one that was sent behind it."""
    _, n_answers, _ = asyncio.run(until_closed(GET + GET, [], answer_late))
    assert n_answers == 2
