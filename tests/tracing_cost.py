"""`python -m tests.tracing_cost`: the processor time that tracing takes of one request, spans encoded but not sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from handler import tracing
from handler.tracing import EXPORT_INTERVAL_MS, Tracing
from tests.support.tracing import NOT_SAMPLED, SAMPLED

N_REQUESTS, N_ROUNDS = 50, 60
PHASES = ("read", "tokenise", "queue", "compute")


class Encoder(SpanExporter):
    """Does all of an export but the sending."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Encode spans."""
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS


def trace_request(tracer: Tracing, headers: dict[str, str]) -> None:
    """Record what the standalone server records of one request that is computed alone."""
    trace = tracer.request("POST /predictions/{rest}", headers, {"http.request.method": "POST", "http.route": "/"})
    for phase in PHASES:
        trace.begin(phase)
    with tracing.batch([trace], {"bert.texts": 1, "bert.tokens": 7}):
        pass
    trace.begin("write")
    trace.note({"bert.model.name": "intents", "bert.model.version": "1.0", "bert.items": 1, "bert.tokens": 7})
    trace.note({"http.request.body.size": 20, "http.response.body.size": 300})
    trace.end(200)


def processor_us(work: Callable[[], object]) -> float:
    """Return the microseconds of processor time of one call, of all threads: the least of many rounds."""
    rounds = []
    for _ in range(N_ROUNDS):
        began = time.process_time()
        for _ in range(N_REQUESTS):
            work()
        rounds.append((time.process_time() - began) / N_REQUESTS * 1e6)
    return min(rounds)


def off() -> None:
    """Do what both servers do for each request where tracing is off."""
    tracing.current()
    with tracing.batch([], {"bert.texts": 1, "bert.tokens": 7}):
        pass


def main() -> None:
    """Print one line a case."""
    tracer = Tracing(BatchSpanProcessor(Encoder(), schedule_delay_millis=EXPORT_INTERVAL_MS))
    print(f"off           {processor_us(off):6.1f} us")
    print(f"not recorded  {processor_us(lambda: trace_request(tracer, NOT_SAMPLED)):6.1f} us")
    print(f"recorded      {processor_us(lambda: trace_request(tracer, SAMPLED)):6.1f} us")
    tracer.close()


if __name__ == "__main__":
    main()
