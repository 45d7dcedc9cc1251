"""The door: rows as TorchServe hands them, with its own context, service, metrics and loader."""

from __future__ import annotations

import json
import logging
import os
import shutil
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from ts.context import Context, RequestProcessor
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.service import Service

from handler import archive
from handler.bert_handler import BertHandler
from handler.config import ModelConfig, ServingConfig
from handler.errors import ConfigError, GoldenMismatch, ModelMismatch, StartupError
from handler.predictor import Predictor
from handler.wire import JSON, parse, write_value
from handler.work import Reply
from scripts.package import build
from tests.samples import JSON_TYPE, ROOT, TEXTS, ask, told

TEXT = TEXTS[0]
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
        return told(Reply(self.content))


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


def kserve(value: JSON, content_type: str = JSON_TYPE, **headers: str) -> Sent:
    """Return a request on one of KServe's routes, where TorchServe sets no `url_path`."""
    sent = http(write_value(value), content_type, **headers)
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


@pytest.fixture(scope="module")
def door(predictor: Predictor) -> BertHandler:
    """Return a handler whose model is loaded already."""
    door = BertHandler()
    door.predictor = predictor
    return door


class Worker:
    """TorchServe's service around a door."""

    def __init__(self, door: BertHandler, metrics: Any = None) -> None:
        self.service = Service("tiny", "", None, door.handle, None, 8, True, metrics)
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


@pytest.fixture(scope="module")
def worker(door: BertHandler) -> Worker:
    """Return a worker with the project's own metrics file."""
    return Worker(door, metrics_of(ROOT / "metrics.yaml"))


@pytest.fixture(scope="module")
def expected(predictor: Predictor) -> JSON:
    """Return the answer to `TEXT`."""
    return told(ask(predictor, TEXT)[0])


# --- bodies ------------------------------------------------------------------------------------------------------

BINARY = struct.pack("<I", len(TEXT)) + TEXT.encode()
BINARY_HEAD = write_value(
    {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(BINARY)}}]}
)
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [TEXT]}

ROWS: dict[str, Sent] = {
    "text": http(TEXT),
    "no type": http(TEXT, None),
    "bytes": http(TEXT, "application/octet-stream"),
    "JSON string": http(write_value(TEXT), JSON_TYPE),
    "JSON object": http(write_value({"text": TEXT}), "Application/JSON; charset=UTF-8"),
    "Hugging Face": http(write_value({"inputs": TEXT}), JSON_TYPE),
    "operation": with_headers(http(TEXT), ("url_path", "predict")),
    "operation with slashes": with_headers(http(TEXT), ("url_path", "/predict/")),
    "type in lower case": Sent([("body", "", TEXT.encode())], {"host": "h", "content-type": "text/plain"}),
    "type in upper case": Sent([("body", "", write_value(TEXT))], {"HOST": "h", "CONTENT-TYPE": "APPLICATION/JSON"}),
    "KServe v1": kserve({"instances": [TEXT]}),
    "KServe v1 with a stray header": kserve({"instances": [TEXT]}, url_path="embed"),
    "KServe v2": kserve({"inputs": [TENSOR]}),
    "KServe v2 with a stray header": with_headers(kserve({"inputs": [TENSOR]}), ("url_path", "embed")),
    "KServe v2 binary": Sent(
        [("body", "", BINARY_HEAD + BINARY)],
        {"host": "h", "explain": "False", "Inference-Header-Content-Length": str(len(BINARY_HEAD))},
    ),
    "form": form(("data", "", TEXT.encode())),
    "form with a type": form(("data", "text/plain; charset=UTF-8", TEXT.encode())),
    "form with JSON": form(("data", JSON_TYPE, write_value(TEXT))),
    "form of curl": form(("data", "", TEXT.encode()), content_type=CURL_FORM),
    "form in capitals": form(("data", "", TEXT.encode()), content_type="Multipart/Form-Data; boundary=y"),
    "form with fields called like headers": form(
        ("explain", "", b"True"),
        ("url_path", "", b"embed"),
        ("describe", "", b"True"),
        ("content-type", "", b"image/png"),
        ("content-encoding", "", b"gzip"),
        ("host", "", b"x"),
        ("x-request-id", "", b"x"),
        ("x-request-deadline-ms", "", b"1"),
        ("inference-header-content-length", "", b"3"),
        ("body", "", b"not this"),
        ("data", "", TEXT.encode()),
    ),
    "form with 10,000 fields": form(*((f"field{n}", "", b"x") for n in range(10_000)), ("data", "", TEXT.encode())),
    "query of /invocations": Sent(
        [("model_name", "", b"tiny"), ("data", "", b"not this"), *http(TEXT).fields], http(TEXT).headers
    ),
    "gRPC data": grpc(data=TEXT.encode()),
    "gRPC body": grpc(body=TEXT.encode()),
    "gRPC JSON": grpc(data=write_value(TEXT)),
    "gRPC object": grpc(body=write_value({"text": TEXT})),
}  # fmt: skip


