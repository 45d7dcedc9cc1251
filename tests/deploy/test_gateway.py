"""Test the gateway with a real nginx: which routes it forwards, what TorchServe receives, what the client gets back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.fake_server import INFERENCE_KEY, FakeServer
from tests.support.gateway import KEY, MARKER, OTHER, Gateway, http_response, recording_gateway, wait_until


@pytest.mark.parametrize("path", ["/predictions/toy", "/predictions/toy/1.0", "/predictions/toy/1.0/zero-shot"])
def test_a_request_is_forwarded(gateway: Gateway, toy: FakeServer, path: str) -> None:
    """The client sends the gateway's key; TorchServe receives its own."""
    response = gateway.request("POST", path, b"hello", Content_Type="text/plain; charset=utf-8")
    assert response.status == 200
    assert response.json[0]["label"] == "HELLO"
    assert toy.requests[-1] == ("POST", path, b"hello")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/explanations/toy", 200),
        ("/explanations/toy/1.0/entities", 200),
        ("/v1/models/toy:predict", 404),  # the fake server has no such route; its response is forwarded unchanged
        ("/v1/models/toy:explain", 404),
        ("/v2/models/toy/infer", 404),
        ("/predictions/nobody", 404),
    ],
)
def test_every_inference_route_is_forwarded(gateway: Gateway, toy: FakeServer, path: str, status: int) -> None:
    response = gateway.request("POST", path)
    assert toy.requests[-1][:2] == ("POST", path)
    assert response.status == status
    if status == 404:
        assert response.json["type"] == "ModelNotFoundException"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/predictions/toy", 405),
        ("PUT", "/predictions/toy", 405),
        ("DELETE", "/predictions/toy", 405),
        ("OPTIONS", "/predictions/toy", 405),
        ("POST", "/ping", 405),
        ("HEAD", "/predictions/toy", 405),
        ("POST", "/models", 404),
        ("POST", "/models?url=http://a/b.mar", 404),
        ("GET", "/models/toy", 404),
        ("PUT", "/models/toy/1.0/set-default", 404),
        ("POST", "/models/toy/invoke", 404),
        ("POST", "/invocations?model_name=toy", 404),
        ("POST", "/toy/predict", 404),
        ("POST", "/wfpredict/toy", 404),
        ("OPTIONS", "/", 404),
        ("GET", "/api-description", 404),
        ("GET", "/metrics", 404),
        ("GET", "/token?type=inference", 404),
        ("POST", "/v2/models/toy", 405),
        ("GET", "/v2", 404),
        ("GET", "/v2/models/toy/versions", 404),
        ("GET", "/v2/models/toy/infer", 405),
        ("POST", "/v2/models/toy/ready", 405),
        ("POST", "/v2/health/ready", 405),
        ("POST", "/v2/models/toy/versions/infer", 404),
        ("POST", "/v2/models/toy/versions/1.0/../2.0/infer", 404),
        ("POST", "/v1/models/toy:latest:predict", 404),
        ("GET", "/v2/health/ready?a", 404),
        ("GET", "/model-probe", 404),
        ("GET", "/model-metadata", 404),
        ("GET", "/v1/models/toy", 404),
        ("POST", "/v2/models/toy/explain", 404),
        ("POST", "/predictions/", 404),
        ("POST", "/predictions//toy", 404),
        ("POST", "//predictions/toy", 404),
        ("POST", "/predictions/toy?q=1", 404),
        ("POST", "/predictions/../models/toy", 404),
        ("POST", "/models/../predictions/toy", 404),
        ("POST", "/predictions/%2e%2e/models", 404),
        ("POST", "/predictions/toy%2f1.0", 404),
        ("POST", "/predictions/toy/1.0/../../../models", 404),
        ("POST", "/predictions/toy/1.0/a/b", 404),
        ("POST", "/v1/models/toy:predict:explain", 404),
        ("POST", f"/{MARKER}", 404),
        ("GET", "/ping/", 404),
        ("GET", f"/ping?{MARKER}", 404),
    ],
)
def test_every_other_route_is_refused(gateway: Gateway, toy: FakeServer, method: str, path: str, status: int) -> None:
    before = len(toy.requests)
    response = gateway.request(method, path)
    assert response.status == status
    if method != "HEAD":
        assert response.json["code"] == status
    assert (response.headers["Allow"] is not None) == (status == 405)
    assert len(toy.requests) == before


