"""Spans that are kept in memory, and what a test reads from them."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from handler.tracing import Tracing

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=word"}
NOT_SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-00"}


class Spans:
    """A tracing whose spans stay here."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracing = Tracing(SimpleSpanProcessor(self._exporter))

    def take(self) -> list[ReadableSpan]:
        """Return the spans that have ended, and forget them."""
        spans = list(self._exporter.get_finished_spans())
        self._exporter.clear()
        return spans


def below(span: ReadableSpan, spans: Sequence[ReadableSpan]) -> dict[str, ReadableSpan]:
    """Return the spans below another one by name; each lies within its time."""
    found = {each.name: each for each in spans if each.parent and each.parent.span_id == span.context.span_id}
    for each in found.values():
        assert times(span)[0] <= times(each)[0] <= times(each)[1] <= times(span)[1], each.name
        assert each.context.trace_id == span.context.trace_id
    return found


def times(span: ReadableSpan) -> tuple[int, int]:
    """Return when a span began and ended, in nanoseconds since the epoch."""
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


def linked(span: ReadableSpan) -> set[int]:
    """Return the identities of the spans that a span links to."""
    return {link.context.span_id for link in span.links}
