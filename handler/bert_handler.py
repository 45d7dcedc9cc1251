"""The door: TorchServe context in, bytes and status out.

TorchServe imports this file by name from the root of an archive, looks for exactly one class and calls `initialize`
and `handle`. No other module of the package knows TorchServe. Nothing here prints or logs the text of a user:
TorchServe obeys some lines of a worker's output.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ts.metrics.metric_type_enum import MetricTypes

import handler
from handler import protocol
from handler.config import ModelConfig
from handler.engine.device import place
from handler.errors import ConfigError
from handler.predictor import Predictor
from handler.protocol import Body
from handler.request_state import BatchContext, Request, Response
from handler.telemetry import BatchReport

PATIENCE = 0.7  # of responseTimeout, after which TorchServe kills the worker; one more forward pass must fit in
LAST_WORDS_S = 1.0  # from the loss of the device to the end of the worker
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


class BertHandler:
    """What TorchServe calls. A batch of requests goes through `preprocess`, `inference` and `postprocess`."""

    predictor: Predictor
    context: Any

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
        name, patience = str(context.model_name), PATIENCE * (config.frontend.responseTimeout or 120)
        self.predictor = Predictor.load(folder, config.handler, device, name=name, version=version, patience_s=patience)

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[bytes]:
        """Answer one TorchServe batch: as many answers as rows, each with its own status and headers."""
        self.context = context
        if len(data) == 1 and not data[0] and _is_describe(_headers(context, 0)):
            context.set_response_content_type(0, "application/json")
            return [protocol.serialize_value(self.predictor.describe())]
        return self.postprocess(self.inference(self.preprocess(data)))

    def preprocess(self, data: Sequence[Mapping[str, Any]]) -> BatchContext:
        """Read, parse and encode every row."""
        return self.predictor.read([self._request(index, row) for index, row in enumerate(data)])

    def inference(self, work: BatchContext) -> BatchContext:
        """Compute the values of every encoding of the batch."""
        self.predictor.run(work)
        return work

    def postprocess(self, work: BatchContext) -> list[bytes]:
        """Decode and write every answer, and report what the batch cost."""
        replies = self.predictor.write(work)
        for index, reply in enumerate(replies):
            self._respond(index, reply)
        self._measure(work.report)
        if self.predictor.engine.device_failed:
            # TorchServe starts another worker; these answers, and those of batches already on their way, leave first.
            threading.Timer(LAST_WORDS_S, os._exit, (1,)).start()
        return [reply.content for reply in replies]

    def _request(self, index: int, row: Mapping[str, Any]) -> Request:
        headers = _headers(self.context, index)
        content_type = headers.get("content-type", "")
        # TorchServe puts `explain` on every HTTP prediction and `url_path` on those of its own routes.
        kserve = "explain" in headers and "url_path" not in headers
        is_form = content_type.lower().startswith(FORMS)
        field = next((name for name in (("data",) if is_form else ("body", "data")) if name in row), None)
        if is_form:
            part = self.context.get_all_request_header(index).get(field)
            content_type = part.get("content-type") or "" if isinstance(part, dict) else ""
        elif kserve and not content_type:
            content_type = "application/json"  # tritonclient names no type
        json_length = headers.get("inference-header-content-length", "")
        body = Body(
            content=_content(row.get(field) if field else None),
            content_type=content_type,
            content_encoding=headers.get("content-encoding", ""),
            typed="host" in headers or "explain" in headers,  # gRPC has no headers
            json_length=int(json_length) if json_length.isdecimal() and len(json_length) < 20 else None,
        )
        return Request(
            body,
            operation=headers.get("url_path", "").strip("/"),
            explain=headers.get("explain") == "True",
            kserve=kserve,
            deadline_ms=_milliseconds(headers.get("x-request-deadline-ms")),
            id=headers.get("x-request-id"),
        )

    def _respond(self, index: int, reply: Response) -> None:
        self.context.set_response_status(reply.status, reply.phrase, index)
        self.context.set_response_content_type(index, "application/json")
        for name, value in reply.headers.items():
            self.context.set_response_header(index, name, value)

    def _measure(self, report: BatchReport) -> None:
        for measured in report.measurements():
            with contextlib.suppress(Exception):  # a metrics file without our names must not cost an answer
                metric = self.context.metrics.get_metric(measured.name, MetricTypes(measured.kind))
                metric.add_or_update(measured.value, [self.predictor.model.name, *measured.labels])


def _headers(context: Any, index: int) -> dict[str, str]:
    """Return the headers of one row by lower-case name; TorchServe mixes form fields in, which are no strings."""
    headers = context.get_all_request_header(index)
    given = {name.lower(): value for name, value in headers.items() if isinstance(value, str)}
    # What TorchServe sets is in lower case, and a client's header in other capitals does not speak for it.
    return given | {name: value for name, value in headers.items() if isinstance(value, str) and name in given}


def _is_describe(headers: Mapping[str, str]) -> bool:
    """Tell TorchServe's own question from a client's header on a prediction, where TorchServe puts `explain`."""
    return headers.get("describe") == "True" and "explain" not in headers


def _content(value: Any) -> bytes | None:
    """Return a body's bytes; what TorchServe decoded (decode_input_request=true) is no longer what was sent."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return bytes(value) if isinstance(value, bytes | bytearray) else None


def _milliseconds(header: str | None) -> float | None:
    try:
        deadline = float(header or "nan")
    except ValueError:
        return None
    return deadline if math.isfinite(deadline) else None


def _log_to_standard_error() -> None:
    """Send this package's warnings where TorchServe takes them for warnings; standard output is its protocol."""
    ours = logging.getLogger("handler")
    if not ours.handlers:
        ours.addHandler(logging.StreamHandler())
        ours.setLevel(logging.WARNING)


def _refuse_other_code(folder: Path) -> None:
    """Refuse to serve with a `handler` package from elsewhere: TorchServe puts PYTHONPATH before the archive."""
    imported = Path(handler.__file__ or "").resolve().parent
    if imported != (folder / "handler").resolve():
        raise ConfigError(
            f"the code in use lies in {imported}, not in the archive: start TorchServe without PYTHONPATH"
        )
