"""L5: two models on one server, one of which gets more than it can answer: the other one is answered as before."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path

from handler.config import ModelConfig
from scripts.archives.build import ArchiveContents, build
from tests.reliability.gateway_link import gateway_before
from tests.reliability.load import ScenarioLoad
from tests.reliability.oracle import Oracle, different_texts
from tests.reliability.result import ScenarioResult
from tests.reliability.server import ScenarioServer, Target
from tests.support.gateway import OTHER

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
    gateway: bool = False,
) -> ScenarioResult:
    """L5: while one model gets `rate` requests a second, all requests to another one are answered, in the usual time.

    Args:
        folder: the model that is registered beside the server's own.
        slack_ms: by which answers may take longer than SLOWER times the usual time.
        gateway: whether both models are asked through the gateway, whose limits are those of a client: two of them.
    """
    server.up()
    mar = build(ArchiveContents(folder, QUIET, "1.0", settings), server.live.store)
    quiet = Target(server.live, QUIET, Oracle.of(different_texts(N_TEXTS), mar))
    server.live.script("models.py", "register", QUIET)
    target, key, other_key = server.target, "", ""
    try:
        with contextlib.ExitStack() as stack:
            if gateway:
                address = server.live.ports["inference_address"]
                target, key = stack.enter_context(gateway_before(server, address))
                quiet, other_key = replace(quiet, live=target.live), OTHER
            with ScenarioLoad(quiet, rate=RATE, key=other_key) as alone:
                time.sleep(seconds / 2)
            with ScenarioLoad(target, rate=rate, key=key) as load:
                time.sleep(1)  # until its queue is full
                with ScenarioLoad(quiet, rate=RATE, first=alone.sent, key=other_key) as beside:
                    time.sleep(seconds)
                    beside.end()
                load.end()
    finally:
        server.live.script("models.py", "unregister", QUIET)
    alone_ms, p99_ms = alone.times()["p99 ms"], beside.times()["p99 ms"]
    return ScenarioResult(
        "L5",
        f"one model gets {rate:.3g} requests/s for {seconds:.0f} s, another {RATE:g}"
        f"{', from two clients of the gateway' if gateway else ''}: those are all answered, with a p99 of at most "
        f"{SLOWER:g} times that without the first",
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
