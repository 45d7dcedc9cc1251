"""Rows, batches and answers as TorchServe frames them, and a worker around the handler."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.service import Service

from handler.bert_handler import BertHandler
from handler.protocol import JSON, serialize_value
from handler.request_state import Response
from tests.support.samples import JSON_TYPE, TEXTS, response_json

TEXT = TEXTS[0]
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [TEXT]}
FORM = "multipart/form-data; boundary=x"
CURL_FORM = "application/x-www-form-urlencoded"
DOCUMENTED = {200, 400, 404, 413, 415, 422, 504}

Field = tuple[str, str, bytes]  # name, content type, value


class Sent(NamedTuple):
    """One request, as TorchServe's frontend sends it to a worker."""

    fields: list[Field]
    headers: dict[str, str]


class Answered(NamedTuple):
    """One answer, as TorchServe's frontend reads it from a worker."""

    status: int
    phrase: str
    content_type: str
    headers: dict[str, str]
    content: bytes

    @property
    def value(self) -> Any:
        """The JSON of the content."""
        return response_json(Response(self.content))


def http(content: bytes | str, content_type: str | None = "text/plain", **headers: str) -> Sent:
    """Return a request on /predictions; header names are written with underscores."""
    body = content.encode() if isinstance(content, str) else content
    own = {"Host": "localhost:8080", "explain": "False", "url_path": ""}
    typed = {} if content_type is None else {"Content-Type": content_type}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return Sent([("body", content_type or "", body)], {**own, **typed, **given})


def with_headers(sent: Sent, *headers: tuple[str, str]) -> Sent:
    """Return a request with headers put after its own."""
    return Sent(sent.fields, {**sent.headers, **dict(headers)})


def kserve(value: JSON, content_type: str | None = JSON_TYPE, **headers: str) -> Sent:
    """Return a request on one of KServe's routes, where TorchServe sets no `url_path`."""
    sent = http(serialize_value(value), content_type, **headers)
    return Sent(sent.fields, {name: text for name, text in sent.headers.items() if name != "url_path"})


def form(*fields: Field, content_type: str = FORM) -> Sent:
    """Return a request with a form, which TorchServe has decoded."""
    return Sent(list(fields), http(b"", content_type).headers)


def grpc(**fields: bytes) -> Sent:
    """Return a request of the gRPC service Predictions: neither headers nor types."""
    return Sent([(name, "", value) for name, value in fields.items()], {})


DESCRIBE = Sent([], {"describe": "True"})


def message_of(requests: list[Sent]) -> list[dict[str, Any]]:
    """Return a batch as TorchServe's worker decodes it from its socket."""
    return [
        {
            "requestId": bytearray(f"request-{index}".encode()),
            "headers": [
                {"name": bytearray(name.encode()), "value": bytearray(value.encode())}
                for name, value in sent.headers.items()
            ],
            "parameters": [
                {"name": name, "contentType": content_type, "value": bytearray(value)}
                for name, content_type, value in sent.fields
            ],
        }
        for index, sent in enumerate(requests)
    ]


class Frames:
    """A reader of the frames that TorchServe's worker writes: lengths and codes are big-endian."""

    def __init__(self, message: bytes) -> None:
        self.message = message
        self.at = 0

    def number(self) -> int:
        """Read four bytes."""
        (number,) = struct.unpack_from("!i", self.message, self.at)
        self.at += 4
        return int(number)

    def string(self) -> bytes:
        """Read a length and so many bytes."""
        length = self.number()
        self.at += length
        return self.message[self.at - length : self.at]


def decoded(message: bytes) -> list[Answered]:
    """Read a worker's message; the batch as a whole must have succeeded."""
    frames = Frames(bytes(message))
    assert (frames.number(), frames.string()) == (200, b"Prediction success")
    answers: list[Answered] = []
    while struct.unpack_from("!i", frames.message, frames.at)[0] != -1:
        assert frames.string() == f"request-{len(answers)}".encode()
        content_type, status, phrase = frames.string(), frames.number(), frames.string()
        headers = {frames.string().decode("ascii"): frames.string().decode("ascii") for _ in range(frames.number())}
        answers.append(Answered(status, phrase.decode("ascii"), content_type.decode("ascii"), headers, frames.string()))
    assert frames.at + 4 == len(frames.message)
    return answers


def metrics_of(path: Path) -> Any:
    """Return TorchServe's metrics, made from a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # TorchServe leaves the file to the garbage collector
        cache = MetricsCacheYamlImpl(config_file_path=str(path))
    cache.initialize_cache()
    cache.model_name = "tiny"
    return cache


class Worker:
    """TorchServe's service around a handler."""

    def __init__(self, bert_handler: BertHandler, metrics: Any = None) -> None:
        self.handler = bert_handler
        self.service = Service("tiny", "", None, bert_handler.handle, None, 8, True, metrics)
        self.service.set_cl_socket(None)

    def __call__(self, *requests: Sent) -> list[Answered]:
        """Send a batch, and return the answer to each request."""
        answers = decoded(self.service.predict(message_of(list(requests))))
        assert len(answers) == len(requests)
        for answer in answers:
            assert answer.content_type == JSON_TYPE
            assert answer.headers["content-type"] == JSON_TYPE
            assert answer.content.isascii()
            assert all(text.isprintable() for text in (answer.phrase, *answer.headers, *answer.headers.values()))
        return answers
