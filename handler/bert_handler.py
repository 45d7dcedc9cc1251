"""TorchServe's entry point: TorchServe's batch and context -> bytes, status and headers of every row.

TorchServe imports this file by name from the root of an archive, looks for exactly one class and calls `initialize`
and `handle`. No other module of the package imports `ts`. Nothing here prints or logs the text of a user:
TorchServe interprets some lines of a worker's output as commands.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ts.metrics.metric_type_enum import MetricTypes
from ts.protocol import otf_message_handler

import handler
from handler import protocol, tracing
from handler.config import ModelConfig
from handler.description import describe
from handler.engine.device import place
from handler.errors import ConfigError
from handler.http_headers import is_form, request_from
from handler.loading import load_predictor
from handler.metrics_queue import MetricsQueue
from handler.predictor import Predictor
from handler.request_state import BatchContext, Request, Response
from handler.server_config import max_response_size
from handler.telemetry import Measurement, reference_measurements
from handler.tracing import RequestTrace, Tracing
from handler.worker_socket import read_through_buffer

SHUTDOWN_GRACE_S = 1.0  # from the failure of the device to the end of the worker, in which answers are sent


class BertHandler:
    """The class that TorchServe calls. A batch goes through `preprocess`, `inference` and `postprocess`."""

    predictor: Predictor
    context: Any
    tracing: Tracing | None = None  # None: off

    def __init__(self) -> None:
        self.metrics = MetricsQueue(self._measure)

    def initialize(self, context: Any) -> None:
        """Load the archive that TorchServe unpacked; raises a StartupError, a RuntimeError, if it cannot serve."""
        _log_to_standard_error()
        folder = Path(context.system_properties["model_dir"])
        _refuse_other_code(folder)
        if os.environ.get("TS_DECODE_INPUT_REQUEST") != "false":
            raise ConfigError("decode_input_request must be false in config.properties: bodies are read strictly here")
        config = ModelConfig.from_mapping(context.model_yaml_config)
        device = place(context.system_properties.get("gpu_id"), config.handler, config.frontend.minWorkers or 1)
        version = str(context.manifest["model"].get("modelVersion", "1.0"))
        name = str(context.model_name)
        self.context = context
        read_through_buffer(otf_message_handler)
        self.tracing = Tracing.from_environment()
        self.predictor = load_predictor(
            folder,
            config.handler,
            device,
            name=name,
            version=version,
            timeout_s=config.frontend.deadline_s,
            max_response_bytes=max_response_size(),
            serving=True,
            shared=True,
        )
        calibration = self.predictor.calibration
        if calibration and calibration.reference:
            self.metrics.add(reference_measurements(calibration.reference, version))

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[bytes]:
        """Answer one TorchServe batch: one answer for each row, with its own status and headers."""
        self.context = context
        if len(data) == 1 and not data[0] and _is_describe(_headers(context, 0)):
            context.set_response_content_type(0, "application/json")
            return [protocol.serialize_value(describe(self.predictor))]
        if self.tracing:
            return self._handle_traced(self.tracing, data)
        return self.postprocess(self.inference(self.preprocess(data)))

    def _handle_traced(self, tracer: Tracing, data: Sequence[Mapping[str, Any]]) -> list[bytes]:
        """Answer one batch, and record it in the trace of each of its requests."""
        traces = [self._trace(tracer, index) for index in range(len(data))]
        try:
            with tracing.use(traces[0]) if len(traces) == 1 else contextlib.nullcontext():
                return self._answer_traced(traces, data)
        except Exception:
            for trace in traces:
                trace.end(503)  # with which TorchServe answers all of them
            raise

    def _answer_traced(self, traces: Sequence[RequestTrace], data: Sequence[Mapping[str, Any]]) -> list[bytes]:
        _begin(traces, "tokenise")
        batch = self.preprocess(data)
        _begin(traces, "compute")
        with tracing.batch(traces, {"bert.texts": batch.report.n_texts, "bert.tokens": batch.report.n_tokens}):
            self.inference(batch)
        explained = [trace for trace, state in zip(traces, batch.requests, strict=True) if state.request.explain]
        _begin(explained, "explain", time.monotonic() - batch.report.explain_s)
        _begin(traces, "write")
        contents = self.postprocess(batch)
        for trace, state, content in zip(traces, batch.requests, contents, strict=True):
            trace.note_outcome(state)
            n_received = len(state.request.body.content or b"")
            trace.note({"http.request.body.size": n_received, "http.response.body.size": len(content)})
            trace.end(state.error.status if state.error else 200)
        return contents

    def _trace(self, tracer: Tracing, index: int) -> RequestTrace:
        headers, model = _headers(self.context, index), self.predictor.model
        name = "explain" if headers.get("explain") == "True" else "predict"
        return tracer.request(name, headers, {"bert.model.name": model.name, "bert.model.version": model.version})

    def preprocess(self, data: Sequence[Mapping[str, Any]]) -> BatchContext:
        """Parse and encode every row."""
        return self.predictor.preprocess([self._request(index, row) for index, row in enumerate(data)])

    def inference(self, batch: BatchContext) -> BatchContext:
        """Compute the output of every encoding of the batch."""
        self.predictor.inference(batch)
        return batch

    def postprocess(self, batch: BatchContext) -> list[bytes]:
        """Decode and serialize every answer, and report the measurements of the batch."""
        responses = self.predictor.postprocess(batch)
        for index, response in enumerate(responses):
            self._respond(index, response)
        self.metrics.add(batch.report.measurements(self.predictor.model.version))
        if self.predictor.engine.device_failed:
            # TorchServe starts another worker; the answers of this batch and of the next ones are sent before.
            threading.Timer(SHUTDOWN_GRACE_S, os._exit, (1,)).start()
        return [response.content for response in responses]

    def _request(self, index: int, row: Mapping[str, Any]) -> Request:
        headers = _headers(self.context, index)
        content_type = headers.get("content-type", "")
        form = is_form(content_type)
        field = next((name for name in (("data",) if form else ("body", "data")) if name in row), None)
        if form:
            part = self.context.get_all_request_header(index).get(field)
            content_type = (part.get("content-type") if isinstance(part, dict) else None) or "text/plain"
        return request_from(
            _content(row.get(field) if field else None),
            content_type,
            headers,
            operation=headers.get("url_path", ""),
            explain=headers.get("explain") == "True",
            # TorchServe sets `explain` on every HTTP prediction, and `url_path` on those of its own routes.
            kserve="explain" in headers and "url_path" not in headers,
            typed="host" in headers or "explain" in headers,  # gRPC has no headers
        )

    def _respond(self, index: int, response: Response) -> None:
        self.context.set_response_status(response.status, response.phrase, index)
        self.context.set_response_content_type(index, "application/json")
        for name, value in response.headers.items():
            self.context.set_response_header(index, name, value)

    def _measure(self, measurement: Measurement) -> None:
        with contextlib.suppress(Exception):  # a metrics file without this metric must not end the others
            metric = self.context.metrics.get_metric(measurement.name, MetricTypes(measurement.kind))
            metric.add_or_update(measurement.value, [self.predictor.model.name, *measurement.labels])


def _begin(traces: Sequence[RequestTrace], phase: str, at: float | None = None) -> None:
    for trace in traces:
        trace.begin(phase, at)


def _headers(context: Any, index: int) -> dict[str, str]:
    """Return the headers of one row by lower-case name, without TorchServe's form fields, which are not strings."""
    headers = {name: value for name, value in context.get_all_request_header(index).items() if isinstance(value, str)}
    by_lower_case = {name.lower(): value for name, value in headers.items()}
    # TorchServe's own headers are in lower case: a client's header in other capitals must not override one.
    return by_lower_case | {name: value for name, value in headers.items() if name in by_lower_case}


