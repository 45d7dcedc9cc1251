"""The gateway with a real nginx: what it lets through, what it refuses, what TorchServe gets and what is logged.

nginx comes from a wheel; GATEWAY_NGINX in the environment names another one.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_server import INFERENCE_KEY, StandIn
from tests.support.gateway import (
    CONFIG,
    KEY,
    MARKER,
    OTHER,
    Gateway,
    http,
    listens,
    recorded,
    running,
    wait_until,
)
from tests.support.live import Live, free_ports
from tests.support.samples import ROOT, read_settings


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """Return a server that answers as TorchServe does, for every test of this file."""
    with StandIn(tmp_path_factory.mktemp("toy")) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(toy: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Return a gateway before it."""
    port = int(read_settings(toy.config)["inference_address"].rsplit(":", 1)[1])
    with running(tmp_path_factory.mktemp("gateway"), port, toy.run_dir / "key_file.json") as server:
        yield server


@pytest.mark.parametrize("path", ["/predictions/toy", "/predictions/toy/1.0", "/predictions/toy/1.0/zero-shot"])
def test_a_question_is_answered(gateway: Gateway, toy: StandIn, path: str) -> None:
    """With the gateway's key outside and TorchServe's inside."""
    answer = gateway.ask("POST", path, b"hello", Content_Type="text/plain; charset=utf-8")
    assert answer.status == 200
    assert answer.value[0]["label"] == "HELLO"
    assert toy.requests[-1] == ("POST", path, b"hello")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/explanations/toy", 200),
        ("/explanations/toy/1.0/entities", 200),
        ("/v1/models/toy:predict", 404),  # the stand-in knows no such route: its answer comes through as it is
        ("/v1/models/toy:explain", 404),
        ("/v2/models/toy/infer", 404),
        ("/predictions/nobody", 404),
    ],
)
def test_every_route_of_questions_is_passed_on(gateway: Gateway, toy: StandIn, path: str, status: int) -> None:
    answer = gateway.ask("POST", path)
    assert toy.requests[-1][:2] == ("POST", path)
    assert answer.status == status
    if status == 404:
        assert answer.value["type"] == "ModelNotFoundException"


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
        ("GET", "/v2/models/toy", 404),
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
def test_everything_else_stays_outside(gateway: Gateway, toy: StandIn, method: str, path: str, status: int) -> None:
    before = len(toy.requests)
    answer = gateway.ask(method, path)
    assert answer.status == status
    if method != "HEAD":
        assert answer.value["code"] == status
    assert (answer.headers["Allow"] is not None) == (status == 405)
    assert len(toy.requests) == before


def test_a_ping_needs_no_key(gateway: Gateway, toy: StandIn) -> None:
    """A load balancer has none; TorchServe gets its own."""
    before = len(toy.requests)
    gateway.ask("GET", "/ping", b"", Authorization=None, Content_Type=None)
    assert toy.requests[before][:2] == ("GET", "/ping")


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
def test_a_key_is_needed(gateway: Gateway, toy: StandIn, authorization: str | None, path: str) -> None:
    """Missing, wrong, of another scheme, TorchServe's own: whatever the route, so that a stranger learns none."""
    before = len(toy.requests)
    answer = gateway.ask("POST", path, Authorization=authorization)
    assert (answer.status, answer.value["type"]) == (401, "InvalidKey")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
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
def test_forms_never_reach_torchserve(gateway: Gateway, toy: StandIn, content_type: str | None, status: int) -> None:
    before = len(toy.requests)
    assert gateway.ask("POST", "/predictions/toy", b"a", Content_Type=content_type).status == status
    assert len(toy.requests) == before + (status == 200)


