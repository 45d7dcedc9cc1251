"""The suite can tell: each way in which a promise may be broken is noticed, by ledger, client and table."""

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

from scripts.benchmark.accounting import Ledger
from tests.reliability import __main__ as command
from tests.reliability.accounting import Account
from tests.reliability.client import Answer, Client
from tests.reliability.oracle import Exam
from tests.reliability.plan import SCENARIOS
from tests.reliability.result import Verdict
from tests.support.gateway import RecordingServer, http_response
from tests.support.samples import ROOT

EXAM = Exam(
    ["a", "b"], {"v1": Ledger([{"yes": 0.9}, {"yes": 0.2}], 1e-5), "v2": Ledger([{"yes": 0.7}, {"yes": 0.3}], 1e-5)}
)
MODULES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("test_"))


def answer(score: float, number: int, version: str = "v1") -> Answer:
    """Return an answer as the handler writes it."""
    headers = {"x-model-hash": version, "x-client-request-id": str(number)}
    return Answer(200, json.dumps([[{"label": "yes", "score": score}]]).encode(), headers)


def error(status: int, kind: str) -> Answer:
    """Return an error as TorchServe writes it."""
    return Answer(status, json.dumps({"code": status, "type": kind, "message": "why"}).encode())


@pytest.mark.parametrize(
    ("came", "kind"),
    [
        (answer(0.9, 0), "right"),
        (answer(0.7, 0, "v2"), "right"),
        (answer(0.7, 0), "wrong"),  # of another version than it says
        (answer(0.9, 0, "v3"), "wrong"),
        (answer(0.5, 0), "wrong"),
        (answer(0.2, 0), "swapped"),
        (answer(0.9, 1), "wrong"),
        (answer(0.2, 1), "swapped"),
        (Answer(200, b"torn"), "wrong"),
        (error(503, "ServiceUnavailableException"), "refused"),
        (error(500, "InternalServerException"), "failed"),
        (error(503, "Overloaded"), "failed"),
        (Answer(500, b""), "lost"),
        (Answer(0), "lost"),
    ],
)
def test_every_end_of_a_request_is_told_apart(came: Answer, kind: str) -> None:
    """And only right, refused and failed ones leave the ledger clean."""
    account = Account(EXAM)
    assert account.note(0, came) == kind
    assert all(account.clean(1).values()) == (kind in ("right", "refused", "failed"))
    assert not all(account.clean(2).values()), "one request never came to an end"


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
def test_the_client_notices_what_a_server_does(sent: bytes, status: int, surplus: int) -> None:
    """Bytes that nobody asked for, and answers that never come or end too early."""
    recorder = RecordingServer(sent)

    async def ask() -> tuple[Answer, int]:
        client = Client("127.0.0.1", recorder.port)
        came = await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        client.close()
        return came, client.surplus

    came, found = asyncio.run(ask())
    recorder.listener.close()
    assert (came.status, found) == (status, surplus)


def test_a_broken_promise_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    """In the table, in results.json, and by the exit code."""
    kept = Verdict("L1", "ask", {"sent": 3}, {"all": True})
    broken = Verdict("F3", "stop", {"lost": 1}, {"nothing lost": False})
    for found, code in (([kept], 0), ([kept, broken], 1)):
        monkeypatch.setattr("sys.argv", ["reliability", "--output", str(tmp_path)])
        monkeypatch.setattr(command, "verdicts", lambda *_, found=found: iter(found))
        assert command.main() == code
        written = json.loads((tmp_path / "results.json").read_text())
        assert [one["kept"] for one in written["verdicts"]] == [one.kept for one in found]
    assert "BROKEN; nothing lost" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_every_promise_is_told_and_run() -> None:
    """The table of docs/reliability.md, the command's and the plan's name the same ones."""
    documented = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip() for line in documented.splitlines() if line.startswith("| ")]
    assert set(SCENARIOS) == set(command.ALL) == {row for row in rows if row[1:].isdigit()}
    assert command.promises("l1, F3") == ("L1", "F3")
    with pytest.raises(ArgumentTypeError, match="X9 is no promise"):
        command.promises("X9")


def test_the_reading_order_is_complete() -> None:
    """The package names its modules."""
    text = (Path(__file__).parent / "__init__.py").read_text(encoding="utf-8")
    assert sorted(re.findall(r"(?m)^(\w+)  ", text)) == [name for name in MODULES if not name.startswith("__")]


@pytest.mark.parametrize("name", MODULES)
def test_worked_examples_are_true(name: str) -> None:
    """Examples in docstrings run."""
    module = "tests.reliability" + ("" if name == "__init__" else f".{name}")
    assert doctest.testmod(importlib.import_module(module)).failed == 0
