"""Spans of requests in TorchServe's worker, and what the environment turns on."""

from __future__ import annotations

import logging
import sys

import pytest
from opentelemetry.trace import SpanKind

from handler import tracing
from handler.bert_handler import BertHandler
from handler.errors import ConfigError
from handler.predictor import Predictor
from handler.tracing import TraceIdFormatter, Tracing
from tests.support.frames import Worker, http, metrics_of
from tests.support.samples import ROOT
from tests.support.tracing import NOT_SAMPLED, PARENT, SAMPLED, TRACE, Spans, below, linked

TEXT = "A confidential sentence."


@pytest.fixture(scope="module")
def spans() -> Spans:
    """Return where the spans of this file go."""
    return Spans()


@pytest.fixture(scope="module")
def worker(predictor: Predictor, spans: Spans) -> Worker:
    """Return TorchServe's service around a handler that traces."""
    bert_handler = BertHandler()
    bert_handler.predictor, bert_handler.tracing = predictor, spans.tracing
    return Worker(bert_handler, metrics_of(ROOT / "metrics.yaml"))


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take what another program's tracing may have set from the environment."""
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED", *tracing.ENDPOINTS, *tracing.PROTOCOLS):
        monkeypatch.delenv(name, raising=False)


def test_a_request_continues_the_trace_of_its_client(worker: Worker, spans: Spans) -> None:
    """Its span lies below the client's, and its phases below that."""
    (answer,) = worker(http(TEXT, **SAMPLED))
    recorded = spans.take()
    (request,) = (span for span in recorded if span.name == "predict")
    assert request.parent is not None
    assert (f"{request.context.trace_id:x}", f"{request.parent.span_id:016x}") == (TRACE, PARENT)
    assert request.context.trace_state["vendor"] == "word"
    phases = below(request, recorded)
    assert list(phases) == ["batch", "tokenise", "compute", "write"]
    assert linked(phases["compute"]) == {phases["batch"].context.span_id}
    assert dict(request.attributes or {}) == {
        "bert.model.name": "model",
        "bert.model.version": "1.0",
        "bert.task": "text-classification",
        "bert.items": 1,
        "bert.texts": 1,
        "bert.tokens": int(answer.headers["x-request-tokens"]),
        "bert.truncated_tokens": 0,
        "http.request.body.size": len(TEXT),
        "http.response.body.size": len(answer.content),
        "http.response.status_code": 200,
    }


def test_a_batch_links_to_its_requests(worker: Worker, spans: Spans) -> None:
    """Three requests, one of which its client does not record: one batch, which links to the other two."""
    worker(http(TEXT), http(TEXT, **SAMPLED), http(TEXT, **NOT_SAMPLED))
    recorded = spans.take()
    requests = [span for span in recorded if span.name == "predict"]
    (batch,) = (span for span in recorded if span.name == "batch")
    assert linked(batch) == {request.context.span_id for request in requests}
    assert len(requests) == 2
    assert (batch.attributes or {})["bert.requests"] == 3
    assert all(linked(span) == {batch.context.span_id} for span in recorded if span.name == "compute")
    assert len(below(requests[0], recorded)) + len(below(requests[1], recorded)) == 7


def test_a_refusal(worker: Worker, spans: Spans) -> None:
    """The status and the type of the error; an explanation has a phase of its own."""
    worker(http("[null]", "application/json"), http("[null]", "application/json", explain="True"))
    recorded = spans.take()
    refused, explained = (span for span in recorded if span.kind is SpanKind.SERVER)
    attributes = refused.attributes or {}
    assert (attributes["error.type"], attributes["http.response.status_code"]) == ("InvalidInput", 422)
    assert refused.status.is_unset, "the fault of the client"
    assert list(below(refused, recorded)) == ["batch", "tokenise", "compute", "write"]
    assert explained.name == "explain"
    assert list(below(explained, recorded)) == ["tokenise", "compute", "explain", "write"]


