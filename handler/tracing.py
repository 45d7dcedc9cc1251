"""OpenTelemetry spans of requests: continued from `traceparent`, off unless OTEL_... says where they go, never a text.

A request has one span, and below it one for each phase that it goes through. The span of a batch lies below that of its
first request and links to those of all of them; the phase `compute` of each links to the batches that it was part of.
The libraries are optional (requirements/tracing.txt) and imported only where tracing is configured.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from handler.errors import ConfigError
from handler.request_state import RequestState

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Link, Span, Tracer

Attributes: TypeAlias = Mapping[str, str | int | float]

SERVICE = "bert-on-torchserve"  # unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES has another name
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
EXPORTERS = ("otlp", "console", "none")
PROTOCOL = "http/protobuf"
SAMPLERS = ("always_on", "always_off", "traceidratio")  # each also as parentbased_...
EXPORT_INTERVAL_MS = 1000.0  # unless OTEL_BSP_SCHEDULE_DELAY is set; a worker that TorchServe ends loses what waits
CLOSE_S = 5.0  # in which spans that wait are sent when a server ends
SERVER_ERROR = 500  # the first status that is the fault of the server


class Phase(NamedTuple):
    """A part of the time of one request, up to the next one."""

    name: str
    began_ns: int  # on the clock of time.monotonic


class RequestTrace:
    """The span of one request, and the phases that the request goes through one after the other."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer, self._span = tracer, span
        self._to_epoch_ns = time.time_ns() - time.monotonic_ns()
        self._phases: list[Phase] = []
        self._batches: list[Link] = []

    @property
    def trace_id(self) -> str:
        """The identity of the trace, in hexadecimal digits."""
        return f"{self._span.get_span_context().trace_id:032x}"

    @property
    def is_recorded(self) -> bool:
        """Whether the sampler keeps this request."""
        return self._span.is_recording()

    def begin(self, phase: str, at: float | None = None) -> None:
        """End the phase before and begin another one, now or at a time of time.monotonic."""
        if not self._phases or self._phases[-1].name != phase:
            self._phases.append(Phase(phase, time.monotonic_ns() if at is None else int(at * 1e9)))

    def note(self, attributes: Attributes) -> None:
        """Set attributes of the request."""
        self._span.set_attributes(attributes)

    def note_outcome(self, state: RequestState) -> None:
        """Set what the request contained and how it ended, in counts and names."""
        encodings = [encoding for item in state.items for _, encoding in item.sequences]
        self.note(
            {
                "bert.task": state.task.name,
                "bert.items": len(state.items),
                "bert.texts": len(encodings),
                "bert.tokens": sum(map(len, encodings)),
                "bert.truncated_tokens": sum(encoding.n_truncated for encoding in encodings),
            }
        )
        if state.error:
            self.note({"error.type": state.error.type})

    def end(self, status: int | None) -> None:
        """End the request with its HTTP status; None: nobody waited for the response."""
        if not self.is_recorded:
            return
        from opentelemetry.trace import StatusCode, set_span_in_context

        if status is None:
            self.note({"error.type": "ClientLeft"})
        else:
            self.note({"http.response.status_code": status})
            if status >= SERVER_ERROR:
                self._span.set_status(StatusCode.ERROR)
        phases = [*self._phases, Phase("", time.monotonic_ns())]
        below = set_span_in_context(self._span)
        for phase, following in itertools.pairwise(phases):
            links = self._batches if phase.name == "compute" else ()
            began_ns, ended_ns = self._to_epoch_ns + phase.began_ns, self._to_epoch_ns + following.began_ns
            self._tracer.start_span(phase.name, below, links=links, start_time=began_ns).end(ended_ns)
        self._span.end(self._to_epoch_ns + phases[-1].began_ns)

    @contextlib.contextmanager
    def batch(self, traces: Sequence[RequestTrace], attributes: Attributes) -> Iterator[None]:
        """Record what is computed for several requests at once in a span below this one."""
        from opentelemetry.trace import Link, set_span_in_context

        links = [Link(trace._span.get_span_context()) for trace in traces]
        below = set_span_in_context(self._span)
        span = self._tracer.start_span("batch", below, attributes=attributes, links=links)
        for trace in traces:
            trace._batches.append(Link(span.get_span_context()))
        try:
            yield
        finally:
            span.end()


_current: ContextVar[RequestTrace | None] = ContextVar("trace", default=None)


def current() -> RequestTrace | None:
    """Return the trace of the request that is being answered."""
    return _current.get()


