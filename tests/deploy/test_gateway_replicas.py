"""Test several servers behind one gateway: which one gets a request, which is skipped, what is never sent twice."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.gateway import (
    Gateway,
    RecordingServer,
    http_response,
    listens,
    running,
    wait_until,
)
from tests.support.samples import ROOT


@dataclass(frozen=True)
class Pair:
    """Two servers behind one gateway, each with its own key and run folder."""

    gateway: Gateway
    servers: tuple[RecordingServer, RecordingServer]
    folders: tuple[Path, Path]

    def set_responses(self, first: bytes, second: bytes) -> None:
        """Set the response of each server and clear the recorded requests."""
        for server, response in zip(self.servers, (first, second), strict=True):
            server.response = response
            server.received.clear()

    def request_counts(self) -> list[int]:
        """Count the requests that each server received."""
        return [len(server.received) for server in self.servers]

    def responding_servers(self, times: int = 8) -> set[bytes]:
        """Send several requests; return the bodies that identify the servers."""
        responses = [self.gateway.request("POST", "/predictions/a") for _ in range(times)]
        assert {response.status for response in responses} == {200}
        return {response.body for response in responses}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Run two servers behind a gateway."""
    servers, folders = (
        (RecordingServer(b""), RecordingServer(b"")),
        (tmp_path_factory.mktemp("s"), tmp_path_factory.mktemp("s")),
    )
    for number, folder in enumerate(folders):
        (folder / "run").mkdir()
        (folder / "key_file.json").write_text(json.dumps({"inference": {"key": f"key{number}"}}, indent=2))
    first, second = [(server.port, folder / "key_file.json") for server, folder in zip(servers, folders, strict=True)]
    with running(tmp_path_factory.mktemp("g") / "g", *first, others=[second]) as gateway:
        yield Pair(gateway, servers, folders)
    for server in servers:
        server.listener.close()


def test_two_servers_share_the_requests(pair: Pair) -> None:
    """Each receives its own key."""
    pair.set_responses(http_response("200 OK", b"0"), http_response("200 OK", b"1"))
    assert pair.responding_servers() == {b"0", b"1"}
    for number, server in enumerate(pair.servers):
        assert all(f"Bearer key{number}\r\n".encode() in request for request in server.received)


@pytest.mark.parametrize("state", ["starting", "draining"])
def test_a_starting_or_draining_server_gets_no_request(pair: Pair, state: str) -> None:
    """Immediately, and only while its state file exists; with both unavailable the client gets Retry-After."""
    pair.set_responses(http_response("200 OK", b"0"), http_response("200 OK", b"1"))
    flags = [folder / "run" / state for folder in pair.folders]
    flags[0].touch()
    assert pair.responding_servers() == {b"1"}
    flags[1].touch()
    response = pair.gateway.request("POST", "/predictions/a")
    assert (response.status, response.headers["Retry-After"], response.headers["Connection"]) == (503, "5", "close")
    flags[0].unlink()
    assert pair.responding_servers() == {b"0"}
    flags[1].unlink()
    assert pair.responding_servers() == {b"0", b"1"}


def test_a_full_queue_moves_the_request_to_the_other_server(pair: Pair) -> None:
    """A request that was not accepted may be sent again."""
    pair.set_responses(http_response("503 no", b"{}"), http_response("200 OK", b"1"))
    assert pair.responding_servers() == {b"1"}
    pair.set_responses(http_response("503 no", b"{}"), http_response("503 no", b"{}"))
    assert pair.gateway.request("POST", "/predictions/a").status == 429
    assert pair.request_counts() == [1, 1]


@pytest.mark.parametrize(
    "response", [b"", http_response("503 no", b"{}", "x-error-message: unexpected"), http_response("500 no", b"{}")]
)
def test_a_request_that_was_sent_is_not_sent_again(pair: Pair, response: bytes) -> None:
    """It may have ended the server or made the handler fail: only the client may repeat it."""
    pair.set_responses(response, response)
    assert pair.gateway.request("POST", "/predictions/a").status == (500 if b" 500 " in response else 503)
    assert sum(pair.request_counts()) == 1


def test_a_server_without_a_key_or_a_listener_is_skipped(pair: Pair) -> None:
    """The last test that uses this pair."""
    pair.set_responses(http_response("200 OK", b"0"), http_response("200 OK", b"1"))
    pair.servers[0].listener.shutdown(socket.SHUT_RDWR)
    pair.servers[0].listener.close()
    wait_until(lambda: not listens(pair.servers[0].port), pair.gateway)
    assert pair.responding_servers() == {b"1"}
    (pair.folders[1] / "key_file.json").unlink()
    wait_until(lambda: pair.gateway.request("POST", "/predictions/a").status == 503, pair.gateway)


@pytest.mark.parametrize(
    ("version", "refused", "reported"),
    [
        ("1.27.4", True, True),
        ("1.30.3", True, True),
        ("1.31.2", True, True),
        ("1.31.3", False, True),
        ("1.30.7", False, False),
        ("1.31.9", False, False),
        ("1.32.1", False, False),
    ],
)
def test_an_nginx_with_known_weaknesses_does_not_start(
    tmp_path: Path, version: str, refused: bool, reported: bool
) -> None:
    """By its version, before it reads anything."""
    fake = tmp_path / "nginx"
    fake.write_text(f"#!/bin/sh\necho 'nginx version: nginx/{version}' >&2\n[ \"$1\" = -v ]\n")
    fake.chmod(0o700)
    environment = {**os.environ, "GATEWAY_NGINX": str(fake), "GATEWAY_RUN": str(tmp_path / "run")}
    environment["GATEWAY_SECRETS"] = str(tmp_path)
    done = subprocess.run(
        [ROOT / "deploy" / "gateway" / "run.sh"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 2, "without secrets it does not start either"
    assert ("known weaknesses" in done.stderr) == reported
    assert ("clients.map" in done.stderr) != refused


def test_every_server_needs_its_key_file(tmp_path: Path) -> None:
    """Checked at the start, before any client sends a request."""
    environment = {**os.environ, "TORCHSERVE": "127.0.0.1:1 127.0.0.1:2", "GATEWAY_RUN": str(tmp_path)}
    done = subprocess.run(
        [ROOT / "deploy" / "gateway" / "run.sh"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 2
    assert "names 2 servers and KEY_FILE 1 files" in done.stderr
