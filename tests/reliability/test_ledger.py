"""Violations are detected: every outcome of a request by the ledger, the client and the table of scenarios."""

from __future__ import annotations

import asyncio
import doctest
import importlib
import json
import re
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

import pytest

from scripts.benchmark.accounting import ExpectedScores
from scripts.benchmark.http import LoadClient, LoadResponse
from tests.reliability import __main__ as command
from tests.reliability import ray_cluster
from tests.reliability.accounting import RequestLedger
from tests.reliability.oracle import Oracle
from tests.reliability.plan import SCENARIOS
from tests.reliability.result import ScenarioResult
from tests.support.gateway import RecordingServer, http_response
from tests.support.samples import ROOT

ORACLE = Oracle(
    ["a", "b"],
    {
        "v1": ExpectedScores([{"yes": 0.9}, {"yes": 0.2}], 1e-5),
        "v2": ExpectedScores([{"yes": 0.7}, {"yes": 0.3}], 1e-5),
    },
)
MODULES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("test_"))


def answer(score: float, number: int, version: str = "v1") -> LoadResponse:
    """Return a response as the handler writes it."""
    headers = {"x-model-hash": version, "x-client-request-id": str(number)}
    return LoadResponse(200, content=json.dumps([[{"label": "yes", "score": score}]]).encode(), headers=headers)


def error(status: int, kind: str) -> LoadResponse:
    """Return an error as TorchServe writes it."""
    return LoadResponse(status, content=json.dumps({"code": status, "type": kind, "message": "why"}).encode())


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        (answer(0.9, 0), "right"),
        (answer(0.7, 0, "v2"), "right"),
        (answer(0.7, 0), "wrong"),  # the score of another version
        (answer(0.9, 0, "v3"), "wrong"),
        (answer(0.5, 0), "wrong"),
        (answer(0.2, 0), "swapped"),
        (answer(0.9, 1), "wrong"),
        (answer(0.2, 1), "swapped"),
        (LoadResponse(200, content=b"torn"), "wrong"),
        (error(503, "ServiceUnavailableException"), "refused"),
        (error(429, "TooManyRequests"), "refused"),  # of the gateway
        (error(500, "InternalServerException"), "failed"),
        (error(503, "Overloaded"), "failed"),
        (LoadResponse(500, content=b""), "lost"),
        (LoadResponse(0), "lost"),
    ],
)
def test_every_outcome_of_a_request_is_distinguished(response: LoadResponse, outcome: str) -> None:
    """Only right, refused and failed requests keep the invariants of the ledger."""
    ledger = RequestLedger(ORACLE)
    assert ledger.record(0, response) == outcome
    assert all(ledger.invariants(1).values()) == (outcome in ("right", "refused", "failed"))
    assert not all(ledger.invariants(2).values()), "one request never came to an end"


@pytest.mark.parametrize(
    ("sent", "status", "surplus"),
    [
        (http_response("200 OK", b"{}"), 200, 0),
        (http_response("200 OK", b"{}") + b"more", 200, 1),
        (b"", 0, 0),
        (b"HTTP/1.1 200", 0, 0),
    ],
    ids=["whole", "more", "nothing", "torn"],
)
def test_the_client_detects_broken_responses(sent: bytes, status: int, surplus: int) -> None:
    """Bytes without a request, and responses that never come or end too early."""
    recorder = RecordingServer(sent)

    async def ask() -> tuple[LoadResponse, int]:
        client = LoadClient("127.0.0.1", recorder.port)
        response = await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        client.close()
        return response, client.surplus

    response, counted = asyncio.run(ask())
    recorder.listener.close()
    assert (response.status, counted) == (status, surplus)


def test_a_violation_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    """In the table, in results.json, and by the exit code."""
    holds = ScenarioResult("L1", "ask", {"sent": 3}, {"all": True})
    violated = ScenarioResult("F3", "stop", {"lost": 1}, {"nothing lost": False})
    for results, code in (([holds], 0), ([holds, violated], 1)):
        monkeypatch.setattr("sys.argv", ["reliability", "--output", str(tmp_path)])
        monkeypatch.setattr(command, "run_scenarios", lambda *_, results=results: iter(results))
        assert command.main() == code
        written = json.loads((tmp_path / "results.json").read_text())
        assert [entry["holds"] for entry in written["scenarios"]] == [result.holds for result in results]
    assert "VIOLATED; nothing lost" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_every_scenario_is_documented_and_run() -> None:
    """The table of docs/reliability.md, the command and the plan have the same ones."""
    documented = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip() for line in documented.splitlines() if line.startswith("| ")]
    assert set(SCENARIOS) == set(command.ALL) == {row for row in rows if row[1:].isdigit()}
    assert command.scenarios("l1, F3") == ("L1", "F3")
    with pytest.raises(ArgumentTypeError, match="X9 is no scenario"):
        command.scenarios("X9")


def test_a_trial_of_ray_has_a_token_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the home folder has one, `ray start` would ask for that, and `serve deploy` would send none."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of somebody")
    made = ray_cluster.environment("of the trial")
    assert (made["RAY_AUTH_MODE"], made["RAY_AUTH_TOKEN"]) == ("token", "of the trial")


def test_the_reading_order_is_complete() -> None:
    """The package names its modules."""
    text = (Path(__file__).parent / "__init__.py").read_text(encoding="utf-8")
    assert sorted(re.findall(r"(?m)^(\w+)  ", text)) == [name for name in MODULES if not name.startswith("__")]


@pytest.mark.parametrize("name", MODULES)
def test_worked_examples_are_true(name: str) -> None:
    """Examples in docstrings run."""
    module = "tests.reliability" + ("" if name == "__init__" else f".{name}")
    assert doctest.testmod(importlib.import_module(module)).failed == 0
