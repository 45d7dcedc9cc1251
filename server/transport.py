"""ASGI messages <-> requests and responses. Bodies and unread responses are bounded, clients that leave are noticed."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import TypeVar
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from handler.request_state import Response
from handler.tracing import current
from server.direct import CLOSES, head_of, received_body, send_response
from server.errors import ApiError, body_timeout, overloaded, too_large
from server.metrics import MetricsRegistry

BODY_S = 30.0  # within which a body must have come
NOTIFY_LEFT = "bert.notify_left"  # extension of the scope: `notify` takes what is called when the client leaves
# Their products with what a body becomes fit into the memory of the deployments: tests/deploy/test_limits.py.
HELD_BYTES = 32 << 20  # of all bodies together, each from its first part until its response
UNREAD_BYTES = 160 << 20  # of all responses together that clients have not read yet
UNCOUNTED_BYTES = 16_384  # of a body that comes in one part, or of a response
DISCARD_FACTOR = 4  # a body that is too long is read up to so many times the limit before it is refused
REQUEST_ID = b"x-request-id"
UNCACHED = [
    (b"pragma", b"no-cache"),
    (b"cache-control", b"no-cache; no-store, must-revalidate, private"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 UTC"),
]

T = TypeVar("T")
logger = logging.getLogger(__name__)


class ClientLeft(Exception):
    """Nobody waits for the response any more."""


class Exchange:
    """One request, and its response."""

    held = 0  # bytes of all bodies that have begun to arrive and are not answered yet
    unread = 0  # bytes of all responses that wait for their clients to read

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self._n_held = 0  # bytes of its own body

    @cached_property
    def headers(self) -> dict[str, str]:
        """The headers by lower-case name; of several of one name the last."""
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self.scope["headers"]}

    def query(self, name: str) -> str | None:
        """Return a parameter of the query."""
        values = parse_qs(self.scope["query_string"].decode("latin-1"), keep_blank_values=True).get(name)
        return values[-1] if values else None

    async def body(self, limit: int) -> bytes:
        """Receive the body; of one that is too long no more than `limit` bytes are kept. It counts until `release`.

        Raises:
            ApiError: it has more than `limit` bytes, it does not come, or the bodies of all clients are too many.
            ClientLeft: the client left.
        """
        length = self.headers.get("content-length", "")
        if length.isdecimal() and int(length) > DISCARD_FACTOR * limit:
            raise too_large(limit)
        if (content := received_body(self._receive)) is not None:
            return self._whole(content, limit)
        task, is_late = asyncio.current_task(), False

        def give_up() -> None:
            nonlocal is_late
            is_late = True
            if task is not None:
                task.cancel()

        timer = asyncio.get_running_loop().call_later(BODY_S, give_up)  # a tenth of what wait_for costs
        try:
            return await self._received(limit)
        except BaseException as error:
            self.release()
            if isinstance(error, asyncio.CancelledError) and is_late:
                raise body_timeout(BODY_S) from None
            raise
        finally:
            timer.cancel()

    async def _received(self, limit: int) -> bytes:
        content, more = await self._next_chunk()
        if not more:
            return self._whole(content, limit)
        kept, n_bytes = bytearray(), len(content)
        self._keep(kept, content, limit)
        while more and n_bytes <= DISCARD_FACTOR * limit:
            chunk, more = await self._next_chunk()
            n_bytes += len(chunk)
            if n_bytes <= limit:
                self._keep(kept, chunk, limit)
            else:  # the rest is read and forgotten: a sender that is cut off may miss the answer
                self.release()
                kept.clear()
        if n_bytes > limit:
            raise too_large(limit)
        return bytes(kept)

    def _whole(self, content: bytes, limit: int) -> bytes:
        """Return a body that came at once."""
        if len(content) > limit:
            raise too_large(limit)
        if len(content) > UNCOUNTED_BYTES:
            self._hold(len(content))
        return content

    def _keep(self, kept: bytearray, chunk: bytes, limit: int) -> None:
        if len(chunk) <= limit:
            self._hold(len(chunk))
            kept += chunk

    def _hold(self, n_bytes: int) -> None:
        """Count a part of the body, unless the bodies of all clients together are too much for the memory."""
        if Exchange.held + n_bytes > HELD_BYTES:
            raise overloaded("too many large requests at once: try again later")
        Exchange.held += n_bytes
        self._n_held += n_bytes

    def release(self) -> None:
        """Count the body no longer."""
        Exchange.held -= self._n_held
        self._n_held = 0

    async def _next_chunk(self) -> tuple[bytes, bool]:
        """Return a part of the body, and whether there is more."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        return message.get("body", b""), message.get("more_body", False)

    async def while_connected(self, work: Awaitable[T]) -> T:
        """Wait for some work; cancel it and raise ClientLeft when the client leaves."""
        task, has_left = asyncio.current_task(), False

        def leave() -> None:
            nonlocal has_left
            has_left = True
            if task is not None:
                task.cancel()

        forget = self._notify_left(leave)
        try:
            return await work
        except asyncio.CancelledError:
            if has_left:
                raise ClientLeft from None
            raise
        finally:
            forget()

    def _notify_left(self, leave: Callable[[], None]) -> Callable[[], object]:
        """Let a function be called when the client leaves; return what ends that."""
        if extension := self.scope.get("extensions", {}).get(NOTIFY_LEFT):  # our connections: no task for each request
            notify = extension["notify"]
            notify(leave)
            return lambda: notify(None)
        watcher = asyncio.get_running_loop().create_task(self._wait_until_left())
        watcher.add_done_callback(lambda done: None if done.cancelled() else leave())
        return watcher.cancel

    async def _wait_until_left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def respond(self, response: Response) -> None:
        """Send a response."""
        headers = headers_of(response)
        is_last = response.headers.get("connection") == "close"
        if send_response(self._send, head_of(response.status, headers), response.content, is_last=is_last):
            return
        await self._send({"type": "http.response.start", "status": response.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": response.content})


def headers_of(response: Response) -> list[tuple[bytes, bytes]]:
    """Return the headers of a response: its own, and those that every response has."""
    headers = [
        (b"content-type", b"application/json"),
        (REQUEST_ID, str(uuid.uuid4()).encode()),
        (b"content-length", str(len(response.content)).encode()),
        *UNCACHED,
    ]
    given = {name.encode("latin-1"): value.encode("latin-1") for name, value in response.headers.items()}
    return [header for header in headers if header[0] not in given] + list(given.items())


class PreparedResponse:
    """A response that is the same each time, but for its id: its bytes are made once."""

    def __init__(self, response: Response) -> None:
        headers = [header for header in headers_of(response) if header[0] != REQUEST_ID]
        self._head = head_of(response.status, headers) + b"\r\n" + REQUEST_ID + b": "
        self._ends = {is_last: CLOSES[is_last] + b"\r\n\r\n" + response.content for is_last in CLOSES}

    def written(self, *, is_last: bool) -> bytes:
        """Return it with a new id.

        Args:
            is_last: whether the connection ends with it.
        """
        return self._head + str(uuid.uuid4()).encode() + self._ends[is_last]


def header(scope: Scope, name: bytes) -> str:
    """Return a header by its lower-case name; of several of one name the last; empty: there is none."""
    return next((value.decode("latin-1") for word, value in reversed(scope["headers"]) if word == name), "")


Handle = Callable[[Exchange], Awaitable[Response]]
WriteError = Callable[[ApiError], Response]


class RouteHandler:
    """An ASGI application of one function from exchange to response; counts responses by status."""

    def __init__(
        self, handle: Handle, metrics: MetricsRegistry, write_error: WriteError = ApiError.to_response
    ) -> None:
        """Wrap a function.

        Args:
            write_error: writes an ApiError in the shape that the clients of this route read.
        """
        self._handle, self._metrics, self._write_error = handle, metrics, write_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        try:
            response = await self._handle(exchange)
            if len(response.content) > UNCOUNTED_BYTES and Exchange.unread + len(response.content) > UNREAD_BYTES:
                raise overloaded("clients have not read too many answers yet: try again later")
        except ClientLeft:
            return
        except ApiError as error:
            response = self._refuse(error)
        except Exception as error:  # noqa: BLE001 - the message of an exception may quote a user: its type alone is logged
            logger.error("unexpected %s in %s", type(error).__name__, getattr(self._handle, "__qualname__", "a route"))
            kind = type(error).__name__
            response = self._refuse(ApiError(503, "InternalError", f"unexpected {kind} in the server"))
        finally:
            exchange.release()
        self._metrics.record(f"Requests{response.status // 100}XX", 1, "Host")
        await exchange.respond(response)

    def _refuse(self, error: ApiError) -> Response:
        if trace := current():
            trace.note({"error.type": error.kind})
        return self._write_error(error)
