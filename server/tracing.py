"""A span for each request of the routes that models answer; the phases in between are begun where they begin."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from handler import tracing
from handler.tracing import RequestTrace, Tracing


class TracedRoute:
    """An ASGI application whose requests have spans."""

    def __init__(self, application: ASGIApp, path: str, tracer: Tracing) -> None:
        """Wrap an application.

        Args:
            path: of the route, with the names of its parameters instead of their values.
        """
        self._application, self._path, self._tracer = application, path.replace(":path", ""), tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        attributes = {"http.request.method": scope["method"], "http.route": self._path}
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        trace = self._tracer.request(f"{scope['method']} {self._path}", headers, attributes)
        exchange = _TracedExchange(trace, receive, send)
        trace.begin("read")
        try:
            with tracing.use(trace):
                await self._application(scope, exchange.receive, exchange.send)
        finally:
            trace.note({"http.request.body.size": exchange.n_received, "http.response.body.size": exchange.n_sent})
            trace.end(exchange.status)


class _TracedExchange:
    """Sees when a body has come, and what is sent."""

    def __init__(self, trace: RequestTrace, receive: Receive, send: Send) -> None:
        self._trace, self._receive, self._send = trace, receive, send
        self.n_received = self.n_sent = 0
        self.status: int | None = None  # None: no response was begun

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self.n_received += len(message.get("body", b""))
            if not message.get("more_body", False):
                self._trace.begin("tokenise")
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._trace.begin("write")
            self.status = message["status"]
        else:
            self.n_sent += len(message.get("body", b""))
        await self._send(message)
