"""Test that clients see no error while two servers behind the gateway restart one after the other (F5).

In the environment ROLLING_RESTARTS sets the number of rounds, and SERVE_SERVER the kind of server.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from handler.predictor import Predictor
from scripts.benchmark.accounting import ExpectedScores, RequestAccounting, scores_of
from tests.support.replicas import Clients, replicas, rounds

WORDS = ["parcel", "refund", "screen", "invoice", "battery", "address", "manual", "colour"]
TEXTS_PER_ROUND = 3000
REQUESTS = "ts_inference_requests_total"


def texts_of(count: int) -> list[str]:
    """Return distinct texts."""
    return [f"{WORDS[index % 8]} {index} {WORDS[index // 8 % 8]}" for index in range(count)]


@pytest.mark.server
def test_no_client_sees_a_rolling_restart(mar: Path, predictor: Predictor) -> None:
    """Every request gets its own answer, also while a server is down; afterwards that server gets requests again."""
    texts = texts_of(TEXTS_PER_ROUND * rounds())
    scores = [scores_of(answer) for answer in predictor.answer_items(texts, {"top_k": None})]
    expected, accounting = ExpectedScores(scores, predictor.engine.precision.tolerance), RequestAccounting()
    with (
        tempfile.TemporaryDirectory(prefix="rolling-") as folder,
        replicas(Path(folder), mar.parent) as (gateway, pair),
    ):
        with Clients(gateway, "/predictions/tiny", texts, expected, accounting) as clients:
            for server in pair * rounds():
                clients.wait_for(20)
                right_before = accounting.counts["right"]
                server.stop()
                server.start()
                server.wait()
                assert accounting.counts["right"] > right_before + 20, "the other server answered meanwhile"
                requests = server.live.wait_for_metric(REQUESTS, 1, model_version="default")
                assert requests, "it gets requests again: that of its own start names a version"
        counts = accounting.to_json()
    assert (counts, clients.failures) == (
        {**counts, "right": counts["sent"], "refused": 0, "failed": 0, "wrong": 0},
        {},
    )
    assert 100 < counts["sent"] < len(texts), "the clients never ran out of texts"