def answer_of(answered: Answered) -> JSON:
    """Return the ranking inside any dialect's answer."""
    value = answered.value
    if isinstance(value, dict) and "predictions" in value:
        (value,) = value["predictions"]
    if isinstance(value, dict) and "outputs" in value:
        labels, scores = (tensor["data"] for tensor in value["outputs"])
        value = [{"label": label, "score": score} for label, score in zip(labels, scores, strict=True)]
    return value[0] if isinstance(value[0], list) else value


@pytest.mark.parametrize("sent", ROWS.values(), ids=ROWS)
def test_every_kind_of_row_is_answered(worker: Worker, predictor: Predictor, expected: JSON, sent: Sent) -> None:
    """One text, through every door and in every dialect: one answer."""
    (answered,) = worker(sent)
    assert (answered.status, answered.phrase) == (200, "OK")
    assert predictor.task.agree(answer_of(answered), expected, 1e-6)
    assert answered.headers["x-request-tokens"] == answered.headers["x-batch-tokens"]


def test_rows_of_one_batch_may_differ_in_everything(worker: Worker, predictor: Predictor, expected: JSON) -> None:
    """All of them at once, in their own dialects, with other texts between."""
    others = [http(text) for text in TEXTS[1:]]
    mixed = [*others[:5], *ROWS.values(), *others[5:]]
    answers = worker(*mixed)
    assert {answered.status for answered in answers} == {200}
    for answered in answers[5 : 5 + len(ROWS)]:
        assert predictor.task.agree(answer_of(answered), expected, 1e-6)
    for text, answered in zip(TEXTS[1:], [*answers[:5], *answers[5 + len(ROWS) :]], strict=True):
        assert predictor.task.agree(answered.value, told(ask(predictor, text)[0]), 1e-6)


REFUSED: dict[str, tuple[Sent, int]] = {
    "curl -d": (form(content_type=CURL_FORM), 415),
    "form without data": (form(("text", "", TEXT.encode())), 415),
    "form without a boundary": (form(content_type="multipart/form-data"), 415),
    "form with an upper-case field": (form(("DATA", "", TEXT.encode())), 415),
    "form with empty data": (form(("data", "", b"")), 400),
    "form with a picture": (form(("data", "image/png", b"\x89PNG")), 415),
    "form with another charset": (form(("data", "text/plain; charset=ISO-8859-1", b"\xe9")), 415),
    "form with bad JSON": (form(("data", JSON_TYPE, b"{")), 400),
    "form that is called describe": (form(("describe", "", b"True")), 415),
    "multipart, but no form": (form(content_type="multipart/mixed; boundary=x"), 415),
    "empty body": (http(b""), 400),
    "empty JSON": (http(b"", JSON_TYPE), 400),
    "not UTF-8": (http(b"\xff\xfe"), 400),
    "gzip": (http(b"\x1f\x8b", JSON_TYPE, Content_Encoding="gzip"), 415),
    "another type": (http(TEXT, "image/png"), 415),
    "number": (http(b"7", JSON_TYPE), 422),
    "unknown operation": (with_headers(http(TEXT), ("url_path", "embed")), 404),
    "explanations": (with_headers(http(TEXT), ("explain", "True")), 404),
    "explanations of a form": (with_headers(form(("data", "", TEXT.encode())), ("explain", "True")), 404),
    "KServe v1 explain": (with_headers(kserve({"instances": [TEXT]}), ("explain", "True")), 404),
    "deadline": (http(TEXT, X_Request_Deadline_Ms="1"), 504),
    "KServe v2 wrong datatype": (kserve({"inputs": [{**TENSOR, "datatype": "FP32"}]}), 422),
    "KServe v2 cut short": (
        Sent([("body", "", BINARY_HEAD)], {"host": "h", "Inference-Header-Content-Length": str(len(BINARY_HEAD))}),
        400,
    ),
    "gRPC without a body": (grpc(text=TEXT.encode()), 415),
    "gRPC empty": (grpc(data=b""), 400),
    "gRPC nothing": (grpc(), 415),
    "gRPC bad JSON": (grpc(data=b'{"text"'), 400),
}


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED)
def test_a_refused_row_harms_only_itself(
    worker: Worker, predictor: Predictor, expected: JSON, sent: Sent, status: int
) -> None:
    """The documented status for one row, 200 for its neighbours, and a reason that HTTP can carry."""
    first, refused, last = worker(http(TEXT), sent, http(write_value([TEXT]), JSON_TYPE))
    assert refused.status == status
    message = refused.value["error"] if list(refused.value) == ["error"] else refused.value["message"]
    assert refused.headers["x-error-message"] == message[:200]
    assert (first.status, last.status) == (200, 200)
    assert predictor.task.agree(first.value, expected, 1e-6)
    assert predictor.task.agree(last.value[0], expected, 1e-6)


