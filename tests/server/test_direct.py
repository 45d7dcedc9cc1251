"""Responses and bodies without ASGI's messages: the same bytes, and messages wherever an application must see them."""

from __future__ import annotations

import asyncio
import re

import pytest
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.server import ServerState

from handler.request_state import Response
from server.connections import BoundedConnection
from server.direct import head_of
from server.errors import too_large
from server.metrics import MetricsRegistry
from server.transport import Exchange, RouteHandler

LIMIT = 1_000_000
LONG = b"as if it were too long"


async def echo(exchange: Exchange) -> Response:
    """Answer with the body; one of them is said to be too long."""
    content = await exchange.body(LIMIT)
    if content == LONG:
        raise too_large(LIMIT)
    return Response(content, headers={"x-own": "a\tb"})


ROUTE = RouteHandler(echo, MetricsRegistry())


class Seen:
    """An application around a route that sees every message."""

    def __init__(self) -> None:
        self.types: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def note_received() -> Message:
            message = await receive()
            self.types.append(message["type"])
            return message

        async def note_sent(message: Message) -> None:
            self.types.append(message["type"])
            await send(message)

        await ROUTE(scope, note_received, note_sent)


def exchanged(application: ASGIApp, *parts: bytes) -> bytes:
    """Return all that a connection answers to what is sent in parts, with the same identity in each response."""

    async def scenario() -> bytes:
        config = uvicorn.Config(
            application, lifespan="off", log_config=None, server_header=False, date_header=False, access_log=False
        )
        config.load()
        server = await asyncio.get_running_loop().create_server(
            lambda: BoundedConnection(config, ServerState(), {}), "127.0.0.1", 0
        )
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0.05)
        content = await asyncio.wait_for(reader.read(), 100)
        writer.close()
        server.close()
        return content

    return re.sub(rb"x-request-id: [0-9a-f-]{36}", b"x-request-id: ID", asyncio.run(scenario()))


def request(body: bytes = b"", *, method: str = "POST", version: str = "1.1", close: bool = False) -> bytes:
    """Return one request."""
    lines = [f"{method} / HTTP/{version}", "Host: a", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *(["Connection: close"] if close else []), "", ""]).encode() + body


@pytest.mark.parametrize(
    "parts",
    {
        "one": (request(b"abc", close=True),),
        "no body": (request(close=True),),
        "an older client": (request(b"abc", version="1.0"),),
        "without content": (request(b"abc", method="HEAD", close=True),),
        "pipelined": (request(b"one") + request(b"two") + request(b"three", close=True),),
        "in parts": (request(b"abcdef", close=True)[:-3], b"def"),
        "long": (request(b"a" * 200_000, close=True),),
        "on one connection": (request(b"one"), request(b"two", close=True)),
    }.values(),
    ids=["one", "no body", "older", "head", "pipelined", "in parts", "long", "kept"],
)
def test_the_bytes_are_those_of_messages(parts: tuple[bytes, ...]) -> None:
    """An application in between sees every message, and a client cannot tell the difference."""
    seen = Seen()
    expected = exchanged(seen, *parts)
    assert expected.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: ID\r\n")
    assert {"http.request", "http.response.start", "http.response.body"} <= set(seen.types)
    assert exchanged(ROUTE, *parts) == expected


def test_an_error_that_ends_its_connection_does() -> None:
    """Its header says so, to a client that would send the rest of a body that is too long."""
    seen = Seen()
    sent = request(LONG) + request(b"two") + request(b"three", close=True)
    expected = exchanged(seen, sent)
    assert expected.startswith(b"HTTP/1.1 413")
    assert expected.count(b"connection: close") == expected.count(b"HTTP/1.1") == 1
    assert exchanged(ROUTE, sent) == expected
    assert exchanged(ROUTE, request(LONG, close=True)) == expected


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\x00", b"\x7f", b"\r"])
def test_a_header_that_would_be_two_is_not_written(value: bytes) -> None:
    """It would let a client write headers, or a response, of its own."""
    with pytest.raises(ValueError, match="control character"):
        head_of(200, [(b"x-own", value)])
    assert head_of(404, [(b"x-own", b"a\tb")]) == b"HTTP/1.1 404 Not Found\r\nx-own: a\tb"
