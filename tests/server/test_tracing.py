"""Spans of requests to the standalone server, through the application of its inference port."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Message

from handler import tracing
from server import log
from server.applications import Parts, inference_application
from server.health import Health
from server.metrics import MetricsRegistry
from server.registry import ModelRegistry
from server.settings import ServerSettings
from tests.support.tracing import NOT_SAMPLED, PARENT, SAMPLED, TRACE, Spans, below, linked, times

TEXT = "A confidential sentence."
ROUTE = "/predictions/{rest}"


class Served:
    """One model behind the inference port of a server without sockets."""

    def __init__(self, mar: Path, temp: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.spans = Spans()
        self.run(self._load(mar, temp))

    async def _load(self, mar: Path, temp: Path) -> None:
        settings, metrics = ServerSettings({}, authorized=False), MetricsRegistry()
        self.models = ModelRegistry(mar.parent, temp, settings, metrics)
        self.model = self.models.register(await self.models.unpack(mar.name))
        await self.model.batcher.ready
        parts = Parts(settings, self.models, metrics, Health(self.models), tracing=self.spans.tracing)
        self.application: ASGIApp = inference_application(parts)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run in the event loop of the server."""
        return self.loop.run_until_complete(work)

    def ask(self, *requests: tuple[str, Any, dict[str, str]]) -> list[httpx.Response]:
        """Send bodies to paths, all at once."""

        async def send() -> list[httpx.Response]:
            transport = httpx.ASGITransport(self.application)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                sent = [client.post(path, json=body, headers=headers) for path, body, headers in requests]
                return await asyncio.gather(*sent)

        responses: list[httpx.Response] = self.run(send())
        return responses

    def close(self) -> None:
        """End the model and the loop."""
        self.run(self.model.close())
        self.loop.close()


@pytest.fixture(scope="module")
def served(mar: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Return the small model behind the inference port."""
    served = Served(mar, tmp_path_factory.mktemp("temp"))
    yield served
    served.close()


def test_a_request_continues_the_trace_of_its_client(served: Served) -> None:
    """Reading, tokenising, waiting, computing and writing lie one after the other below it."""
    (response,) = served.ask(("/predictions/tiny", [TEXT, TEXT], SAMPLED))
    recorded = served.spans.take()
    (request,) = (span for span in recorded if span.name == f"POST {ROUTE}")
    assert request.parent is not None
    assert (f"{request.context.trace_id:x}", f"{request.parent.span_id:016x}") == (TRACE, PARENT)
    phases = below(request, recorded)
    batch = phases.pop("batch")
    assert list(phases) == ["read", "tokenise", "queue", "compute", "write"]
    ordered = list(phases.values())
    assert [times(span)[1] for span in ordered[:-1]] == [times(span)[0] for span in ordered[1:]]
    assert linked(phases["compute"]) == {batch.context.span_id}
    n_tokens = int(response.headers["x-request-tokens"])
    assert dict(batch.attributes or {}) == {"bert.requests": 1, "bert.texts": 2, "bert.tokens": n_tokens}
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": ROUTE,
        "http.request.body.size": len(response.request.content),
        "http.response.body.size": len(response.content),
        "http.response.status_code": 200,
        "bert.model.name": "tiny",
        "bert.model.version": "1.0",
        "bert.task": "text-classification",
        "bert.items": 2,
        "bert.texts": 2,
        "bert.tokens": n_tokens,
        "bert.truncated_tokens": 0,
    }
    assert not any("confidential" in span.to_json() for span in recorded)


def test_batches_link_to_their_requests(served: Served) -> None:
    """Each request that is recorded is in one batch; one that is not leaves no span."""
    served.ask(*[("/predictions/tiny", TEXT, headers) for headers in (SAMPLED, {}, SAMPLED, NOT_SAMPLED)])
    recorded = served.spans.take()
    requests = [span for span in recorded if span.name == f"POST {ROUTE}"]
    batches = [span for span in recorded if span.name == "batch"]
    assert len(requests) == 3
    assert sorted(each for batch in batches for each in linked(batch)) == sorted(
        request.context.span_id for request in requests
    )
    assert {each for span in recorded if span.name == "compute" for each in linked(span)} == {
        batch.context.span_id for batch in batches
    }


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "phases"),
    [
        ("/predictions/nobody", TEXT, 404, "ModelNotFoundException", ["read", "write"]),
        ("/predictions/tiny", [None], 422, "InvalidInput", ["read", "tokenise", "write"]),
        ("/v1/embeddings", {"model": TEXT, "input": TEXT}, 404, "model_not_found", ["read", "tokenise", "write"]),
    ],
)
def test_refusals(served: Served, path: str, body: Any, status: int, kind: str, phases: list[str]) -> None:
    """They have a status and a type, and nothing of the path or the body."""
    served.ask((path, body, {}))
    recorded = served.spans.take()
    attributes = recorded[-1].attributes or {}
    assert (attributes["http.response.status_code"], attributes["error.type"]) == (status, kind)
    assert list(below(recorded[-1], recorded)) == phases
    assert not any("confidential" in span.to_json() or "nobody" in span.to_json() for span in recorded)


def test_what_models_do_not_answer_has_no_span(served: Served) -> None:
    """Health is asked for every few seconds."""
    paths = ("/ping", "/v2/health/ready", "/v2/models/tiny", "/v1/models", "/api-description", "/nowhere")
    served.ask(*[(path, {}, SAMPLED) for path in paths])
    assert not served.spans.take()


def test_a_client_that_left(served: Served) -> None:
    """Its span ends without a status."""
    messages: list[Message] = [{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        raise AssertionError(message)

    scope = {"type": "http", "method": "POST", "path": "/predictions/tiny", "query_string": b"", "headers": []}
    served.run(call(served.application, scope, receive, send))
    *_, request = served.spans.take()
    attributes = request.attributes or {}
    assert attributes["error.type"] == "ClientLeft"
    assert "http.response.status_code" not in attributes


async def call(
    application: ASGIApp,
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """Answer one request."""
    await application(scope, receive, send)


def test_a_line_of_the_log_has_the_trace(served: Served, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """An error while a request is read, and one while its batch computes."""
    handler = logging.StreamHandler()
    handler.setFormatter(log.JsonLines())
    logging.getLogger().addHandler(handler)

    def fail(*_: object) -> None:
        raise ValueError(TEXT)

    try:
        predictor = served.model.predictor
        for name in ("preprocess", "compute"):
            with monkeypatch.context() as patched:
                patched.setattr(predictor, name, fail)
                (response,) = served.ask(("/predictions/tiny", TEXT, SAMPLED))
            assert response.status_code == 503
    finally:
        logging.getLogger().removeHandler(handler)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(f'"trace_id":"{TRACE}"' in line and "confidential" not in line for line in lines)
    requests = [span for span in served.spans.take() if span.name == f"POST {ROUTE}"]
    assert [(span.attributes or {})["error.type"] for span in requests] == ["InternalError", "InternalError"]
    assert not any(span.status.is_ok or span.status.is_unset for span in requests)
    assert tracing.current() is None
