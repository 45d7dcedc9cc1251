"""Bodies: bounded in size and time while they arrive, each alone and all together."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server import transport
from server.errors import ApiError
from server.transport import Exchange

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
    return asyncio.run(Exchange(scope, next_message, send).body(LIMIT))


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
    assert Exchange._receiving == 0


@pytest.mark.parametrize("chunks", [(), (b"a",)])
def test_a_body_that_does_not_come_is_given_up(chunks: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a byte of it, or not all: the connection and its memory are not held for ever."""
    monkeypatch.setattr(transport, "BODY_S", 0.05)
    with pytest.raises(ApiError) as refused:
        receive(*chunks, complete=False)
    assert refused.value.status == 408
    assert Exchange._receiving == 0


def test_all_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes times connections: what comes beyond is refused at once, whatever is in one packet is not."""
    monkeypatch.setattr(transport, "RECEIVING_BYTES", 50)
    assert receive(b"a" * 90) == b"a" * 90
    with pytest.raises(ApiError) as refused:
        receive(b"a" * 30, b"b" * 30)
    assert (refused.value.status, refused.value.headers) == (503, {"retry-after": "1"})
    assert Exchange._receiving == 0
