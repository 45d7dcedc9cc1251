"""Test what the gateway refuses: keys, forms, framing, sizes, and every limit of requests and connections."""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from tests.support.fake_server import INFERENCE_KEY, FakeServer
from tests.support.gateway import CONFIG, KEY, OTHER, START_S, Gateway, recording_gateway, running, wait_until
from tests.support.samples import JSON_TYPE, ROOT, read_settings


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


def test_a_full_queue_is_429_with_retry_after(gateway: Gateway, toy: FakeServer) -> None:
    """TorchServe sends 503 for a full queue; the 500 of a dead worker is forwarded unchanged."""
    toy.failures.extend([503, 500])
    response = gateway.request("POST", "/predictions/toy")
    assert (response.status, response.headers["Retry-After"], response.json["type"]) == (429, "1", "TooManyRequests")
    response = gateway.request("POST", "/predictions/toy")
    assert (response.status, response.headers["Retry-After"]) == (500, None)
    assert gateway.request("POST", "/predictions/toy").status == 200


def test_the_rate_limit_counts_per_client(tmp_path: Path) -> None:
    """The client above its rate gets 429, another client is served."""
    changes = {"rate=200r/s": "rate=1r/m", "burst=100": "burst=4"}  # a minute: no speed of the machine matters
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
        toy.may_answer.clear()
        with ThreadPoolExecutor(5) as pool:
            try:
                futures = [pool.submit(server.request, "POST", "/predictions/toy") for _ in range(5)]
                first = [future.result().status for future in islice(as_completed(futures), 3)]
            finally:
                toy.may_answer.set()
            statuses = sorted(future.result().status for future in futures)
    assert first == [429] * 3
    assert statuses == [200, 200, 429, 429, 429]


def test_requests_without_a_valid_key_are_limited_by_address(tmp_path: Path) -> None:
    """With another answer beyond the limit, and without any effect on clients."""
    changes = {"zone=unknown:1m rate=5r/s": "zone=unknown:1m rate=1r/m"}
    with recording_gateway(tmp_path, changes=changes) as (server, recorder):
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


def test_large_requests_are_limited_further(toy: FakeServer, tmp_path: Path) -> None:
    """Those of 100,000 bytes or of unknown length, by a limit of their own; small ones are served meanwhile."""
    port = int(read_settings(toy.config)["inference_address"].rsplit(":", 1)[1])
    changes = {"bulk_of_all 16": "bulk_of_all 1"}
    large, small = json.dumps("a" * 99_998).encode(), json.dumps("a" * 99_997).encode()
    with running(tmp_path / "g", port, toy.run_dir / "key_file.json", changes) as server:
        before = len(toy.requests)
        toy.may_answer.clear()
        with ThreadPoolExecutor(6) as pool:
            try:
                chunked = pool.submit(server.send_raw, chunked_request("/predictions/toy", b'"a"'))
                wait_until(lambda: len(toy.requests) == before + 1, server)
                larges = [pool.submit(server.request, "POST", "/predictions/toy", large) for _ in range(2)]
                smalls = [pool.submit(server.request, "POST", "/predictions/toy", small) for _ in range(3)]
                assert [future.result().status for future in larges] == [429, 429]
                wait_until(lambda: len(toy.requests) == before + 4, server)
            finally:
                toy.may_answer.set()
            assert [future.result().status for future in smalls] == [200, 200, 200]
            assert chunked.result().startswith(b"HTTP/1.1 200")


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
                connection.settimeout(START_S)
                connection.sendall(request.encode())
                start = time.monotonic()
                with suppress(ConnectionError):  # reset; not the end of our own patience
                    connection.recv(1000)
                assert time.monotonic() - start > 0.5
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