def current_trace_id() -> str:
    """Return the identity of its trace, for a log; empty: there is none."""
    trace = _current.get()
    return trace.trace_id if trace else ""


@contextlib.contextmanager
def use(trace: RequestTrace) -> Iterator[None]:
    """Let a trace be the current one."""
    token = _current.set(trace)
    try:
        yield
    finally:
        _current.reset(token)


@contextlib.contextmanager
def batch(traces: Sequence[RequestTrace], attributes: Attributes) -> Iterator[None]:
    """Record what is computed for several requests at once; lines of the log have the trace of the batch meanwhile."""
    recorded = [trace for trace in traces if trace.is_recorded]
    if not recorded:
        yield
        return
    with use(recorded[0]), recorded[0].batch(recorded, {"bert.requests": len(traces), **attributes}):
        yield


class TraceIdFormatter(logging.Formatter):
    """A message, and the trace that it belongs to where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        trace_id = current_trace_id()
        return super().format(record) + (f" trace_id={trace_id}" if trace_id else "")


class Tracing:
    """Makes the spans of one process, and sends them."""

    def __init__(self, processor: SpanProcessor) -> None:
        """Send spans by a processor of the SDK; sampler, limits and resource are what OTEL_... says."""
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)  # it logs a malformed tracestate, text and all
        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: SERVICE}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(SERVICE)
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def from_environment(cls) -> Tracing | None:
        """Return what the environment asks for; None: nothing, and nothing was imported.

        Raises:
            ConfigError: it asks for what there is not.
        """
        variable = next((name for name in ("OTEL_TRACES_EXPORTER", *ENDPOINTS) if os.environ.get(name, "").strip()), "")
        exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
        if not variable or exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            return None
        if problems := list(_problems(exporter)):
            raise ConfigError("; ".join(problems))
        try:
            return cls(_processor(exporter))
        except ImportError as error:
            message = f"{variable} is set, but {error.name} cannot be imported: install requirements/tracing.txt"
            raise ConfigError(f"{message}, or unset it") from error

    def request(self, name: str, headers: Mapping[str, str], attributes: Attributes) -> RequestTrace:
        """Begin the span of a request, below the one that its `traceparent` names.

        Args:
            name: of few different ones.
            headers: by lower-case name.
        """
        from opentelemetry.trace import SpanKind

        context = self._propagator.extract(headers)
        return RequestTrace(self._tracer, self._tracer.start_span(name, context, SpanKind.SERVER, attributes))

    def close(self) -> None:
        """Send what waits, for at most `CLOSE_S` seconds: a collector that is away must not hold up the end."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_S)


def _problems(exporter: str) -> Iterator[str]:
    """Yield what the SDK would not obey, or would say later and only in a log."""
    if exporter not in EXPORTERS:
        yield f"OTEL_TRACES_EXPORTER is {exporter!r}, accepted: {', '.join(EXPORTERS)}"
    for name in ENDPOINTS:
        if (endpoint := os.environ.get(name, "")) and not endpoint.startswith(("http://", "https://")):
            yield f"{name} is {endpoint!r}, accepted: http://HOST:PORT or https://HOST:PORT"
    for name in PROTOCOLS:
        if (protocol := os.environ.get(name, "")) not in ("", PROTOCOL):
            yield f"{name} is {protocol!r}, accepted: {PROTOCOL}, which collectors have on port 4318"
    sampler = os.environ.get("OTEL_TRACES_SAMPLER", "always_on").lower().removeprefix("parentbased_")
    if sampler not in SAMPLERS:
        yield f"OTEL_TRACES_SAMPLER is {sampler!r}, accepted: {', '.join(SAMPLERS)}, each also as parentbased_..."
    if sampler == "traceidratio" and not _is_share(ratio := os.environ.get("OTEL_TRACES_SAMPLER_ARG", "")):
        yield f"OTEL_TRACES_SAMPLER_ARG is {ratio!r}, accepted: a number from 0 to 1"


def _is_share(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _processor(exporter: str) -> SpanProcessor:
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor

    if exporter == "console":  # standard error: TorchServe reads the standard output of its workers
        console = ConsoleSpanExporter(out=sys.stderr, formatter=lambda span: f"{span.to_json(indent=None)}\n")
        return SimpleSpanProcessor(console)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    interval_ms = None if "OTEL_BSP_SCHEDULE_DELAY" in os.environ else EXPORT_INTERVAL_MS
    return BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=interval_ms)
