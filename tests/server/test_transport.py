"""Bodies and unread responses: bounded in size and time, each alone and all together."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from handler.request_state import Response
from server import transport
from server.connections import BoundedConnection
from server.errors import ApiError
from server.metrics import MetricsRegistry
from server.transport import ClientLeft, Exchange, RouteHandler

LIMIT = 100


def receive(*chunks: bytes, headers: tuple[tuple[bytes, bytes], ...] = (), complete: bool = True) -> bytes:
    """Return the body that an exchange makes of some chunks; where it is not complete, no more come."""
    waiting = list(chunks)

    async def next_message() -> dict[str, Any]:
        if not waiting:
            await asyncio.sleep(60)
        chunk = waiting.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(waiting) or not complete}

    async def send(_: Any) -> None: ...

    scope = {"type": "http", "method": "POST", "path": "/", "headers": list(headers)}
    exchange = Exchange(scope, next_message, send)
    try:
        return asyncio.run(exchange.body(LIMIT))
    finally:
        exchange.release()


def test_a_body_in_parts_is_put_together() -> None:
    """Of any size up to the limit."""
    assert receive(b"abc") == b"abc"
    assert receive(b"a" * 60, b"b" * 40) == b"a" * 60 + b"b" * 40


@pytest.mark.parametrize("chunks", [(b"a" * 101,), (b"a" * 60, b"b" * 41), (b"a" * 500, b"b"), (b"a" * 90, b"b" * 900)])
def test_a_long_body_is_refused(chunks: tuple[bytes, ...]) -> None:
    """Whether it comes at once or in parts; nothing stays counted."""
    with pytest.raises(ApiError) as refused:
        receive(*chunks)
    assert refused.value.status == 413
    assert Exchange.held == 0


@pytest.mark.parametrize("chunks", [(), (b"a",)])
def test_a_body_that_does_not_come_is_given_up(chunks: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a byte of it, or not all: the connection and its memory are not held for ever."""
    monkeypatch.setattr(transport, "BODY_S", 0.05)
    with pytest.raises(ApiError) as refused:
        receive(*chunks, complete=False)
    assert refused.value.status == 408
    assert Exchange.held == 0


def test_all_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes times requests: what comes beyond is refused at once, in any number of parts; short ones do not count."""
    monkeypatch.setattr(transport, "HELD_BYTES", 50)
    assert receive(b"a" * 90) == b"a" * 90
    monkeypatch.setattr(transport, "UNCOUNTED_BYTES", 20)
    for chunks in ((b"a" * 30, b"b" * 30), (b"a" * 51,)):
        with pytest.raises(ApiError) as refused:
            receive(*chunks)
        assert (refused.value.status, refused.value.headers) == (503, {"retry-after": "1"})
        assert Exchange.held == 0


def test_a_body_counts_until_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is parsed, waits and is computed meanwhile."""
    monkeypatch.setattr(transport, "UNCOUNTED_BYTES", 20)
    held: list[int] = []

    async def handle(exchange: Exchange) -> Response:
        await exchange.body(LIMIT)
        held.append(Exchange.held)
        return Response(b"")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"a" * 30}

    async def send(_: Any) -> None: ...

    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    asyncio.run(RouteHandler(handle, MetricsRegistry())(scope, receive, send))
    assert (held, Exchange.held) == ([30], 0)


def test_all_unread_responses_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a large response waits for its client, other large ones are refused, small ones are not."""
    monkeypatch.setattr(transport, "UNREAD_BYTES", 15_000_000)
    sizes = {"/large": 10_000_000, "/small": 100}  # of the first more than the system's buffers hold

    async def handle(exchange: Exchange) -> Response:
        return Response(b"a" * sizes[exchange.path])

    async def ask(address: Any, path: str, *, read: bool = True) -> tuple[bytes, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*address, limit=1024)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        status = await reader.readexactly(12)
        if read:
            writer.close()
        return status[-3:], writer

    async def scenario() -> list[bytes]:
        config = uvicorn.Config(RouteHandler(handle, MetricsRegistry()), lifespan="off", log_config=None)
        config.load()
        server = await asyncio.get_running_loop().create_server(
            lambda: BoundedConnection(config, ServerState(), {}), "127.0.0.1", 0
        )
        address = server.sockets[0].getsockname()
        first, deaf = await ask(address, "/large", read=False)
        assert Exchange.unread > 0
        statuses = [first, *[(await ask(address, path))[0] for path in ("/large", "/small")]]
        deaf.transport.abort()
        while Exchange.unread:
            await asyncio.sleep(0.01)
        statuses.append((await ask(address, "/large"))[0])
        while Exchange.unread:
            await asyncio.sleep(0.01)
        server.close()
        return statuses

    assert asyncio.run(asyncio.wait_for(scenario(), 100)) == [b"200", b"503", b"200", b"200"]


async def cancelled_work(events: list[str], exchange: Exchange) -> None:
    """Work for a client until it leaves."""

    async def work() -> None:
        events.append("began")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    try:
        await exchange.while_connected(work())
    except ClientLeft:
        events.append("left")


def test_nothing_is_computed_for_a_client_that_left() -> None:
    """On any ASGI server: it says so in a message."""
    events: list[str] = []

    async def disconnect() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None: ...

    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    asyncio.run(cancelled_work(events, Exchange(scope, disconnect, send)))
    assert events == ["began", "cancelled", "left"]


def test_our_connections_tell_that_a_client_left() -> None:
    """Without a task that waits for it, and with a request behind the one that is computed."""
    events: list[str] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await cancelled_work(events, Exchange(scope, receive, send))

    async def scenario() -> None:
        config = uvicorn.Config(application, lifespan="off", log_config=None)
        config.load()
        server = await asyncio.get_running_loop().create_server(
            lambda: BoundedConnection(config, ServerState(), {}), "127.0.0.1", 0
        )
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
        while not events:
            await asyncio.sleep(0.01)
        writer.transport.abort()
        while "left" not in events:
            await asyncio.sleep(0.01)
        server.close()

    asyncio.run(asyncio.wait_for(scenario(), 100))
    assert events == ["began", "cancelled", "left"]