def _is_describe(headers: Mapping[str, str]) -> bool:
    """Tell TorchServe's request for a description from a prediction with that header, which has `explain` too."""
    return headers.get("describe") == "True" and "explain" not in headers


def _content(value: Any) -> bytes | None:
    """Return the bytes of a body; None if TorchServe decoded it to another type."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return bytes(value) if isinstance(value, bytes | bytearray) else None


def _log_to_standard_error() -> None:
    """Log this package's warnings to standard error, which TorchServe logs as warnings; it parses standard output.

    TorchServe's worker writes a line to standard output for every batch that it reads, which its frontend reads and
    drops: only its metrics go there from now on.
    """
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("ts.metrics").setLevel(logging.INFO)
    package_logger = logging.getLogger("handler")
    if not package_logger.handlers:
        lines = logging.StreamHandler()
        lines.setFormatter(tracing.TraceIdFormatter())
        package_logger.addHandler(lines)
        package_logger.setLevel(logging.WARNING)


def _refuse_other_code(folder: Path) -> None:
    """Refuse a `handler` package that is not the archive's: TorchServe puts PYTHONPATH before the archive."""
    imported = Path(handler.__file__ or "").resolve().parent
    if imported != (folder / "handler").resolve():
        raise ConfigError(
            f"the code in use lies in {imported}, not in the archive: start TorchServe without PYTHONPATH"
        )
