"""Two servers behind the gateway restart one after the other, and no client sees it (F5).

ROLLING_RESTARTS in the environment repeats it, e.g. twenty times.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from handler.predictor import Predictor
from scripts.benchmark.accounting import Ledger, scores_of
from tests.support.replicas import Clients, replicas, rounds

WORDS = ["parcel", "refund", "screen", "invoice", "battery", "address", "manual", "colour"]
TEXTS_A_ROUND = 3000


def texts_of(count: int) -> list[str]:
    """Make texts that are all different."""
    return [f"{WORDS[index % 8]} {index} {WORDS[index // 8 % 8]}" for index in range(count)]


@pytest.mark.server
def test_no_client_sees_a_rolling_restart(mar: Path, predictor: Predictor) -> None:
    """Every question has its own answer, also while a server is away; then that one takes its share."""
    texts = texts_of(TEXTS_A_ROUND * rounds())
    known = [scores_of(answer) for answer in predictor.answer_items(texts, {"top_k": None})]
    ledger = Ledger(known, predictor.engine.precision.tolerance)
    with (
        tempfile.TemporaryDirectory(prefix="rolling-") as folder,
        replicas(Path(folder), mar.parent) as (gateway, pair),
    ):
        with Clients(gateway, "/predictions/tiny", texts, ledger) as clients:
            for server in pair * rounds():
                clients.wait_for(20)
                before = ledger.right
                server.stop()
                server.start()
                server.wait()
                assert ledger.right > before + 20, "somebody was asked meanwhile"
                taken = server.live.metric("ts_inference_requests_total")
                clients.wait_for(20)
                assert server.live.metric("ts_inference_requests_total") > taken, "it is asked again"
        told = ledger.to_json()
    assert (told, clients.failures) == ({**told, "right": told["sent"], "refused": 0, "failed": 0, "wrong": 0}, {})
    assert 100 < told["sent"] < len(texts), "there was always something left to ask"