@pytest.mark.parametrize(
    "sent",
    [
        kserve([]),
        kserve({"inputs": [{**TENSOR, "datatype": "FP32"}]}),
        kserve({"inputs": [{"name": "text", "shape": [1], "data": [TEXT]}]}),
        with_headers(kserve(""), ("Content-Type", "image/png")),
    ],
    ids=["empty", "datatype", "no datatype", "type"],
)
def test_kserve_gets_errors_in_its_own_shape(worker: Worker, sent: Sent) -> None:
    """Clients of the v2 route look for `error`."""
    (answered,) = worker(sent)
    assert answered.status in (415, 422)
    assert list(answered.value) == ["error"]


def test_an_empty_batch_has_no_answers(worker: Worker) -> None:
    """TorchServe sends none, and none comes back."""
    assert worker() == []


# --- headers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x-request-id", "X-Request-Id", "X-REQUEST-ID"])
def test_the_clients_request_id_comes_back(worker: Worker, name: str) -> None:
    """On answers and on refusals, each to its own row, whatever its capitals."""
    good, bad, other = worker(
        with_headers(http(TEXT), (name, "id-1")), with_headers(http(b""), (name, "id-2")), http(TEXT)
    )
    assert (good.headers["x-client-request-id"], bad.headers["x-client-request-id"]) == ("id-1", "id-2")
    assert "x-client-request-id" not in other.headers


@pytest.mark.parametrize(
    "request_id",
    ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "\x7f", "a\tb", "é", "\u2028", "\r\n\r\n<html>", "", "\x85"],
    ids=ascii,
)
def test_a_request_id_cannot_inject_a_header(worker: Worker, request_id: str) -> None:
    """What HTTP cannot carry in one header is not sent back at all."""
    (answered,) = worker(with_headers(http(TEXT), ("x-request-id", request_id)))
    assert answered.status == 200
    assert "x-client-request-id" not in answered.headers


def test_a_long_request_id_is_cut(worker: Worker) -> None:
    """A client does not make our answers grow."""
    (answered,) = worker(with_headers(http(TEXT), ("x-request-id", "i" * 8000)))
    assert answered.headers["x-client-request-id"] == "i" * 128


def milliseconds(seconds_from_now: float) -> str:
    """Return a deadline as a client writes it."""
    return str(int((time.time() + seconds_from_now) * 1000))