def test_a_batch_that_fails_as_a_whole(worker: Worker, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe answers 503; the message of the exception, which may quote a user, is in no span."""

    def fail(_: object) -> None:
        raise ValueError(TEXT)

    monkeypatch.setattr(worker.handler.predictor, "inference", fail)
    with pytest.raises(AssertionError):
        worker(http(TEXT), http(TEXT))
    batch, *others = spans.take()
    requests = [span for span in others if span.kind is SpanKind.SERVER]
    assert [(span.attributes or {})["http.response.status_code"] for span in requests] == [503, 503]
    assert not any(span.status.is_unset for span in requests)
    assert linked(batch) == {span.context.span_id for span in requests}
    assert not any("confidential" in span.to_json() for span in (batch, *others))


def test_no_text_is_in_a_span(worker: Worker, spans: Spans) -> None:
    """Neither of a body that is answered, nor of one that is refused, nor of a header."""
    malformed = {"traceparent": TEXT, "tracestate": TEXT, "baggage": f"user={TEXT}"}
    worker(http(TEXT), http(f'["{TEXT}", 7]', "application/json"), http(TEXT, **malformed), http(TEXT, TEXT))
    recorded = spans.take()
    assert len(recorded) > 10
    assert not any("confidential" in span.to_json() for span in recorded)


def test_malformed_headers_are_not_logged(worker: Worker, spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    """The library would log a malformed tracestate, text and all."""
    worker(http(TEXT, traceparent=SAMPLED["traceparent"], tracestate="a confidential; word"))
    (request,) = (span for span in spans.take() if span.name == "predict")
    assert f"{request.context.trace_id:x}" == TRACE
    assert "confidential" not in caplog.text


def test_lines_of_the_log_have_the_trace(spans: Spans) -> None:
    """Of the request that is answered, or of its batch."""
    line = logging.makeLogRecord({"msg": "unexpected ValueError"})
    assert TraceIdFormatter().format(line) == "unexpected ValueError"
    trace = spans.tracing.request("predict", SAMPLED, {})
    with tracing.use(trace):
        assert TraceIdFormatter().format(line) == f"unexpected ValueError trace_id={TRACE}"
    with tracing.batch([trace], {}):
        assert tracing.current_trace_id() == TRACE
    assert tracing.current_trace_id() == ""
    spans.take()


# --- the environment -----------------------------------------------------------------------------------------------


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every import of OpenTelemetry fail."""
    for name in [name for name in sys.modules if name.split(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_SERVICE_NAME": "bert"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "True"},
    ],
    ids=str,
)
@pytest.mark.usefixtures("not_installed")
def test_it_is_off_and_imports_nothing(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Tracing.from_environment() is None


@pytest.mark.parametrize("name", ["OTEL_TRACES_EXPORTER", *tracing.ENDPOINTS])
@pytest.mark.usefixtures("not_installed")
def test_libraries_that_lack_are_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the setting that asks for them, and what to install."""
    monkeypatch.setenv(name, "console" if name == "OTEL_TRACES_EXPORTER" else "http://127.0.0.1:4318")
    with pytest.raises(ConfigError, match=rf"{name} is set, but opentelemetry.* requirements/tracing\.txt"):
        Tracing.from_environment()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "accepted: otlp, console, none"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "accepted: http://HOST:PORT"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "grpc://collector:4317", "accepted: http://HOST:PORT"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "accepted: http/protobuf"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "accepted: always_on, always_off, traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "1%", "accepted: a number from 0 to 1"),
        ("OTEL_TRACES_SAMPLER_ARG", "5", "accepted: a number from 0 to 1"),
    ],
)
def test_settings_that_cannot_be_obeyed(name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK would say so in a log, if at all, and record every request."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name} is .*{message}"):
        Tracing.from_environment()


def test_spans_on_standard_error(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """TorchServe reads the standard output of its workers. The name of the service is ours unless one is set."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    tracer = Tracing.from_environment()
    assert tracer
    tracer.request("predict", {}, {}).end(200)
    tracer.close()
    out, err = capfd.readouterr()
    assert not out
    assert '"service.name": "bert-on-torchserve"' in err
    assert err.count("\n") == 1
