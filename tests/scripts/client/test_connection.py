"""scripts/client/connection.py: connections are kept, failures are told apart, and no byte is lost without notice."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from scripts.client.connection import Connections
from scripts.client.ports import free_ports
from tests.support.fake_server import INFERENCE_KEY, FakeServer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


@contextmanager
def canned(*responses: bytes, close: bool = False) -> Iterator[tuple[Connections, list[bytes]]]:
    """Yield connections to a server that answers each request with the next bytes, and what it received."""
    received: list[bytes] = []
    waiting = list(responses)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while waiting:
                try:
                    accepted, _ = listener.accept()
                except OSError:
                    return
                with accepted:
                    while waiting and (message := accepted.recv(1 << 20)):
                        received.append(message)
                        accepted.sendall(waiting.pop(0))
                        if close:
                            break

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        connections = Connections(f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield connections, received
        connections.close()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # ends a pending accept
        thread.join(timeout=5)


def test_a_connection_is_kept(fake_server: FakeServer) -> None:
    """One after the other on one connection; as many connections as requests that run at once."""
    authorized = {"Authorization": f"Bearer {INFERENCE_KEY}", "Content-Type": "text/plain"}
    address = fake_server.config.read_text().partition("inference_address=")[2].split()[0]
    connections = Connections(address)
    for _ in range(3):
        response = connections.request("POST", "/predictions/toy", b"hello", authorized)
        assert (response.status, response.content) == (200, b'[{"label": "HELLO", "score": 1.0}]')
        assert response.headers["content-length"] == str(len(response.content))
    assert len(connections._idle) == 1
    fake_server.delay = 0.05
    with ThreadPoolExecutor(4) as pool:
        ask = lambda _: connections.request("POST", "/predictions/toy", b"hello", authorized).status  # noqa: E731
        assert list(pool.map(ask, range(8))) == [200] * 8
    assert len(connections._idle) == 4
    assert connections.request("POST", "/predictions/toy", b"hello").status == 400
    connections.close()


def test_bytes_go_out_as_they_are() -> None:
    """What a caller wrote by hand is neither mended nor refused."""
    with canned(OK) as (connections, received):
        assert connections.exchange(b"POST /x HTTP/1.1\r\nOdd:\tyes\r\n\r\n").content == b"hi"
    assert received == [b"POST /x HTTP/1.1\r\nOdd:\tyes\r\n\r\n"]


@pytest.mark.parametrize("value", ["a\r\nX-Other: b", "a\nb"])
def test_a_header_cannot_hold_another(value: str) -> None:
    """A line break in a value would begin a header, or another request."""
    with pytest.raises(ValueError, match="line break"):
        Connections("http://127.0.0.1:1").request("POST", "/", b"", {"X-One": value})


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi",
    ],
    ids=["chunked", "continue", "close"],
)
def test_forms_of_a_response(response: bytes) -> None:
    """Whatever HTTP/1.1 allows."""
    with canned(response, OK) as (connections, _):
        assert connections.request("POST", "/", b"x").content == b"hi"


def test_bytes_that_nobody_asked_for_are_counted() -> None:
    """They belong to no response: the connection is not used again."""
    with canned(OK + b"HTTP/1.1 200 OK", OK, close=False) as (connections, _):
        assert connections.request("POST", "/", b"x").content == b"hi"
        connections.close()
        assert connections.surplus == 1


def test_a_connection_that_the_server_closed_is_replaced() -> None:
    """An idle connection that ended is no failure of the next request."""
    with canned(OK, OK, close=True) as (connections, _):
        assert connections.request("POST", "/", b"x").content == b"hi"
        while not connections._idle[0].has_ended():
            pass
        assert connections.request("POST", "/", b"x").content == b"hi"
        assert connections.surplus == 0


@pytest.mark.parametrize("response", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi", b"nonsense\r\n\r\n"])
def test_half_a_response_is_a_broken_connection(response: bytes) -> None:
    """Neither an empty nor a cut nor a foreign one is taken for an answer."""
    with canned(response, close=True) as (connections, _), pytest.raises(ConnectionError):
        connections.request("POST", "/", b"x")


def test_failures_are_told_apart(fake_server: FakeServer) -> None:
    """Nobody listens; no answer in time."""
    with pytest.raises(ConnectionRefusedError):
        Connections(f"http://127.0.0.1:{free_ports(1)[0]}").request("GET", "/")
    fake_server.delay = 1
    address = fake_server.config.read_text().partition("inference_address=")[2].split()[0]
    authorized = {"Authorization": f"Bearer {INFERENCE_KEY}"}
    with pytest.raises(TimeoutError):
        Connections(address).request("POST", "/predictions/toy", b"hello", authorized, timeout=0.1)