@pytest.mark.parametrize(
    ("deadline", "status"),
    [
        (milliseconds(-1), 504),
        ("0", 504),
        ("-5", 504),
        ("1.5", 504),
        (" 1 ", 504),
        (milliseconds(3600), 200),
        (milliseconds(3600) + ".5", 200),
        ("1e300", 200),
        ("", 200),
        ("soon", 200),
        ("nan", 200),
        ("inf", 200),
        ("-inf", 200),
        ("1e400", 200),
        ("9" * 5000, 200),
        ("1,000", 200),
        ("\u0661", 504),
    ],
)
@pytest.mark.parametrize("name", ["x-request-deadline-ms", "X-Request-Deadline-Ms"])
def test_deadlines(worker: Worker, name: str, deadline: str, status: int) -> None:
    """Past: refused before any work. Future, or no number: answered."""
    neighbour, answered = worker(http(TEXT), with_headers(http(TEXTS[1]), (name, deadline)))
    assert (neighbour.status, answered.status) == (200, status)
    assert answered.headers["x-batch-texts"] == ("2" if status == 200 else "1")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("inference-header-content-length", "9" * 5000),
        ("inference-header-content-length", "9" * 20),
        ("inference-header-content-length", "-1"),
        ("inference-header-content-length", "1e3"),
        ("inference-header-content-length", "\u0669"),
        ("inference-header-content-length", "\u00b2"),
        ("inference-header-content-length", "0"),
        ("inference-header-content-length", ""),
        ("data", "a header called like a field"),
        ("body", "a header called like a field"),
        ("text", "a header called like a field"),
        ("describe", "True"),
        ("explain", ""),
        ("explain", "true"),
        ("url_path", "\u00e9"),
        ("url_path", "a/b/c"),
        ("Content-Type", ""),
        ("Content-Type", ";;;=;charset"),
        ("Content-Type", "\u00e9\u0130"),
        ("content-type", "multipart/form-data"),
        ("content-encoding", "\u0130"),
        ("\u0130", "\u0130"),
        ("", ""),
    ],
    ids=lambda text: ascii(text)[:40],
)
@pytest.mark.parametrize(
    "sent", [http(TEXT), form(("data", "", TEXT.encode())), kserve([TEXT])], ids=["text", "form", "KServe"]
)
def test_a_strange_header_harms_only_its_row(worker: Worker, expected: JSON, sent: Sent, name: str, value: str) -> None:
    """Whatever a header says, the neighbours are answered, and the row itself never fails on our side."""
    first, strange, last = worker(http(TEXT), with_headers(sent, (name, value)), http(TEXT))
    assert strange.status in DOCUMENTED
    assert first.value == last.value
    assert [item["label"] for item in first.value] == [item["label"] for item in expected]


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(("name", "value"), [("Explain", "True"), ("URL_PATH", "embed"), ("EXPLAIN", "True")])
def test_a_client_cannot_speak_for_the_frontend(worker: Worker, name: str, value: str, first: bool) -> None:
    """TorchServe's own headers are in lower case; a client's in other capitals does not replace them."""
    own = http(TEXT)
    headers = {name: value, **own.headers} if first else {**own.headers, name: value}
    (answered,) = worker(Sent(own.fields, headers))
    assert answered.status == 200


@pytest.mark.parametrize(
    "value",
    [{"text": TEXT}, [TEXT], 7, 1.5, None, True, "\ud800", {"a": "\ud800"}, [], [300], TEXT, float("nan"), 10**12],
    ids=lambda value: ascii(value)[:20],
)
def test_a_row_that_torchserve_decoded_harms_only_itself(worker: Worker, value: JSON) -> None:
    """With decode_input_request=true TorchServe parses JSON before us, by its own loose rules."""
    batch = message_of([http(TEXT), http(b"", JSON_TYPE), http(TEXT)])
    batch[1]["parameters"][0]["value"] = value
    first, strange, last = decoded(worker.service.predict(batch))
    assert (first.status, last.status) == (200, 200)
    assert strange.status in DOCUMENTED


HEADER_NAMES = st.sampled_from(
    [
        "content-type", "Content-Type", "content-encoding", "explain", "url_path", "describe", "host", "data", "body",
        "x-request-id", "x-request-deadline-ms", "inference-header-content-length", "Inference-Header-Content-Length",
    ]
) | st.text(max_size=4)  # fmt: skip
HEADER_VALUES = st.sampled_from(
    ["", "True", "False", "0", "5", "application/json", "text/plain", FORM, CURL_FORM, "gzip", "predict", "9" * 5000]
) | st.text(max_size=8)
FIELDS = st.tuples(
    st.sampled_from(["data", "body", "explain", "content-type"]) | st.text(max_size=4),
    st.sampled_from(["", JSON_TYPE, "text/plain", "image/png"]),
    st.binary(max_size=12) | st.sampled_from([b"a text", b'"a text"', BINARY_HEAD + BINARY]),
)


@settings(
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(
        st.builds(Sent, st.lists(FIELDS, max_size=3), st.dictionaries(HEADER_NAMES, HEADER_VALUES, max_size=5)),
        max_size=3,
    )
)
def test_fuzzed_rows_harm_only_themselves(worker: Worker, expected: JSON, rows: list[Sent]) -> None:
    """Any fields and any headers: a documented status for each, and a right answer for the neighbour."""
    *fuzzed, good = worker(*rows, http(TEXT))
    assert {answered.status for answered in fuzzed} <= DOCUMENTED
    assert (good.status, [item["label"] for item in good.value]) == (200, [item["label"] for item in expected])


# --- describe ----------------------------------------------------------------------------------------------------