FURTHER_ROUTES = [
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/rerank"),
    ("POST", "/v2/rerank"),
    ("GET", "/"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/toy"),
    ("GET", "/v2"),
]
METADATA_ROUTES = [("GET", "/v2/models/toy"), ("GET", "/v2/models/toy/versions/1.0")]


def test_further_routes_of_the_standalone_server_are_forwarded(tmp_path: Path) -> None:
    """With the server's key, in its own place; all that TorchServe has as before, nothing else, and no query."""
    with recording_gateway(tmp_path, kind="standalone") as (server, recorder):
        common = [("POST", "/predictions/toy"), ("POST", "/v1/models/toy:predict"), *METADATA_ROUTES]
        for method, path in [*FURTHER_ROUTES, *common]:
            assert server.request(method, path, b"" if method == "GET" else b"{}").status == 200
            assert recorder.received[-1].startswith(f"{method} {path} HTTP/1.1\r\n".encode())
            assert b"Bearer theKey" in recorder.received[-1]
            assert server.request(method, path, Authorization=None).status == 401
        before = len(recorder.received)
        for method, path, status in [
            ("GET", "/v1/embeddings", 405),
            ("POST", "/v1/models", 405),
            ("POST", "/v2/models/toy", 405),
            ("POST", "/v1/embeddings?a", 404),
            ("POST", "/v1/embeddings/", 404),
            ("POST", "/v1/../v2/rerank", 404),
            ("GET", "/v1/models/toy/", 404),
            ("GET", "/of-server/ping", 404),
            ("POST", "/models", 404),
            ("POST", "/v1/chat/completions", 404),
        ]:
            assert server.request(method, path).status == status, path
        assert server.request("POST", "/v1/embeddings", b"a=b", Content_Type="multipart/form-data").status == 415
        assert len(recorder.received) == before


def test_further_routes_are_none_of_torchserve(gateway: Gateway, toy: FakeServer) -> None:
    before = len(toy.requests)
    for method, path in FURTHER_ROUTES:
        assert gateway.request(method, path).status == 404, path
    assert len(toy.requests) == before


@pytest.mark.parametrize("path", ["/ping", "/v2/health/live", "/v2/health/ready"])
def test_the_standalone_server_is_asked_for_its_health(tmp_path: Path, path: str) -> None:
    """Its own answer where it is well; where it is not, or does not answer, no replica takes requests."""
    body = b'{"asked": true}'
    with recording_gateway(tmp_path, http_response("200 OK", body), kind="standalone") as (server, recorder):
        for authorization in (None, f"Bearer {KEY}"):
            response = server.request("GET", path, b"", Authorization=authorization, Content_Type=None)
            assert (response.status, response.body) == (200, body)
        head = recorder.received[-1]
        assert head.startswith(f"GET {path} HTTP/1.1\r\n".encode())
        assert b"Bearer theKey" in head
        assert KEY.encode() not in head
        for answer in (http_response("503 Service Unavailable", b'{"reason": "not loaded: toy"}'), b""):
            recorder.response = answer  # empty: the connection ends without an answer
            response = server.request("GET", path, b"", Authorization=None, Content_Type=None)
            assert (response.status, response.headers["Retry-After"]) == (503, "5")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "draining").touch()
        before = len(recorder.received)
        assert server.request("GET", path, b"", Authorization=None).status == 503
        assert len(recorder.received) == before


def test_a_refusal_of_the_standalone_server_is_a_429_with_its_own_time(tmp_path: Path) -> None:
    """Its Retry-After says how long its queue is; a 503 without one is a failure."""
    full = http_response("503 Service Unavailable", b"{}", "Retry-After: 7")
    with recording_gateway(tmp_path, full, kind="standalone") as (server, recorder):
        response = server.request("POST", "/v1/embeddings", b"{}")
        assert (response.status, response.headers["Retry-After"]) == (429, "7")
        recorder.response = http_response("503 Service Unavailable", b"{}", "X-Error-Message: failed at item 1")
        response = server.request("POST", "/predictions/toy")
        assert (response.status, response.headers["X-Error-Message"]) == (503, "failed at item 1")
        recorder.response = http_response("503 Service Unavailable", b"{}")
        response = server.request("POST", "/predictions/toy")
        assert (response.status, response.json["message"]) == (503, "the server failed")


