"""F1 to F3: killed workers, hung workers, and a server that is stopped, all under load."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Mapping

import psutil  # type: ignore[import-untyped]

from scripts.cli.console import say
from tests.reliability.load import ScenarioLoad
from tests.reliability.result import ScenarioResult
from tests.reliability.server import POLL_S, START_S, ScenarioServer, stopped

LOAD_S = 15.0  # assumed loading time of a worker, for choosing a rate
MAX_QUEUE_FRACTION = 0.5  # of the queue that is filled while there is no worker
LAG_S = 1.0  # until clients notice that a server is not ready any more


def killed(server: ScenarioServer, repeats: int, margin_s: float) -> ScenarioResult:
    """F1: kill -9 of a busy worker fails at most its batch, with a reason, and another worker is ready soon."""
    server.up()
    away, loading, worst = [], [], 0
    with ScenarioLoad(server.target, rate=_rate(server, LOAD_S)) as load:
        for number in range(repeats):
            time.sleep(0.5)
            pid, failed = server.worker(), load.ledger.counts["failed"]
            load.send(2 * server.batch)
            time.sleep(0.005 * (1 + number % 10))  # the worker has some of them, sometimes after another batch
            os.kill(pid, signal.SIGKILL)
            at = time.time()
            other = server.wait_for_worker(instead_of=pid)
            away.append(time.time() - at)
            loading.append(time.time() - psutil.Process(other).create_time())
            worst = max(worst, load.ledger.counts["failed"] - failed)
            say(f"F1: {number + 1} of {repeats}, away {away[-1]:.1f} s")
    beyond = max(gone - load_s for gone, load_s in zip(away, loading, strict=True))
    ledger = load.ledger
    return ScenarioResult(
        "F1",
        f"{repeats} busy workers killed: at most {server.batch} requests fail each time, with a reason; ready again "
        f"within load time + {margin_s:g} s",
        {**ledger.figures(load.sent), "most for one": worst, "away s": max(away), "beyond loading s": beyond}
        | {"reasons": _summary(ledger.reasons)},
        {
            **ledger.invariants(load.sent),
            "at most one batch for each": worst <= server.batch,
            "no other failures": ledger.counts["failed"] <= repeats * server.batch,
            "ready again in time": beyond <= margin_s,
        },
    )


def hung(server: ScenarioServer, repeats: int, margin_s: float) -> ScenarioResult:
    """F2: a hung worker is replaced after responseTimeout; the next one answers the queue."""
    server.up()
    away, worst = [], 0
    with ScenarioLoad(server.target, rate=_rate(server, server.hang_s + LOAD_S)) as load:
        for number in range(repeats):
            time.sleep(0.5)
            pid, failed = server.worker(), load.ledger.counts["failed"]
            with stopped(pid):
                load.send(2 * server.batch)
                at = time.time()
                other = server.wait_for_worker(instead_of=pid)
                replaced = psutil.Process(other).create_time() - at
            away.append(replaced)
            worst = max(worst, load.ledger.counts["failed"] - failed)
            gone = not psutil.pid_exists(pid)
            say(f"F2: {number + 1} of {repeats}, replaced after {replaced:.1f} s")
    ledger = load.ledger
    return ScenarioResult(
        "F2",
        f"{repeats} workers that hang: each is replaced within {server.hang_s} s + {margin_s:g} s, at most "
        f"{server.batch} requests fail each time, with a reason",
        {**ledger.figures(load.sent), "most for one": worst, "replaced after s": max(away)}
        | {"reasons": _summary(ledger.reasons)},
        {
            **ledger.invariants(load.sent),
            "at most one batch for each": worst <= server.batch,
            "replaced in time": max(away) <= server.hang_s + margin_s,
            "the hung worker is gone": gone,
        },
    )


def drained(server: ScenarioServer, repeats: int, rate: float) -> ScenarioResult:
    """F3: SIGTERM to the entrypoint: the server becomes unready, answers its queue, and exits with 0."""
    sent, ledgers, codes, durations = 0, [], [], []
    invariants: dict[str, bool] = {}
    for number in range(repeats):
        server.up()
        assert server.process
        draining = server.live.run_dir / "run" / "draining"
        with ScenarioLoad(server.target, rate=rate, first=sent) as load:
            time.sleep(1)
            load.send(2 * server.batch)
            server.process.send_signal(signal.SIGTERM)
            at = time.monotonic()
            while not draining.exists() and time.monotonic() - at < START_S:
                time.sleep(POLL_S)
            time.sleep(LAG_S)
        codes.append(server.process.wait(START_S))
        durations.append(time.monotonic() - at)
        sent += load.sent
        ledgers.append(load.ledger)
        invariants |= {
            f"stop {number + 1}: {invariant}": held
            for invariant, held in load.ledger.invariants(load.sent).items()
            if not held
        }
        say(f"F3: {number + 1} of {repeats}, ended after {durations[-1]:.1f} s")
    right = sum(ledger.counts["right"] for ledger in ledgers)
    reasons = sum((ledger.reasons for ledger in ledgers), Counter[str]())
    return ScenarioResult(
        "F3",
        f"{repeats} times SIGTERM at {rate:.3g} requests/s, which end {LAG_S:g} s later: all answered, exit code 0",
        {
            "sent": sent,
            "right": right,
            "lost": sum(ledger.counts["lost"] for ledger in ledgers),
            "ended s": max(durations),
        }
        | ({"reasons": _summary(reasons)} if reasons else {}),
        {**invariants, f"{sent} answered": right == sent, "exit code 0": set(codes) == {0}},
    )


def _rate(server: ScenarioServer, away_s: float) -> float:
    """Return a rate that does not fill the queue while a worker is away, beside two batches sent at once."""
    return max(0.5, (MAX_QUEUE_FRACTION * server.queue - 2 * server.batch) / away_s)


def _summary(reasons: Mapping[str, int]) -> str:
    return "; ".join(f"{count} x {reason}" for reason, count in reasons.items()) or "none"