def test_describe(worker: Worker, predictor: Predictor) -> None:
    """What TorchServe's management API asks for with customized=true."""
    (answered,) = worker(DESCRIBE)
    assert answered.status == 200
    assert answered.value == predictor.describe()
    assert answered.value["labels"] == ["anger", "joy", "fear", "calm"]
    assert answered.value["limits"]["max_length"] == 512
    assert answered.value["openapi"]["openapi"].startswith("3.1")


def test_a_client_does_not_ask_for_the_description(worker: Worker) -> None:
    """A header of a client's turns a prediction into nothing else: the form has no data."""
    (answered,) = worker(with_headers(form(content_type=CURL_FORM), ("describe", "True")))
    assert answered.status == 415


# --- metrics -----------------------------------------------------------------------------------------------------


def measured(caplog: pytest.LogCaptureFixture) -> dict[str, float]:
    """Return what TorchServe's metrics wrote for its frontend, by name and dimensions."""
    found = {}
    for line in caplog.messages:
        if line.startswith("[METRICS]bert_"):
            name, _, rest = line.removeprefix("[METRICS]").partition(":")
            value, dimensions, *_ = rest.split("|")
            found[f"{name.partition('.')[0]} {dimensions.lstrip('#')}"] = float(value)
    return found


def test_metrics_are_those_of_the_metrics_file(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    """Every measurement finds its metric in metrics.yaml, with as many dimensions as declared there."""
    caplog.set_level(logging.INFO)
    with caplog.at_level(logging.INFO):
        worker(http(TEXT), http("word " * 700), http(b""), http(b"7", JSON_TYPE), http(b"", JSON_TYPE))
    found = measured(caplog)
    assert not [message for message in caplog.messages if "Failed to update" in message]
    seconds = {name: found.pop(name) for name in [*found] if "_seconds" in name}
    assert set(seconds) == {"bert_tokenize_seconds ModelName:model", "bert_inference_seconds ModelName:model"}
    assert all(0 < value < 60 for value in seconds.values())
    truncated = found.pop("bert_truncated_tokens_total ModelName:model")
    assert truncated == 702 - 512
    assert found.pop("bert_tokens_total ModelName:model") > 512
    assert found == {
        "bert_batches_total ModelName:model": 1,
        "bert_texts_total ModelName:model": 2,
        "bert_refused_requests_total ModelName:model,ErrorType:MalformedBody": 2,
        "bert_refused_requests_total ModelName:model,ErrorType:InvalidInput": 1,
    }


def test_every_metric_of_the_file_is_emitted_somewhere() -> None:
    """metrics.yaml declares no metric of ours that nothing feeds."""
    declared = set()
    for line in (ROOT / "metrics.yaml").read_text(encoding="utf-8").splitlines():
        _, found, name = line.partition("- name: bert_")
        declared |= {f"bert_{name.strip()}"} if found else set()
    source = (ROOT / "handler" / "telemetry.py").read_text(encoding="utf-8")
    assert declared
    assert not {name for name in declared if f'"{name}"' not in source}


def test_a_metrics_file_without_ours_costs_no_answer(door: BertHandler, tmp_path: Path) -> None:
    """An operator may run TorchServe with any metrics file."""
    path = tmp_path / "metrics.yaml"
    path.write_text(
        "model_metrics:\n  gauge:\n    - name: PredictionTime\n      unit: ms\n      dimensions: [ModelName, Level]\n",
        encoding="utf-8",
    )
    (answered,) = Worker(door, metrics_of(path))(http(TEXT))
    assert answered.status == 200


def test_no_metrics_cost_no_answer(door: BertHandler) -> None:
    """TorchServe's context without metrics, as in its own tests."""
    context = Context("tiny", "", None, 8, None, "0.12.0")
    context.request_processor = [RequestProcessor(http(TEXT).headers)]
    (content,) = door.handle([{"body": bytearray(TEXT.encode())}], context)
    assert context.get_response_status(0) == (200, "OK")
    assert context.get_response_content_type(0) == JSON_TYPE
    assert told(Reply(content))


# --- archives ----------------------------------------------------------------------------------------------------


def unpack(packed: Path, folder: Path) -> Path:
    """Unpack an archive as TorchServe does."""
    with zipfile.ZipFile(packed) as opened:
        opened.extractall(folder)
    return folder


def link(unpacked: Path, folder: Path) -> Path:
    """Copy an unpacked archive, but take its code from where the tests import it."""
    shutil.copytree(unpacked, folder, ignore=shutil.ignore_patterns("handler"))
    (folder / "handler").symlink_to(ROOT / "handler", target_is_directory=True)
    return folder


@pytest.fixture(scope="module")
def unpacked(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder into which TorchServe unpacks an archive of ours."""
    store = tmp_path_factory.mktemp("store")
    return unpack(build(model_folder, "tiny", "1.3", ModelConfig(), store), store / "unpacked")


@pytest.fixture
def linked(unpacked: Path, tmp_path: Path) -> Path:
    """Return a copy of the unpacked archive whose code is the code under test, as if it were imported from there."""
    return link(unpacked, tmp_path / "linked")


@pytest.fixture(autouse=True)
def process_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what a worker does to its process: threads, their environment, the handler's logger.

    One thread is enough for a model this small, and keeps a busy machine from waiting for the other.
    """
    monkeypatch.setenv("RAYON_NUM_THREADS", os.environ.get("RAYON_NUM_THREADS", "1"))
    threads, logger = torch.get_num_threads(), logging.getLogger("handler")
    level, handlers = logger.level, list(logger.handlers)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    logger.setLevel(level)
    logger.handlers[:] = handlers


def start(folder: Path) -> Worker:
    """Initialise a door as TorchServe's loader does: manifest and model-config.yaml are read by TorchServe."""
    metrics = metrics_of(ROOT / "metrics.yaml")
    manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text(encoding="utf-8"))
    door = BertHandler()
    context = Service("tiny", str(folder), manifest, door.handle, None, 8, True, metrics).context
    door.initialize(context)
    return Worker(door, metrics)


def repack(folder: Path) -> None:
    """Write the manifest anew, as if the files had been packed as they now are."""
    archive.write_manifest(folder, "tiny", "1.3", "text-classification")


def test_an_archive_starts_and_answers(linked: Path, predictor: Predictor, expected: JSON) -> None:
    """Name, version and hash are the archive's; the answers are the model's."""
    worker = start(linked)
    answered, v2 = worker(http(TEXT), kserve({"inputs": [TENSOR]}))
    assert predictor.task.agree(answered.value, expected, 1e-5)
    assert answered.headers["x-model-hash"] == archive.read_manifest(linked).model_hash[:16]
    assert (v2.value["model_name"], v2.value["model_version"]) == ("tiny", "1.3")
    (described,) = worker(DESCRIBE)
    assert (described.value["name"], described.value["version"]) == ("tiny", "1.3")
    assert described.value["model_hash"].startswith(answered.headers["x-model-hash"])


def edit(path: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Return a change of one file of an archive."""

    def edited(folder: Path) -> None:
        (folder / path).write_bytes(change((folder / path).read_bytes()))

    return edited


def edit_json(path: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Return a change of one JSON file of an archive."""
    return edit(path, lambda content: write_value(change(parse(content.decode()))))


def add(path: str) -> Callable[[Path], None]:
    """Return the addition of a file."""

    def added(folder: Path) -> None:
        (folder / path).write_bytes(b"x = 1\n")

    return added


def remove(path: str) -> Callable[[Path], None]:
    """Return the removal of a file."""
    return lambda folder: (folder / path).unlink()


def scale_weights(folder: Path) -> None:
    """Put other weights of the same shape into an archive."""
    path = folder / "model" / "model.safetensors"
    save_file({name: weight * 1.5 for name, weight in load_file(path).items()}, path, {"format": "pt"})


def drop_head(folder: Path) -> None:
    """Take the weights of the head out of an archive."""
    path = folder / "model" / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if not k.startswith("classifier")}, path, {"format": "pt"})


