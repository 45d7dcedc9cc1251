"""TorchServe's entry point: rows as TorchServe passes them, with its own context, service and metrics."""

from __future__ import annotations

import itertools
import logging
import struct
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ts.context import Context, RequestProcessor

from handler.bert_handler import BertHandler
from handler.description import describe
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.protocol import JSON, serialize_value
from handler.request_state import Response
from tests.support.frames import (
    CURL_FORM,
    DESCRIBE,
    DOCUMENTED,
    FORM,
    TENSOR,
    TEXT,
    Answered,
    Sent,
    Worker,
    decoded,
    form,
    grpc,
    http,
    kserve,
    message_of,
    metrics_of,
    with_headers,
)
from tests.support.samples import JSON_TYPE, ROOT, TEXTS, ask, response_json


@pytest.fixture(scope="module")
def bert_handler(predictor: Predictor) -> BertHandler:
    """Return a handler whose model is loaded already."""
    bert_handler = BertHandler()
    bert_handler.predictor = predictor
    return bert_handler


@pytest.fixture(scope="module")
def worker(bert_handler: BertHandler) -> Worker:
    """Return a worker with the project's own metrics file."""
    return Worker(bert_handler, metrics_of(ROOT / "metrics.yaml"))


def test_a_lost_device_ends_the_worker_after_its_answers(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """507 for every row, and an end that waits until TorchServe has them."""
    bert_handler = BertHandler()
    bert_handler.predictor = load_predictor(model_folder)
    ended = threading.Event()
    monkeypatch.setattr("handler.bert_handler.SHUTDOWN_GRACE_S", 0.2)
    monkeypatch.setattr("handler.bert_handler.os._exit", lambda _: ended.set())
    bert_handler.predictor.engine.mark_device_failed()
    answers = Worker(bert_handler, metrics_of(ROOT / "metrics.yaml"))(http(TEXT), http(TEXT))
    assert [(answer.status, answer.value["type"]) for answer in answers] == [(507, "DeviceLost")] * 2
    assert not ended.is_set()
    assert ended.wait(5)


@pytest.fixture(scope="module")
def expected(predictor: Predictor) -> JSON:
    """Return the answer to `TEXT`."""
    return response_json(ask(predictor, TEXT)[0])


# --- bodies ------------------------------------------------------------------------------------------------------

BINARY = struct.pack("<I", len(TEXT)) + TEXT.encode()
BINARY_HEAD = serialize_value(
    {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(BINARY)}}]}
)