def test_a_ping_is_answered_without_torchserve(gateway: Gateway, toy: FakeServer) -> None:
    """Load balancers have no key; TorchServe sees no request of theirs, and its key stays with the gateway."""
    before = len(toy.requests)
    response = gateway.request("GET", "/ping", b"", Authorization=None, Content_Type=None)
    assert (response.status, response.json) == (200, {"status": "Healthy"})
    assert len(toy.requests) == before


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 1\r\n\r\na",
        b"Content-Length: 6000000\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    ],
)
def test_a_ping_with_a_body_is_refused(gateway: Gateway, toy: FakeServer, body: bytes) -> None:
    before = len(toy.requests)
    response = gateway.send_raw(b"GET /ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + body)
    assert response.startswith(b"HTTP/1.1 413"), response[:80]
    assert len(toy.requests) == before


@pytest.mark.parametrize("state", ["starting", "draining"])
def test_a_ping_says_when_no_request_would_be_taken(tmp_path: Path, state: str) -> None:
    """By what the gateway reads anyway: keys and the state files of scripts/serve.sh."""
    with recording_gateway(tmp_path) as (server, recorder):
        assert server.request("GET", "/ping", b"", Authorization=None).status == 200
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / state).touch()
        response = server.request("GET", "/ping", b"", Authorization=None)
        assert (response.status, response.headers["Retry-After"]) == (503, "5")
        (tmp_path / "run" / state).unlink()
        assert server.request("GET", "/ping", b"", Authorization=None).status == 200
        (tmp_path / "key_file.json").unlink()
        wait_until(lambda: server.request("GET", "/ping", b"", Authorization=None).status == 503, server)
        assert not recorder.received


@pytest.mark.parametrize(
    ("path", "forwarded"),
    [
        ("/v2/models/toy/versions/1.0/infer", "/predictions/toy/1.0"),
        ("/v1/models/toy:1.0:predict", "/predictions/toy/1.0"),
        ("/v1/models/toy/versions/1.0:predict", "/predictions/toy/1.0"),
        ("/v1/models/toy:2:explain", "/explanations/toy/2"),
        ("/v1/models/toy/versions/2:explain", "/explanations/toy/2"),
    ],
)
def test_a_version_in_the_path_is_obeyed(gateway: Gateway, toy: FakeServer, path: str, forwarded: str) -> None:
    """TorchServe would ignore it, or has no such route: its own routes with a version get the request."""
    gateway.request("POST", path)
    assert toy.requests[-1] == ("POST", forwarded, b'"a"')


def test_a_model_is_ready_when_it_answers(gateway: Gateway, toy: FakeServer) -> None:
    """One cheap request through its queue: unknown is 404, a full queue or a failure 503."""
    for path in ("/v2/models/toy/ready", "/v2/models/toy/versions/1.0/ready"):
        response = gateway.request("GET", path, b"", Content_Type=None)
        assert (response.status, response.json) == (200, {"name": "toy", "ready": True})
        assert json.loads(toy.requests[-1][2])["parameters"] == {"operation": "tokenize"}
        for failure in (503, 500):
            toy.failures.append(failure)
            response = gateway.request("GET", path, b"", Content_Type=None)
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
    for path in ("/v2/models/nobody/ready", "/v2/models/toy/versions/9/ready"):
        response = gateway.request("GET", path, b"", Content_Type=None)
        assert (response.status, response.json["message"]) == (404, "no such model")
        assert response.headers["Retry-After"] is None
    before = len(toy.requests)
    assert gateway.request("GET", "/v2/models/toy/ready", b"", Authorization=None).status == 401
    assert gateway.request("GET", "/v2/models/toy/ready", b"a").status == 413
    assert len(toy.requests) == before


def test_metadata_are_an_operation_of_the_model(gateway: Gateway, toy: FakeServer) -> None:
    """With the body of the gateway alone; the answer is forwarded, errors too."""
    body = {"inputs": "metadata", "parameters": {"operation": "metadata"}}
    for path, forwarded in (("toy", "toy"), ("toy/versions/1.0", "toy/1.0")):
        response = gateway.request("GET", f"/v2/models/{path}", b"", Content_Type=None)
        method, target, sent = toy.requests[-1]
        assert (response.status, method, target) == (200, "POST", f"/predictions/{forwarded}")
        assert json.loads(sent) == body
    response = gateway.request("GET", "/v2/models/nobody", b"", Content_Type=None)
    assert (response.status, response.json["type"]) == (404, "ModelNotFoundException")
    before = len(toy.requests)
    assert gateway.request("GET", "/v2/models/toy", b"", Authorization=None).status == 401
    assert gateway.request("GET", "/v2/models/toy", b"a").status == 413
    assert len(toy.requests) == before


@pytest.mark.parametrize(("path", "key"), [("/v2/health/live", "live"), ("/v2/health/ready", "ready")])
def test_health_of_open_inference_needs_no_key(gateway: Gateway, toy: FakeServer, path: str, key: str) -> None:
    """As /ping, from the same state."""
    before = len(toy.requests)
    response = gateway.request("GET", path, b"", Authorization=None, Content_Type=None)
    assert (response.status, response.json) == (200, {key: True})
    assert len(toy.requests) == before