def test_too_much_is_refused_before_it_is_read(gateway: Gateway, toy: StandIn) -> None:
    """By its announced length, and in chunks; the limit is TorchServe's."""
    (limit,) = set(re.findall(r"client_(?:max_body|body_buffer)_size (\d+);", CONFIG))
    assert limit == read_settings(ROOT / "config.properties")["max_request_size"]
    before = len(toy.requests)
    head = f"POST /predictions/toy HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n".encode()
    assert gateway.raw(head + f"Content-Length: {int(limit) + 1}\r\n\r\n".encode()).startswith(b"HTTP/1.1 413")
    chunk = b"100000\r\n" + b"a" * 0x100000 + b"\r\n"
    answer = gateway.raw(head + b"Transfer-Encoding: chunked\r\n\r\n" + 7 * chunk + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"] == "RequestTooLarge"
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
def test_what_nginx_refuses_looks_like_every_error(gateway: Gateway, head: bytes, body: bytes, status: int) -> None:
    """JSON in both dialects, with an id, and nothing of nginx."""
    answer = gateway.raw(head + f"Authorization: Bearer {KEY}\r\nConnection: close\r\n\r\n".encode() + body)
    told, _, content = answer.partition(b"\r\n\r\n")
    assert told.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert b"Content-Type: application/json" in told
    assert re.search(rb"X-Request-Id: \w", told)
    value = json.loads(content)
    assert set(value) == {"code", "type", "message", "error"}
    assert (value["code"], value["message"]) == (status, value["error"])
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
def test_ambiguous_framing_is_refused(gateway: Gateway, toy: StandIn, headers: bytes) -> None:
    """Nothing reaches TorchServe, and the connection ends: nothing that follows is taken for a request."""
    before = len(toy.requests)
    head = f"POST /predictions/toy HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n".encode()
    answer = gateway.raw(head + headers)
    assert re.match(rb"HTTP/1\.1 (400|501) ", answer), answer[:80]
    assert b"connection: close" in answer.lower()
    assert answer.count(b"HTTP/1.1") == 1
    assert len(toy.requests) == before


@pytest.mark.parametrize("line", [b"POST /predictions/toy HTTP/2.0", b"POST  /predictions/toy HTTP/1.1 x", b"\x01\x02"])
def test_a_strange_request_line_is_refused(gateway: Gateway, toy: StandIn, line: bytes) -> None:
    before = len(toy.requests)
    answer = gateway.raw(line + b"\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    assert not answer or re.match(rb"HTTP/1\.1 (400|505) ", answer)
    assert len(toy.requests) == before


def test_torchserve_gets_what_the_gateway_wrote(tmp_path: Path) -> None:
    """One length, whatever the client sent, and no header but those that mean something."""
    with recorded(tmp_path) as (server, recorder):
        head = f"POST /predictions/a HTTP/1.1\r\nHost: {MARKER}\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
        more = (
            "Content-Type: text/plain\r\nX-Request-Id: mine-1\r\nX-Request-Deadline-Ms: 5\r\nCookie: a=b\r\n"
            f"explain: True\r\nurl_path: {MARKER}\r\nX-Forwarded-For: 1.2.3.4\r\nUser-Agent: {MARKER}\r\n"
        )
        chunks = b"2;a=b\r\n12\r\n3\r\n345\r\n0\r\nTrailer: x\r\n\r\n"
        answer = server.raw(head.encode() + more.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
        assert b" 200 " in answer
        (got,) = recorder.received
    lines, _, body = got.partition(b"\r\n\r\n")
    first, *headers = lines.decode().split("\r\n")
    assert first == "POST /predictions/a HTTP/1.1"
    assert dict(line.split(": ", 1) for line in headers) == {
        "Host": "torchserve",
        "Content-Length": "5",
        "Authorization": "Bearer theKey",
        "Content-Type": "text/plain",
        "X-Request-Id": "mine-1",
        "X-Request-Deadline-Ms": "5",
    }
    assert body == b"12345"


def test_an_id_follows_a_question(gateway: Gateway) -> None:
    """The client's own where it is one, else a new one; in the answer and in the log."""
    answer = gateway.ask("POST", "/predictions/toy", X_Request_Id="mine-2")
    assert answer.headers["X-Request-Id"] == "mine-2"
    (line,) = gateway.lines("mine-2")
    assert (line["client"], line["status"], line["path"]) == ("shop", 200, "/predictions/toy")
    made = gateway.ask("POST", "/predictions/toy", X_Request_Id=f"{MARKER} a text").headers["X-Request-Id"]
    assert re.fullmatch("[0-9a-f]{32}", made)
    assert len(gateway.lines(made)) == 1


def test_a_full_queue_is_429_and_says_when(gateway: Gateway, toy: StandIn) -> None:
    """TorchServe calls it 503; a dead worker's 500 stays what it is."""
    toy.failures.extend([503, 500])
    answer = gateway.ask("POST", "/predictions/toy")
    assert (answer.status, answer.headers["Retry-After"], answer.value["type"]) == (429, "1", "TooManyRequests")
    answer = gateway.ask("POST", "/predictions/toy")
    assert (answer.status, answer.headers["Retry-After"]) == (500, None)
    assert gateway.ask("POST", "/predictions/toy").status == 200


@pytest.mark.parametrize("status", ["400 Bad Request", "413 Too Large", "415 No", "422 No", "504 Late", "507 Full"])
def test_an_error_of_the_handler_comes_through(tmp_path: Path, status: str) -> None:
    reply = http(status, b'{"code":1}', "x-error-message: told", "Content-Type: application/json")
    with recorded(tmp_path, reply) as (server, _):
        answer = server.ask("POST", "/predictions/a")
    assert (answer.status, answer.value) == (int(status[:3]), {"code": 1})
    assert answer.headers["x-error-message"] == "told"


def test_a_503_of_the_handler_is_no_full_queue(tmp_path: Path) -> None:
    with recorded(tmp_path, http("503 Service Unavailable", b"{}", "x-error-message: too much work")) as (server, _):
        answer = server.ask("POST", "/predictions/a")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert answer.headers["x-error-message"] == "too much work"


def test_a_rate_is_kept_for_each_client(tmp_path: Path) -> None:
    """The one that asks too often gets 429, the other is answered."""
    changes = {"rate=200r/s": "rate=1r/s", "burst=100": "burst=4"}
    with recorded(tmp_path, changes=changes) as (server, _):
        answers = [server.ask("POST", "/predictions/a") for _ in range(12)]
        assert replace(server, key=OTHER).ask("POST", "/predictions/a").status == 200
    refused = [answer for answer in answers if answer.status == 429]
    assert len(refused) >= 5
    assert {answer.status for answer in answers} == {200, 429}
    assert all(answer.headers["Retry-After"] == "1" for answer in refused)


def test_questions_in_flight_are_counted(toy: StandIn, tmp_path: Path) -> None:
    port = int(read_settings(toy.config)["inference_address"].rsplit(":", 1)[1])
    with running(tmp_path / "g", port, toy.run_dir / "key_file.json", {"of_client 128": "of_client 2"}) as server:
        toy.delay = 1.0
        try:
            with ThreadPoolExecutor(5) as pool:
                answers = [pool.submit(server.ask, "POST", "/predictions/toy") for _ in range(5)]
                found = sorted(answer.result().status for answer in answers)
        finally:
            toy.delay = 0.0
    assert found == [200, 200, 429, 429, 429]


def test_a_slow_sender_is_let_go(tmp_path: Path) -> None:
    """Headers and bodies have their time."""
    changes = {
        "client_header_timeout 10s": "client_header_timeout 1s",
        "client_body_timeout 10s": "client_body_timeout 1s",
    }
    with recorded(tmp_path, changes=changes) as (server, recorder):
        head = f"POST /predictions/a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n"
        for request in (head, f"{head}Content-Length: 9\r\n\r\nhalf"):
            with server.connect() as connection:
                connection.settimeout(8)
                connection.sendall(request.encode())
                begun = time.monotonic()
                with suppress(OSError):  # reset
                    connection.recv(1000)
                assert 0.5 < time.monotonic() - begun < 6
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


def test_without_a_server_it_is_503_and_says_when(tmp_path: Path) -> None:
    """Before TorchServe has written its key, and when nobody listens."""
    (port,) = free_ports(1)
    with running(tmp_path / "g", port, tmp_path / "key_file.json") as server:
        for _ in range(2):
            answer = server.ask("POST", "/predictions/a")
            assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
            assert "not ready" in answer.value["message"]
            (tmp_path / "key_file.json").write_text('{"inference": {"key": "late"}}')
            included = tmp_path / "g" / "run" / "replicas.conf"
            wait_until(lambda included=included: "late" in included.read_text(), server)


def test_new_keys_are_taken_over_while_it_runs(tmp_path: Path) -> None:
    """TorchServe's after a restart, and the operator's; a file that cannot be read changes nothing and leaks no key."""
    with recorded(tmp_path) as (server, recorder):
        assert server.ask("POST", "/predictions/a").status == 200
        clients = tmp_path / "gateway" / "secrets" / "clients.map"
        clients.write_text(f'"Bearer {OTHER}" desk;\n')
        (tmp_path / "key_file.json").write_text('{"inference": {"key": "newKey"}}')
        other = replace(server, key=OTHER)
        wait_until(lambda: server.ask("POST", "/predictions/a").status == 401, server)
        included = tmp_path / "gateway" / "run" / "replicas.conf"
        wait_until(lambda: "newKey" in included.read_text(), server)
        wait_until(lambda: other.ask("POST", "/predictions/a") and b"Bearer newKey" in recorder.received[-1], server)
        clients.write_text(f'"Bearer {OTHER}" desk;\n"Bearer {OTHER}" desk\n')
        wait_until(lambda: server.log().count("changed") > 1, server)
        assert other.ask("POST", "/predictions/a").status == 200
        assert "clients.map" in server.log()
        assert OTHER not in server.log()


def test_it_stops_however_early_it_is_told(tmp_path: Path) -> None:
    """Also before nginx hears signals."""
    for pause in (0.0, 0.05, 0.1, 0.2):
        with running(tmp_path / str(pause), 1, tmp_path / "none", wait=False) as server:
            time.sleep(pause)
        assert not listens(server.port)


def test_what_the_gateway_knows_is_its_own(gateway: Gateway) -> None:
    """Files with keys are the owner's alone."""
    for path in (gateway.folder / "run").glob("*.conf"):
        assert path.stat().st_mode & 0o077 == 0


def test_every_setting_has_its_reason() -> None:
    """In a line above, or above the settings it shares it with."""
    reason = False
    for line in CONFIG.splitlines():
        bare = line.strip()
        opens = bare.endswith("{") or bare == "}" or not bare
        assert reason or opens or bare.startswith("#") or line[:1] == '"', f"no reason above {line}"
        reason = bare.startswith("#") or (reason and bool(bare))


def test_no_text_and_no_key_is_logged(gateway: Gateway) -> None:
    """After all that was sent (this test runs after the others of this file): access and error log are clean."""
    gateway.ask("POST", "/predictions/toy", json.dumps(MARKER).encode(), X_Request_Id="last")
    assert gateway.lines("last")
    for secret in (MARKER, KEY, OTHER, INFERENCE_KEY, "Bearer"):
        assert secret not in gateway.log(), secret
    assert {json.loads(line)["path"] for line in gateway.log().splitlines() if line.startswith("{")} > {"-"}


@pytest.mark.server
def test_a_live_torchserve_behind_it(live: Live, tmp_path: Path) -> None:
    """Every route with its real answer, and a ping."""
    with running(tmp_path / "g", live.ports["inference_address"], live.run_dir / "key_file.json") as server:
        plain = server.ask("POST", "/predictions/tiny", b"Where is it?", Content_Type="text/plain").value
        tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["Where is it?"]}
        questions: dict[str, Any] = {
            "/predictions/tiny/1.0": "Where is it?",
            "/predictions/tiny/1.0/tokenize": "Where is it?",
            "/explanations/tiny": "Where is it?",
            "/v1/models/tiny:predict": {"instances": ["Where is it?"]},
            "/v1/models/tiny:explain": {"instances": ["Where is it?"]},
            "/v2/models/tiny/infer": {"inputs": [tensor]},
        }
        for path, question in questions.items():
            answer = server.ask("POST", path, json.dumps(question).encode())
            assert answer.status == 200, path
            assert int(answer.headers["x-request-tokens"]) > 0
        assert server.ask("POST", "/predictions/tiny/1.0", b'"Where is it?"').value == plain
        assert server.ask("GET", "/ping", b"", Authorization=None).value == {"status": "Healthy"}
        for path, body, status in (("tiny", b"[null]", 422), ("tiny", b"{", 400), ("tiny/1.0/no", b'"a"', 404)):
            answer = server.ask("POST", f"/predictions/{path}", body)
            assert (answer.status, answer.value["code"]) == (status, status)
            assert answer.headers["x-error-message"]
        assert server.ask("POST", "/predictions/nobody").value["type"] == "ModelNotFoundException"
        assert server.ask("POST", "/predictions/tiny", b"a", Content_Encoding="gzip").status == 415
        assert "Where" not in server.log()
