"""What a route does at its connection without ASGI's messages, where no application stands between the two.

uvicorn reads each header of a response and takes it in two messages; a body that has come already needs no time limit.
Both together are an eighth of what the event loop does for a prediction.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from starlette.types import Receive, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

JOINED_BYTES = 65_536  # longer content is not copied behind its head
CLOSES = {False: b"", True: b"\r\nconnection: close"}
CONTROLS = bytes({*range(32), 127} - {ord("\t")})  # of which a head has none but its line ends


def received_body(receive: Receive) -> bytes | None:
    """Return the body of a request; None: it has not come yet, or another application must see it."""
    cycle = _cycle_of(receive)
    if cycle is None or cycle.more_body or cycle.disconnected or cycle.response_complete:
        return None
    cycle.message_event.clear()
    content, cycle.body = bytes(cycle.body), bytearray()
    return content


def send_response(send: Send, head: bytes, content: bytes, *, is_last: bool = False) -> bool:
    """Write a response; False: it must be sent as messages.

    Args:
        head: as `head_of` returns it.
        is_last: whether the head says that the connection ends with it.
    """
    cycle = _cycle_of(send)
    if cycle is None or cycle.response_started or cycle.flow.write_paused or cycle.scope["method"] == "HEAD":
        return False
    if cycle.disconnected:
        return True
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    parts = (head, CLOSES[not cycle.keep_alive and not is_last], b"\r\n\r\n", content)
    cycle.keep_alive = cycle.keep_alive and not is_last
    if len(content) <= JOINED_BYTES:
        cycle.transport.write(b"".join(parts))
    else:
        cycle.transport.writelines(parts)
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


def head_of(status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return status line and headers of a response, without the line ends behind them.

    Raises:
        ValueError: a header that another program would read as two, or as none.
    """
    lines = [b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode())]
    lines += [b"%b: %b" % header for header in headers]
    head = b"\r\n".join(lines)
    if len(head) - len(head.translate(None, CONTROLS)) != 2 * len(headers):
        raise ValueError("a header with a control character")
    return head


def _cycle_of(call: Any) -> RequestResponseCycle | None:
    """Return the exchange of uvicorn that a function belongs to; None: an application's own function."""
    owner = getattr(call, "__self__", None)
    return owner if isinstance(owner, RequestResponseCycle) else None
