"""Requests that come behind one that is not answered yet: a few wait, and no number of them fills the memory."""

from __future__ import annotations

import asyncio

import pytest
import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from server.connections import MAX_PIPELINED, BoundedConnection
from server.transport import NOTIFY_LEFT

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
ANSWER = b"HTTP/1.1 200"


async def exchanged(sent: bytes, n_before: int) -> tuple[int, bytes]:
    """Send bytes while the first request waits.

    Returns:
        How many requests waited behind it, and all that the server sent until it ended the connection or, where
        `n_before` requests were few, had answered them.
    """
    may_answer, begun = asyncio.Event(), asyncio.Event()
    made: list[BoundedConnection] = []

    async def answer(_: Scope, __: Receive, send: Send) -> None:
        begun.set()
        await may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    def connection() -> BoundedConnection:
        made.append(BoundedConnection(config, ServerState(), {}))
        return made[-1]

    config = uvicorn.Config(answer, http=BoundedConnection, lifespan="off", log_config=None)
    config.load()
    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    received = b""
    try:
        writer.write(sent)
        await begun.wait()
        for _ in range(20):  # until nothing more is read: the event loop has seen each socket so often
            await asyncio.sleep(0.01)
        n_waiting = len(made[0].pipeline)
        may_answer.set()
        while received.count(ANSWER) < n_before and (part := await asyncio.wait_for(reader.read(65_536), 60)):
            received += part
        return n_waiting, received
    finally:
        writer.close()
        server.close()


def test_a_client_that_leaves_is_gone_for_all_its_requests() -> None:
    """Also for the one that runs, when others wait behind it: uvicorn wrote an error to a socket that was closed."""

    async def scenario() -> None:
        begun, left = asyncio.Event(), asyncio.Event()
        failures: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))

        async def wait(scope: Scope, _: Receive, __: Send) -> None:
            scope["extensions"][NOTIFY_LEFT]["notify"](left.set)
            begun.set()
            await left.wait()

        config = uvicorn.Config(wait, http=BoundedConnection, lifespan="off", log_config=None)
        config.load()
        state = ServerState()
        server = await asyncio.get_running_loop().create_server(
            lambda: BoundedConnection(config, state, {}), "127.0.0.1", 0
        )
        try:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(POST * 3)
            await begun.wait()
            for _ in range(20):  # until the requests behind it have been read
                await asyncio.sleep(0.01)
            tasks = [*state.tasks]
            writer.transport.abort()
            await asyncio.wait_for(asyncio.wait(tasks), 60)
            assert [task.exception() for task in tasks] == [None]
            assert not failures
        finally:
            server.close()  # uvloop waits for it

    uvloop.run(scenario())  # as the server, whose closed sockets take nothing more


@pytest.mark.parametrize("request_bytes", [GET, POST, UPGRADE], ids=["get", "post", "upgrade"])
def test_a_connection_keeps_few_requests(request_bytes: bytes) -> None:
    """64 kB were 2,400 requests, each a hundred times its bytes; those that wait are answered, then it ends."""
    n_waiting, received = asyncio.run(exchanged(request_bytes * (64_000 // len(request_bytes)), 10_000))
    assert n_waiting == MAX_PIPELINED
    assert received.count(ANSWER) == MAX_PIPELINED + 1
    assert received.count(b"HTTP/1.1") == MAX_PIPELINED + 1


@pytest.mark.parametrize("request_bytes", [GET, POST, UPGRADE], ids=["get", "post", "upgrade"])
def test_what_may_wait_is_answered(request_bytes: bytes) -> None:
    """On a connection that goes on."""
    n_waiting, received = asyncio.run(exchanged(request_bytes * (MAX_PIPELINED + 1), MAX_PIPELINED + 1))
    assert (n_waiting, received.count(ANSWER)) == (MAX_PIPELINED, MAX_PIPELINED + 1)
