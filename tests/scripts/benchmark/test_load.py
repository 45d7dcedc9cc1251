"""The load generator and LoadGen's system under test, against a small HTTP server."""

from __future__ import annotations

import asyncio
import http.server
import importlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from scripts.benchmark import wrk
from scripts.benchmark.accounting import ExpectedScores, RequestAccounting
from scripts.benchmark.http import Endpoint, LoadClient, LoadResponse
from scripts.benchmark.load import LoadGenerator, closed_loop
from scripts.benchmark.loadgen import SystemUnderTest
from scripts.benchmark.servers import all_labels_body
from scripts.benchmark.side_by_side import Contestant, overload_by_python

TEXTS = ["0.1", "0.2", "0.3"]
EXPECTED = ExpectedScores([{"yes": float(text)} for text in TEXTS], 1e-6)


class _Scores(http.server.BaseHTTPRequestHandler):
    """Answers each text with a score of its own, and refuses the text `busy`."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
        scores = [[{"label": "yes", "score": float(text)}] for text in texts if text != "busy"]
        body = json.dumps(scores).encode()
        self.send_response(503 if texts == ["busy"] else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Be silent."""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """Run the server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Scores) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/predictions/m"
        yield Endpoint(url, {"Content-Type": "application/json"}, all_labels_body, lambda value: value)
        server.shutdown()
        thread.join()


def test_a_closed_loop_accounts_for_every_request(endpoint: Endpoint) -> None:
    """Each has the answer to its own text, and a latency."""
    accounting = RequestAccounting()
    latencies, seconds = closed_loop(endpoint, TEXTS, EXPECTED, accounting, 4, 0.3)
    assert accounting.counts["right"] == accounting.total == len(latencies) > 0
    assert all(0 < latency <= seconds for latency in latencies)


def test_an_open_loop_keeps_its_rate_and_the_number_of_each_request(endpoint: Endpoint) -> None:
    """Requests are numbered from `first`; the end of the `with` waits for all of them."""
    numbers: list[int] = []

    def record(number: int, response: LoadResponse) -> str:
        numbers.append(number)
        return "right" if EXPECTED.matches(number % 3, response.value[0]) else "wrong"

    def message(number: int) -> bytes:
        return endpoint.message([TEXTS[number % 3]])

    with LoadGenerator(endpoint.host, endpoint.port, message, record, rate=100, first=30) as load:
        time.sleep(0.5)
        load.send(5)
    assert sorted(numbers) == list(range(30, 30 + load.sent))
    assert load.sent > 15
    assert len(load.latency_s["right"]) == load.sent == len(load.late_s)
    assert load.surplus == 0


def test_an_overload_counts_right_answers_and_refusals(endpoint: Endpoint) -> None:
    """At five times the capacity, whatever the server answers."""
    texts, began = [*TEXTS, "busy"], time.monotonic()
    row = overload_by_python(Contestant("server", True, endpoint, EXPECTED, 0), 50.0, texts, 0.4)
    took_ms = 1e3 * (time.monotonic() - began)
    ledger = row["ledger"]
    assert ledger["sent"] == ledger["right"] + ledger["refused"] > 30
    assert ledger["refused"] == ledger["sent"] // 4
    assert row["times"] == pytest.approx(row["rate"] / 50)
    assert row["of_capacity"] == pytest.approx(row["goodput"] / 50)
    assert 0 < row["goodput"] <= ledger["right"] / 0.4
    assert 0 < row["refused_p99_ms"] < took_ms
    nothing = overload_by_python(Contestant("server", True, endpoint, EXPECTED, 0), 50.0, ["busy"], 0.1)
    assert (nothing["goodput"], nothing["right_p99_ms"]) == (0, None)


@pytest.mark.skipif(not wrk.wrk_version(), reason="wrk is not installed")  # as for a user: Python then sends
def test_wrk_sends_the_requests_of_this_package(endpoint: Endpoint) -> None:
    """Byte for byte: the server answers each, and refusals are counted apart."""
    row = wrk.load(endpoint, [*TEXTS, "busy"], 2, 1)
    assert row["failed"] == 0
    assert row["refused"] > 0
    assert row["texts_per_s"] > 2 * row["refused"]
    assert 0 < row["p50_ms"] <= row["p99_ms"]


def test_a_server_that_does_not_answer() -> None:
    """The request ends after its time with a reason, and its connection is not used again."""

    async def ask(port: int) -> LoadResponse:
        client = LoadClient("127.0.0.1", port, timeout_s=0.1)
        response = await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert not client._idle
        return response

    with socket.create_server(("127.0.0.1", 0)) as silent:
        response = asyncio.run(ask(silent.getsockname()[1]))
    assert (response.status, response.content) == (0, b"no answer within 0.1 s")


class _LoadGen(ModuleType):
    """The part of mlperf_loadgen that is used, with one query of 100 samples."""

    TestMode = SimpleNamespace(PerformanceOnly=1)
    TestSettings = SimpleNamespace

    def __init__(self) -> None:
        super().__init__("mlperf_loadgen")
        self.completed: list[int] = []
        self.destroyed: list[str] = []

    def LogSettings(self) -> Any:  # noqa: N802 - LoadGen's names
        return SimpleNamespace(log_output=SimpleNamespace())

    def ConstructSUT(self, issue: Any, _: Any) -> str:  # noqa: N802
        self.issue = issue
        return "sut"

    def ConstructQSL(self, *_: Any) -> str:  # noqa: N802
        return "qsl"

    def DestroySUT(self, name: str) -> None:  # noqa: N802
        self.destroyed.append(name)

    DestroyQSL = DestroySUT

    def QuerySampleResponse(self, number: int, *_: Any) -> int:  # noqa: N802
        return number

    def QuerySamplesComplete(self, numbers: list[int]) -> None:  # noqa: N802
        self.completed += numbers

    def StartTestWithLogSettings(self, _: Any, __: Any, ___: Any, log: Any) -> None:  # noqa: N802
        self.issue([SimpleNamespace(id=number, index=number % 3) for number in range(100)])
        deadline = time.monotonic() + 30
        while len(self.completed) < 100 and time.monotonic() < deadline:
            time.sleep(0.01)
        (Path(log.log_output.outdir) / "mlperf_log_summary.txt").write_text("Samples per second: 9\n")


def test_loadgen_gets_every_sample_back(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """In requests of several texts, each answer checked."""
    loadgen, accounting = _LoadGen(), RequestAccounting()
    monkeypatch.setattr(importlib, "import_module", {"mlperf_loadgen": loadgen}.__getitem__)
    summary = SystemUnderTest(endpoint, TEXTS, EXPECTED, accounting, 7, 4).run(scenario="Offline")
    assert summary == {"Samples per second": "9"}
    assert sorted(loadgen.completed) == list(range(100))
    assert sorted(loadgen.destroyed) == ["qsl", "sut"]
    assert accounting.to_json() == {"sent": 100, "right": 100, "refused": 0, "failed": 0, "wrong": 0}