ROWS: dict[str, Sent] = {
    "text": http(TEXT),
    "no type": http(TEXT, None),
    "bytes": http(TEXT, "application/octet-stream"),
    "JSON string": http(serialize_value(TEXT), JSON_TYPE),
    "JSON object": http(serialize_value({"text": TEXT}), "Application/JSON; charset=UTF-8"),
    "Hugging Face": http(serialize_value({"inputs": TEXT}), JSON_TYPE),
    "operation": with_headers(http(TEXT), ("url_path", "predict")),
    "operation with slashes": with_headers(http(TEXT), ("url_path", "/predict/")),
    "type in lower case": Sent([("body", "", TEXT.encode())], {"host": "h", "content-type": "text/plain"}),
    "type in upper case": Sent(
        [("body", "", serialize_value(TEXT))], {"HOST": "h", "CONTENT-TYPE": "APPLICATION/JSON"}
    ),
    "KServe v1": kserve({"instances": [TEXT]}),
    "KServe v1 with a stray header": kserve({"instances": [TEXT]}, url_path="nonsense"),
    "KServe v1 without a type": kserve({"instances": [TEXT]}, None),
    "KServe v2": kserve({"inputs": [TENSOR]}),
    "KServe v2 without a type": kserve({"inputs": [TENSOR]}, None),
    "KServe v2 with a stray header": with_headers(kserve({"inputs": [TENSOR]}), ("url_path", "nonsense")),
    "KServe v2 binary": Sent(
        [("body", "", BINARY_HEAD + BINARY)],
        {"host": "h", "explain": "False", "Inference-Header-Content-Length": str(len(BINARY_HEAD))},
    ),
    "form": form(("data", "", TEXT.encode())),
    "form with a type": form(("data", "text/plain; charset=UTF-8", TEXT.encode())),
    "form with JSON": form(("data", JSON_TYPE, serialize_value(TEXT))),
    "form of curl": form(("data", "", TEXT.encode()), content_type=CURL_FORM),
    "form in capitals": form(("data", "", TEXT.encode()), content_type="Multipart/Form-Data; boundary=y"),
    "form with fields called like headers": form(
        ("explain", "", b"True"),
        ("url_path", "", b"nonsense"),
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
    "gRPC JSON": grpc(data=serialize_value(TEXT)),
    "gRPC object": grpc(body=serialize_value({"text": TEXT})),
}  # fmt: skip


def answer_of(answered: Answered) -> JSON:
    """Return the ranking inside the response of any codec."""
    value = answered.value
    if isinstance(value, dict) and "predictions" in value:
        (value,) = value["predictions"]
    if isinstance(value, dict) and "outputs" in value:
        labels, scores = (tensor["data"] for tensor in value["outputs"])
        value = [{"label": label, "score": score} for label, score in zip(labels, scores, strict=True)]
    return value[0] if isinstance(value[0], list) else value


@pytest.mark.parametrize("sent", ROWS.values(), ids=ROWS)
def test_every_kind_of_row_is_answered(worker: Worker, predictor: Predictor, expected: JSON, sent: Sent) -> None:
    """One text, by every transport and in every codec: the same answer."""
    (answered,) = worker(sent)
    assert (answered.status, answered.phrase) == (200, "OK")
    assert predictor.task.answers_match(answer_of(answered), expected, 1e-6)
    assert answered.headers["x-request-tokens"] == answered.headers["x-batch-tokens"]


def test_rows_of_one_batch_may_differ_in_everything(worker: Worker, predictor: Predictor, expected: JSON) -> None:
    """All of them at once, each in its own codec, with other texts between."""
    others = [http(text) for text in TEXTS[1:]]
    mixed = [*others[:5], *ROWS.values(), *others[5:]]
    answers = worker(*mixed)
    assert {answered.status for answered in answers} == {200}
    for answered in answers[5 : 5 + len(ROWS)]:
        assert predictor.task.answers_match(answer_of(answered), expected, 1e-6)
    for text, answered in zip(TEXTS[1:], [*answers[:5], *answers[5 + len(ROWS) :]], strict=True):
        assert predictor.task.answers_match(answered.value, response_json(ask(predictor, text)[0]), 1e-6)


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
    "unknown operation": (with_headers(http(TEXT), ("url_path", "nonsense")), 404),
    "explanations of nothing known": (with_headers(http(TEXT), ("explain", "True"), ("url_path", "nonsense")), 404),
    "KServe v1 explain": (
        with_headers(kserve({"instances": [TEXT], "parameters": {"target": "nobody"}}), ("explain", "True")),
        422,
    ),
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
    first, refused, last = worker(http(TEXT), sent, http(serialize_value([TEXT]), JSON_TYPE))
    assert refused.status == status
    message = refused.value["error"] if list(refused.value) == ["error"] else refused.value["message"]
    assert refused.headers["x-error-message"] == message[:200]
    assert (first.status, last.status) == (200, 200)
    assert predictor.task.answers_match(first.value, expected, 1e-6)
    assert predictor.task.answers_match(last.value[0], expected, 1e-6)


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
    ids=itertools.count(),  # deadlines of now differ between the processes of pytest-xdist
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
@pytest.mark.parametrize(("name", "value"), [("Explain", "True"), ("URL_PATH", "nonsense"), ("EXPLAIN", "True")])
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
    assert answered.value == describe(predictor)
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
    metrics = {}
    for line in caplog.messages:
        if line.startswith("[METRICS]bert_"):
            name, _, rest = line.removeprefix("[METRICS]").partition(":")
            value, dimensions, *_ = rest.split("|")
            metrics[f"{name.partition('.')[0]} {dimensions.lstrip('#')}"] = float(value)
    return metrics


def test_metrics_are_those_of_the_metrics_file(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    """Every measurement finds its metric in metrics.yaml, with as many dimensions as declared there."""
    worker.handler.metrics.flush()
    caplog.clear()
    with caplog.at_level(logging.INFO):
        worker(http(TEXT), http("word " * 700), http(b""), http(b"7", JSON_TYPE), http(b"", JSON_TYPE))
        worker.handler.metrics.flush()
    metrics = measured(caplog)
    assert not [message for message in caplog.messages if "Failed to update" in message]
    seconds = {name: metrics.pop(name) for name in [*metrics] if "_seconds" in name}
    assert set(seconds) == {"bert_tokenize_seconds ModelName:model", "bert_inference_seconds ModelName:model"}
    assert all(0 < value < 60 for value in seconds.values())
    truncated = metrics.pop("bert_truncated_tokens_total ModelName:model")
    assert truncated == 702 - 512
    assert metrics.pop("bert_tokens_total ModelName:model") > 512
    labels = {
        name: metrics.pop(name) for name in [*metrics] if name.startswith("bert_labels_total ModelName:model,Label:")
    }
    assert sum(labels.values()) == 2
    assert 0 < metrics.pop("bert_top_score_total ModelName:model") <= 2
    assert metrics == {
        "bert_batches_total ModelName:model": 1,
        "bert_texts_total ModelName:model": 2,
        "bert_refused_requests_total ModelName:model,ErrorType:MalformedBody": 2,
        "bert_refused_requests_total ModelName:model,ErrorType:InvalidInput": 1,
    }


def test_every_metric_of_the_file_is_emitted_somewhere() -> None:
    """metrics.yaml declares no metric of ours that nothing feeds."""
    declared = set()
    for line in (ROOT / "metrics.yaml").read_text(encoding="utf-8").splitlines():
        _, metrics, name = line.partition("- name: bert_")
        declared |= {f"bert_{name.strip()}"} if metrics else set()
    source = (ROOT / "handler" / "telemetry.py").read_text(encoding="utf-8")
    assert declared
    assert not {name for name in declared if f'"{name}"' not in source}


def test_a_metrics_file_without_ours_costs_no_answer(bert_handler: BertHandler, tmp_path: Path) -> None:
    """An operator may run TorchServe with any metrics file."""
    path = tmp_path / "metrics.yaml"
    path.write_text(
        "model_metrics:\n  gauge:\n    - name: PredictionTime\n      unit: ms\n      dimensions: [ModelName, Level]\n",
        encoding="utf-8",
    )
    (answered,) = Worker(bert_handler, metrics_of(path))(http(TEXT))
    assert answered.status == 200


def test_no_metrics_cost_no_answer(bert_handler: BertHandler) -> None:
    """TorchServe's context without metrics, as in its own tests."""
    context = Context("tiny", "", None, 8, None, "0.12.0")
    context.request_processor = [RequestProcessor(http(TEXT).headers)]
    (content,) = bert_handler.handle([{"body": bytearray(TEXT.encode())}], context)
    assert context.get_response_status(0) == (200, "OK")
    assert context.get_response_content_type(0) == JSON_TYPE
    assert response_json(Response(content))
