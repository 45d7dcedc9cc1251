"""Requests that are refused by their headers: before their body is read, with the answer that the route would give."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from server.applications import EarlyRefusal, Parts
from server.connections import MAX_UNREAD_BYTES, BoundedConnection
from server.errors import model_not_found, queue_full
from server.health import Health
from server.metrics import MetricsRegistry
from server.settings import ServerSettings
from server.transport import PreparedResponse, headers_of
from tests.support.samples import ROOT

FULL = PreparedResponse(queue_full(2).to_response())


def head(*lines: str, method: str = "POST", length: int = 3) -> bytes:
    """Return the head of a prediction."""
    return "\r\n".join(
        [f"{method} /predictions/m HTTP/1.1", "Host: a", f"Content-Length: {length}", *lines, "", ""]
    ).encode()


async def answer(_: Scope, receive: Receive, send: Send) -> None:
    """Answer with 200 when the body has come."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


def statuses(sent: bytes, *, n_refused: int = 100) -> list[bytes]:
    """Return the status of each answer to what is sent in one packet; the first requests are refused."""
    left = [n_refused]

    def refuse(_: Scope) -> PreparedResponse | None:
        left[0] -= 1
        return FULL if left[0] >= 0 else None

    async def scenario() -> bytes:
        config = uvicorn.Config(answer, lifespan="off", log_config=None)
        config.load()
        server = await asyncio.get_running_loop().create_server(
            lambda: BoundedConnection(config, ServerState(), {}, refuse=refuse), "127.0.0.1", 0
        )
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(sent)
        content = await asyncio.wait_for(reader.read(), 100)
        writer.close()
        server.close()
        return content

    content = asyncio.run(scenario())
    return [part[:3] for part in content.split(b"HTTP/1.1 ")[1:]]


LAST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def test_a_refused_request_leaves_its_connection_usable() -> None:
    """Its body is skipped, so that the next request is read from its beginning."""
    assert statuses(head() + b"abc" + head() + b"abc" + LAST, n_refused=2) == [b"503", b"503", b"200"]
    assert statuses(head("Connection: close") + b"abc") == [b"503"]


@pytest.mark.parametrize(
    "request_bytes",
    [
        head("Expect: 100-continue") + b"abc",
        head(length=MAX_UNREAD_BYTES + 1) + b"a" * (MAX_UNREAD_BYTES + 1),
        b"POST /predictions/m HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"POST /predictions/%6d HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["expect", "long", "chunked", "escaped"],
)
def test_what_is_not_simple_is_left_to_the_route(request_bytes: bytes) -> None:
    """A body of unknown length, one that the client holds back, and a path that has to be decoded."""
    assert statuses(request_bytes + LAST)[-2:] == [b"200", b"200"]  # the last one waits for the one before


class Models:
    """One model whose queue is full or not."""

    def __init__(self, *, is_full: bool) -> None:
        self.expected = 0
        self.batcher = SimpleNamespace(is_full=is_full, retry_after_s=2, expect=self._expect)

    def _expect(self) -> None:
        self.expected += 1

    def get(self, name: str, version: str | None = None) -> Any:
        """Return the model m."""
        if name != "m":
            raise model_not_found(name)
        return self


class Key:
    """Opens with one word."""

    def allows(self, kind: str, authorization: str) -> bool:
        """Tell whether the word is right."""
        return (kind, authorization) == ("inference", "Bearer right")


def refusal(
    models: Models, path: str = "/predictions/m", key: str = "right", method: str = "POST", **settings: Any
) -> Any:
    """Return what a request is refused with by its headers, and the metrics."""
    metrics = MetricsRegistry(ROOT / "metrics.yaml")
    registry: Any = models
    parts = Parts(ServerSettings({}, **settings), registry, metrics, Health(registry), keys=Key())  # type: ignore[arg-type]
    scope = {"type": "http", "method": method, "path": path, "headers": [(b"authorization", f"Bearer {key}".encode())]}
    return EarlyRefusal(parts)(scope), metrics.exposition()


def test_a_full_queue_is_said_as_the_route_says_it() -> None:
    """Status, body and Retry-After; it is counted among the responses."""
    response, metrics = refusal(Models(is_full=True))
    expected = queue_full(2).to_response()
    head, _, content = response.written(is_last=False).partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    assert (status, content) == (b"HTTP/1.1 503 Service Unavailable", expected.content)
    assert sorted(line.split(b": ")[0] for line in lines) == sorted(name for name, _ in headers_of(expected))
    assert b"retry-after: 2" in lines
    assert response.written(is_last=False) != response.written(is_last=False), "each has its own id"
    assert b"\r\nconnection: close\r\n\r\n" in response.written(is_last=True)
    assert 'Requests5XX{Level="Host"' in metrics
    assert refusal(Models(is_full=True), "/predictions/m/1.0/predict")[0] is response


def test_what_the_route_must_say_is_left_to_it() -> None:
    """Another model, a wrong key, another route or method, and where CORS adds headers."""
    full = Models(is_full=True)
    assert refusal(full, "/predictions/other")[0] is None
    assert refusal(full, key="wrong")[0] is None
    assert refusal(full, "/ping")[0] is None
    assert refusal(full, method="OPTIONS")[0] is None
    assert refusal(full, cors_origin="*")[0] is None
    assert full.expected == 0


def test_a_request_that_may_come_is_expected() -> None:
    """So that no more pass in one turn of the event loop than the queue has room for."""
    models = Models(is_full=False)
    assert refusal(models)[0] is None
    assert models.expected == 1
    assert refusal(models, key="wrong")[0] is None
    assert models.expected == 1, "strangers take no room"
