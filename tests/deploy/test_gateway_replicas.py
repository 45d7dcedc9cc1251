"""Several servers behind one gateway: who is asked, who is passed over, and what is never asked twice."""

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
    Recorder,
    http,
    listens,
    running,
    wait_until,
)
from tests.support.samples import ROOT


@dataclass(frozen=True)
class Pair:
    """Two servers behind one gateway, each with a key and a run folder of its own."""

    gateway: Gateway
    servers: tuple[Recorder, Recorder]
    folders: tuple[Path, Path]

    def answers(self, first: bytes, second: bytes) -> None:
        """Let the servers answer so from now on, and forget what they got."""
        for server, answer in zip(self.servers, (first, second), strict=True):
            server.answer = answer
            server.received.clear()

    def asked(self) -> list[int]:
        """Count what each server got."""
        return [len(server.received) for server in self.servers]

    def told_apart(self, times: int = 8) -> set[bytes]:
        """Ask several times; return which of the servers answered."""
        answers = [self.gateway.ask("POST", "/predictions/a") for _ in range(times)]
        assert {answer.status for answer in answers} == {200}
        return {answer.body for answer in answers}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Run two servers and the gateway before them."""
    servers, folders = (Recorder(b""), Recorder(b"")), (tmp_path_factory.mktemp("s"), tmp_path_factory.mktemp("s"))
    for number, folder in enumerate(folders):
        (folder / "run").mkdir()
        (folder / "key_file.json").write_text(json.dumps({"inference": {"key": f"key{number}"}}, indent=2))
    first, second = [(server.port, folder / "key_file.json") for server, folder in zip(servers, folders, strict=True)]
    with running(tmp_path_factory.mktemp("g") / "g", *first, others=[second]) as gateway:
        yield Pair(gateway, servers, folders)
    for server in servers:
        server.listener.close()


def test_two_servers_share_the_questions(pair: Pair) -> None:
    """Each gets its own key."""
    pair.answers(http("200 OK", b"0"), http("200 OK", b"1"))
    assert pair.told_apart() == {b"0", b"1"}
    for number, server in enumerate(pair.servers):
        assert all(f"Bearer key{number}\r\n".encode() in request for request in server.received)


@pytest.mark.parametrize("state", ["starting", "draining"])
def test_a_server_that_says_so_is_not_asked(pair: Pair, state: str) -> None:
    """At once, and only as long as it says so; when both do, the client is told when to come back."""
    pair.answers(http("200 OK", b"0"), http("200 OK", b"1"))
    flags = [folder / "run" / state for folder in pair.folders]
    flags[0].touch()
    assert pair.told_apart() == {b"1"}
    flags[1].touch()
    answer = pair.gateway.ask("POST", "/predictions/a")
    assert (answer.status, answer.headers["Retry-After"], answer.headers["Connection"]) == (503, "5", "close")
    flags[0].unlink()
    assert pair.told_apart() == {b"0"}
    flags[1].unlink()
    assert pair.told_apart() == {b"0", b"1"}


def test_a_full_queue_is_no_answer_while_another_has_room(pair: Pair) -> None:
    """What was not taken may be sent again."""
    pair.answers(http("503 no", b"{}"), http("200 OK", b"1"))
    assert pair.told_apart() == {b"1"}
    pair.answers(http("503 no", b"{}"), http("503 no", b"{}"))
    assert pair.gateway.ask("POST", "/predictions/a").status == 429
    assert pair.asked() == [1, 1]


@pytest.mark.parametrize("answer", [b"", http("503 no", b"{}", "x-error-message: unexpected"), http("500 no", b"{}")])
def test_a_question_that_was_sent_is_not_sent_again(pair: Pair, answer: bytes) -> None:
    """It may be what ended the server, or made the handler fail: to repeat it is the client's decision."""
    pair.answers(answer, answer)
    assert pair.gateway.ask("POST", "/predictions/a").status == (500 if b" 500 " in answer else 503)
    assert sum(pair.asked()) == 1


def test_a_server_without_a_key_or_a_listener_is_passed_over(pair: Pair) -> None:
    """The last test of these two."""
    pair.answers(http("200 OK", b"0"), http("200 OK", b"1"))
    pair.servers[0].listener.shutdown(socket.SHUT_RDWR)
    pair.servers[0].listener.close()
    wait_until(lambda: not listens(pair.servers[0].port), pair.gateway)
    assert pair.told_apart() == {b"1"}
    (pair.folders[1] / "key_file.json").unlink()
    wait_until(lambda: pair.gateway.ask("POST", "/predictions/a").status == 503, pair.gateway)


def test_every_server_needs_its_key_file(tmp_path: Path) -> None:
    """Told at the start, not found out by a client."""
    environment = {**os.environ, "TORCHSERVE": "127.0.0.1:1 127.0.0.1:2", "GATEWAY_RUN": str(tmp_path)}
    done = subprocess.run(
        [ROOT / "deploy" / "gateway" / "run.sh"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 2
    assert "names 2 servers and KEY_FILE 1 files" in done.stderr