def then_repack(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """Return a change whose manifest fits it: a mistake made before packing."""

    def changed(folder: Path) -> None:
        change(folder)
        repack(folder)

    return changed


def other_answers(golden: JSON) -> JSON:
    """Exchange the labels of the first golden answer."""
    first = golden["answers"][0]
    scores = [item["score"] for item in first][::-1]
    golden["answers"][0] = [{**item, "score": score} for item, score in zip(first, scores, strict=True)]
    return golden


SETTINGS = "model-config.yaml"
WEIGHTS = "model/model.safetensors"
WRONG: dict[str, tuple[Callable[[Path], None], type[StartupError], str]] = {
    "weights missing": (remove(WEIGHTS), ModelMismatch, "model.safetensors is missing"),
    "tokenizer missing": (remove("model/tokenizer.json"), ModelMismatch, "tokenizer.json is missing"),
    "golden answers missing": (remove("golden.json"), ModelMismatch, "golden.json is missing"),
    "code missing": (remove("bert_handler.py"), ModelMismatch, "bert_handler.py is missing"),
    "manifest missing": (remove("manifest.json"), ModelMismatch, "manifest.json|config.json"),
    "weights changed": (edit(WEIGHTS, lambda old: old[:-1] + bytes([old[-1] ^ 1])), ModelMismatch, "SHA-256 differs"),
    "weights cut": (edit(WEIGHTS, lambda old: old[: len(old) // 2]), ModelMismatch, "SHA-256 differs"),
    "labels changed": (edit("model/config.json", lambda old: old.replace(b"joy", b"JOY")), ModelMismatch, "SHA-256"),
    "code changed": (edit("bert_handler.py", lambda old: old + b"\n"), ModelMismatch, "bert_handler.py is not"),
    "golden answers changed": (edit_json("golden.json", other_answers), ModelMismatch, "golden.json is not"),
    "settings changed": (
        edit(SETTINGS, lambda old: old + b"minWorkers: 1\n"),
        ModelMismatch,
        "model-config.yaml is not",
    ),
    "weights added": (add("model/pytorch_model.bin"), ModelMismatch, "pytorch_model.bin was not in the archive"),
    "code added at the root, from where the entry file is imported": (
        add("yaml.py"),
        ModelMismatch,
        "yaml.py was not in the archive",
    ),
    "manifest is no JSON": (edit("manifest.json", lambda old: old[:-5]), ModelMismatch, "manifest.json cannot be read"),
    "manifest is empty": (edit("manifest.json", lambda _: b""), ModelMismatch, "manifest.json cannot be read"),
    "manifest is a list": (edit("manifest.json", lambda _: b"[]"), ModelMismatch, "does not hold an object"),
    "manifest of another format": (
        edit_json("manifest.json", lambda old: {**old, "format": 99}),
        ModelMismatch,
        "has format 99",
    ),
    "manifest without files": (
        edit_json("manifest.json", lambda old: {k: v for k, v in old.items() if k != "files"}),
        ModelMismatch,
        "lacks",
    ),
    "manifest with a list of files": (
        edit_json("manifest.json", lambda old: {**old, "files": list(old["files"])}),
        ModelMismatch,
        "manifest.json",
    ),
    "other answers when packed": (
        then_repack(edit_json("golden.json", other_answers)),
        GoldenMismatch,
        "golden question 0 is answered differently",
    ),
    "other weights when packed": (then_repack(scale_weights), GoldenMismatch, "answered differently"),
    "fewer answers than questions": (
        then_repack(edit_json("golden.json", lambda old: {**old, "answers": old["answers"][:2]})),
        StartupError,
        "golden",
    ),
    "golden answers that are no rankings": (
        then_repack(edit_json("golden.json", lambda old: {**old, "answers": [7] * 5})),
        StartupError,
        "golden",
    ),
    "golden questions that nobody can answer": (
        then_repack(edit_json("golden.json", lambda old: {**old, "items": [None] * 5})),
        StartupError,
        "golden",
    ),
    "golden answers without questions": (
        then_repack(edit_json("golden.json", lambda old: {"answers": old["answers"]})),
        ModelMismatch,
        "golden.json lacks",
    ),
    "no head when packed": (then_repack(drop_head), ModelMismatch, "the weights lack classifier"),
    "cut weights when packed": (
        then_repack(edit(WEIGHTS, lambda old: old[:1000])),
        ModelMismatch,
        "weights cannot be loaded",
    ),
    "no weights when packed": (then_repack(remove(WEIGHTS)), ModelMismatch, "weights cannot be loaded"),
    "broken config when packed": (then_repack(edit("model/config.json", lambda _: b"{")), ModelMismatch, "config.json"),
    "unknown family when packed": (
        then_repack(edit("model/config.json", lambda old: old.replace(b'"bert"', b'"birt"'))),
        ModelMismatch,
        "config.json",
    ),
    "broken tokenizer when packed": (
        then_repack(edit("model/tokenizer.json", lambda old: old[:1000])),
        ModelMismatch,
        "tokenizer",
    ),
    "unknown setting of the handler": (
        edit(SETTINGS, lambda old: old.replace(b"max_texts", b"max_text")),
        ConfigError,
        "did you mean handler.max_texts",
    ),
    "unknown setting of TorchServe": (
        edit(SETTINGS, lambda old: old + b"batchsize: 4\n"),
        ConfigError,
        "did you mean batchSize",
    ),
    "setting of a wrong type": (
        edit(SETTINGS, lambda old: old.replace(b"max_texts: 1000", b"max_texts: many")),
        ConfigError,
        "handler.max_texts",
    ),
    "setting out of range": (
        edit(SETTINGS, lambda old: old.replace(b"max_texts: 1000", b"max_texts: 0")),
        ConfigError,
        "handler.max_texts is 0",
    ),
    "more tokens than the model reads": (
        then_repack(edit(SETTINGS, lambda old: old + b"  max_length: 513\n")),
        ConfigError,
        "reads 5 to 512 tokens",
    ),
    "precision that the hardware lacks": (
        then_repack(edit(SETTINGS, lambda old: old.replace(b"precision: fp32", b"precision: fp16"))),
        ConfigError,
        "fp16",
    ),
}


@pytest.mark.parametrize(("change", "error", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_archive_never_becomes_ready(
    linked: Path, change: Callable[[Path], None], error: type[StartupError], message: str
) -> None:
    """The error that TorchServe reports, a RuntimeError, and says what is wrong."""
    assert issubclass(error, RuntimeError)
    change(linked)
    with pytest.raises(error, match=message):
        start(linked)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_texts": 1},
        {"max_characters": 20},
        {"max_length": 8},
        {"max_length": 8, "overflow": "refuse"},
        {"max_batch_tokens": 1, "top_k": 1, "threads": 1},
    ],
    ids=str,
)
def test_an_archive_with_any_limits_can_be_built_and_starts(
    model_folder: Path, tmp_path: Path, limits: dict[str, Any]
) -> None:
    """An operator's limits are for clients; they must not keep package.py or a worker from checking the model."""
    config = ModelConfig(handler=ServingConfig(**limits))
    folder = unpack(build(model_folder, "tiny", "1.3", config, tmp_path), tmp_path / "unpacked")
    (answered,) = start(link(folder, tmp_path / "linked"))(http("no"))
    assert answered.status == 200


def test_code_from_elsewhere_is_refused(unpacked: Path) -> None:
    """PYTHONPATH comes before the archive: a worker with the wrong code must say so and not serve."""
    with pytest.raises(ConfigError, match=r"the code in use lies in .*start TorchServe without PYTHONPATH"):
        start(unpacked)


LOADER = """
import base64, json, sys
from pathlib import Path
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.model_loader import ModelLoaderFactory

folder, metrics_file = sys.argv[1:]
entry = json.loads(Path(folder, "MAR-INF", "MANIFEST.json").read_text())["model"]["handler"]
cache = MetricsCacheYamlImpl(config_file_path=metrics_file)
cache.initialize_cache()
cache.model_name = "tiny"
service = ModelLoaderFactory.get_model_loader().load("tiny", folder, entry, None, 8, None, True, cache)
service.set_cl_socket(None)
batch = [
    {
        "requestId": f"request-{index}".encode(),
        "headers": [{"name": name.encode(), "value": value.encode()} for name, value in headers.items()],
        "parameters": [{"name": "body", "contentType": "", "value": bytearray(base64.b64decode(body))}],
    }
    for index, (body, headers) in enumerate(json.loads(sys.stdin.read()))
]
print("MESSAGE " + base64.b64encode(service.predict(batch)).decode())
import handler
print("CODE " + handler.__file__)
"""


@pytest.mark.slow
def test_torchserves_own_loader_serves_the_archive(unpacked: Path, predictor: Predictor) -> None:
    """In a process of its own, with the unpacked folder as PYTHONPATH and working directory, as TorchServe does."""
    rows = [http(text) for text in TEXTS] + [http(b"\xff Xyzzymark"), kserve({"inputs": [TENSOR]})]
    batch = [[b64encode(sent.fields[0][2]).decode(), sent.headers] for sent in rows]
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(unpacked), str(ROOT / "metrics.yaml")],
        input=json.dumps(batch),
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        cwd=unpacked,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("MESSAGE ", "CODE ")))
    assert Path(lines["CODE"]) == unpacked / "handler" / "__init__.py"
    *answers, refused, v2 = decoded(b64decode(lines["MESSAGE"]))
    assert (refused.status, v2.status, v2.value["model_version"]) == (400, 200, "1.3")
    for text, answered in zip(TEXTS, answers, strict=True):
        assert predictor.task.agree(answered.value, told(ask(predictor, text)[0]), 1e-5)
    printed = done.stdout.replace(lines["MESSAGE"], "") + done.stderr
    assert not [text for text in (*TEXTS[3:6], "Xyzzymark") if text in printed]