def test_torchserve_receives_what_the_gateway_wrote(tmp_path: Path) -> None:
    """One Content-Length, whatever framing the client used, and only the headers that the gateway sets."""
    with recording_gateway(tmp_path) as (server, recorder):
        head = f"POST /predictions/a HTTP/1.1\r\nHost: {MARKER}\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
        more = (
            "Content-Type: text/plain\r\nX-Request-Id: mine-1\r\nX-Request-Deadline-Ms: 5\r\nCookie: a=b\r\n"
            f"explain: True\r\nurl_path: {MARKER}\r\nX-Forwarded-For: 1.2.3.4\r\nUser-Agent: {MARKER}\r\n"
        )
        chunks = b"2;a=b\r\n12\r\n3\r\n345\r\n0\r\nTrailer: x\r\n\r\n"
        response = server.send_raw(head.encode() + more.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
        assert b" 200 " in response
        (received,) = recorder.received
    lines, _, body = received.partition(b"\r\n\r\n")
    request_line, *headers = lines.decode().split("\r\n")
    assert request_line == "POST /predictions/a HTTP/1.1"
    assert dict(line.split(": ", 1) for line in headers) == {
        "Host": "torchserve",
        "Content-Length": "5",
        "Authorization": "Bearer theKey",
        "Content-Type": "text/plain",
        "X-Request-Id": "mine-1",
        "X-Request-Deadline-Ms": "5",
    }
    assert body == b"12345"


def test_a_valid_trace_context_is_forwarded(tmp_path: Path) -> None:
    """And its trace is in the log; a malformed one is dropped, with the state that belongs to it."""
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    valid, malformed = f"00-{trace}-{span}-01", f"00-{trace.upper()}-{span}-01"
    with recording_gateway(tmp_path) as (server, recorder):
        for traceparent in (valid, malformed):
            server.request("POST", "/predictions/a", b"a", Traceparent=traceparent, Tracestate="vendor=word")
        wait_until(lambda: server.log().count('"id"') == 2, server)
        forwarded, dropped = (received.decode() for received in recorder.received)
        assert f"Traceparent: {valid}\r\n" in forwarded
        assert "Tracestate: vendor=word\r\n" in forwarded
        assert "trace" not in dropped.lower()
        assert re.findall(r'"trace":"(.*?)"', server.log()) == [trace, ""]


def test_a_request_id_is_logged_and_returned(gateway: Gateway) -> None:
    """The client's id where it is valid, else a new one; in the response and in the log."""
    response = gateway.request("POST", "/predictions/toy", X_Request_Id="mine-2")
    assert response.headers["X-Request-Id"] == "mine-2"
    (line,) = gateway.access_log("mine-2")
    assert (line["client"], line["status"], line["path"]) == ("shop", 200, "/predictions/toy")
    new_id = gateway.request("POST", "/predictions/toy", X_Request_Id=f"{MARKER} a text").headers["X-Request-Id"]
    assert re.fullmatch("[0-9a-f]{32}", new_id)
    assert len(gateway.access_log(new_id)) == 1


@pytest.mark.parametrize("status", ["400 Bad Request", "413 Too Large", "415 No", "422 No", "504 Late", "507 Full"])
def test_an_error_of_the_handler_is_forwarded(tmp_path: Path, status: str) -> None:
    handler_response = http_response(status, b'{"code":1}', "x-error-message: reason", "Content-Type: application/json")
    with recording_gateway(tmp_path, handler_response) as (server, _):
        response = server.request("POST", "/predictions/a")
    assert (response.status, response.json) == (int(status[:3]), {"code": 1})
    assert response.headers["x-error-message"] == "reason"


def test_a_503_of_the_handler_is_no_full_queue(tmp_path: Path) -> None:
    with recording_gateway(
        tmp_path, http_response("503 Service Unavailable", b"{}", "x-error-message: too much work")
    ) as (server, _):
        response = server.request("POST", "/predictions/a")
    assert (response.status, response.headers["Retry-After"]) == (503, "1")
    assert response.headers["x-error-message"] == "too much work"


def test_no_text_and_no_key_is_logged(gateway: Gateway) -> None:
    """Access and error log contain no marker and no key; the fixture looks again after the last test of each file."""
    gateway.request("POST", f"/{MARKER}", X_Request_Id="refused")
    gateway.request("POST", "/predictions/toy", json.dumps(MARKER).encode(), X_Request_Id="last")
    assert {line["path"] for line in gateway.access_log("refused")} == {"-"}
    assert {line["path"] for line in gateway.access_log("last")} == {"/predictions/toy"}
    for secret in (MARKER, KEY, OTHER, INFERENCE_KEY, "Bearer"):
        assert secret not in gateway.log(), secret
