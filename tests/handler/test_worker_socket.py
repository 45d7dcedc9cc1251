"""TorchServe's protocol through a buffer: the same messages, however the bytes arrive, in few reads."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ts.protocol import otf_message_handler

from handler.worker_socket import NAME, BufferedRead, read_through_buffer


class CountedSocket:
    """A socket that counts its reads, and hands out at most so many bytes at a time."""

    def __init__(self, inner: socket.socket, at_most: int) -> None:
        self.inner, self.at_most, self.reads = inner, at_most, 0

    def recv(self, length: int) -> bytes:
        self.reads += 1
        return self.inner.recv(min(length, self.at_most))


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return both ends of a connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def protocol(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return TorchServe's module, which reads through a buffer for one test."""
    monkeypatch.setattr(otf_message_handler, NAME, getattr(otf_message_handler, NAME))
    assert read_through_buffer(otf_message_handler)
    assert read_through_buffer(otf_message_handler)
    return otf_message_handler


def field(value: bytes) -> bytes:
    """Return a value after its length."""
    return struct.pack("!i", len(value)) + value


def batch(*bodies: bytes) -> bytes:
    """Return a batch as TorchServe's frontend sends it."""
    end, message = struct.pack("!i", -1), b"I"
    for index, body in enumerate(bodies):
        message += field(f"request-{index}".encode())
        for number in range(8):
            message += field(f"header-{number}".encode()) + field(b"value")
        message += end + field(b"body") + field(b"text/plain") + field(body) + end
    return message + end


@pytest.mark.parametrize("at_most", [1, 7, 1 << 20])
def test_messages_are_those_that_were_sent(
    at_most: int, pair: tuple[socket.socket, socket.socket], protocol: Any
) -> None:
    """Byte by byte, or two batches at once; a body that is longer than the buffer."""
    ours, theirs = pair
    bodies = [[b"a", b"", b"x" * 3000], [b"y" * 200_000]]
    sender = threading.Thread(target=theirs.sendall, args=(b"".join(batch(*part) for part in bodies),))
    sender.start()
    counted = CountedSocket(ours, at_most)
    for part in bodies:
        command, message = protocol.retrieve_msg(counted)
        assert command == b"I"
        assert [bytes(request["parameters"][0]["value"]) for request in message] == part
        assert [bytes(request["requestId"]) for request in message] == [
            f"request-{i}".encode() for i in range(len(part))
        ]
        assert all(len(request["headers"]) == 8 for request in message)
    sender.join()
    assert at_most < 1 << 20 or counted.reads < 20


def test_the_end_of_the_connection_ends_the_worker(pair: tuple[socket.socket, socket.socket], protocol: Any) -> None:
    """As without a buffer, in the middle of a message too."""
    ours, theirs = pair
    theirs.sendall(batch(b"text")[:50])
    theirs.close()
    with pytest.raises(SystemExit):
        protocol.retrieve_msg(ours)


def test_another_connection_begins_with_an_empty_buffer(pair: tuple[socket.socket, socket.socket]) -> None:
    """What was left of a connection belongs to no other."""
    ours, theirs = pair
    theirs.sendall(b"abcdef")
    read = BufferedRead(otf_message_handler._retrieve_buffer)
    assert read(ours, 2) == b"ab"
    others = socket.socketpair()
    with others[0], others[1]:
        others[1].sendall(b"123")
        assert read(others[0], 3) == b"123"


def test_a_protocol_that_reads_otherwise_is_left_alone() -> None:
    """A later TorchServe may have other functions."""
    assert not read_through_buffer(SimpleNamespace())
    module = SimpleNamespace(**{NAME: len})
    assert not read_through_buffer(module)
    assert not isinstance(getattr(module, NAME), BufferedRead)
