"""L5: two models on one server, one of which gets more than it can answer: the other one is answered as before."""

from __future__ import annotations

import time
from pathlib import Path

from handler.config import ModelConfig
from scripts.archives.build import build
from tests.reliability.load import ScenarioLoad
from tests.reliability.oracle import Oracle, different_texts
from tests.reliability.result import ScenarioResult
from tests.reliability.server import ScenarioServer, Target

QUIET = "quiet"  # the model beside the one that is overloaded
N_TEXTS = 1000
RATE = 10.0  # requests a second for it
SLOWER = 2.0  # than alone


def overloaded(
    server: ScenarioServer,
    folder: Path,
    settings: ModelConfig,
    rate: float,
    seconds: float,
    *,
    slack_ms: float = 0.0,
) -> ScenarioResult:
    """L5: while one model gets `rate` requests a second, all requests to another one are answered, in the usual time.

    Args:
        folder: the model that is registered beside the server's own.
        slack_ms: by which answers may take longer than SLOWER times the usual time.
    """
    server.up()
    mar = build(folder, QUIET, "1.0", settings, server.live.store)
    quiet = Target(server.live, QUIET, Oracle.of(different_texts(N_TEXTS), mar))
    server.live.script("models.py", "register", QUIET)
    try:
        with ScenarioLoad(quiet, rate=RATE) as alone:
            time.sleep(seconds / 2)
        with ScenarioLoad(server.target, rate=rate) as load:
            time.sleep(1)  # until its queue is full
            with ScenarioLoad(quiet, rate=RATE, first=alone.sent) as beside:
                time.sleep(seconds)
                beside.end()
            load.end()
    finally:
        server.live.script("models.py", "unregister", QUIET)
    alone_ms, p99_ms = alone.times()["p99 ms"], beside.times()["p99 ms"]
    return ScenarioResult(
        "L5",
        f"one model gets {rate:.3g} requests/s for {seconds:.0f} s, another {RATE:g}: those are all answered, with a "
        f"p99 of at most {SLOWER:g} times that without the first",
        {
            **load.ledger.figures(load.sent),
            "sent to the other": beside.sent,
            "right of the other": beside.ledger.counts["right"],
            "p99 ms alone": alone_ms,
            "p99 ms": p99_ms,
            **{name: figure for name, figure in load.times().items() if name.startswith("client")},
        },
        {
            **load.ledger.invariants(load.sent),
            **{f"the other: {name}": held for name, held in beside.ledger.invariants(beside.sent).items()},
            f"{load.ledger.counts['failed']} failed": not load.ledger.counts["failed"],
            f"the other: {beside.sent} answered": beside.ledger.counts["right"] == beside.sent,
            "the other: in the usual time": p99_ms <= SLOWER * alone_ms + slack_ms,
        },
    )
