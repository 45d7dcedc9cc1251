"""F1 to F3: workers that die, workers that hang, and a server that is told to stop, all under load."""

from __future__ import annotations

import os
import signal
import time

import psutil  # type: ignore[import-untyped]

from scripts.cli.console import say
from tests.reliability.load import Load
from tests.reliability.result import Verdict
from tests.reliability.stage import LOOK_S, START_S, Stage, stopped

LOAD_S = 15.0  # that a worker may need to load, for choosing a rate
FILLED = 0.5  # of the queue at most, while there is no worker
LAG_S = 1.0  # until whoever sends requests notices that a server is not ready any more


def killed(stage: Stage, repeats: int, margin_s: float) -> Verdict:
    """F1: kill -9 of a busy worker costs at most its batch, says so, and another worker is there soon."""
    stage.up()
    away, loading, worst = [], [], 0
    with Load(stage.target, rate=_rate(stage, LOAD_S)) as load:
        for number in range(repeats):
            time.sleep(0.5)
            pid, failed = stage.worker(), load.account.counts["failed"]
            load.send(2 * stage.batch)
            time.sleep(0.005 * (1 + number % 10))  # it has some of them, sometimes more than one batch after another
            os.kill(pid, signal.SIGKILL)
            at = time.time()
            other = stage.wait_for_worker(instead_of=pid)
            away.append(time.time() - at)
            loading.append(time.time() - psutil.Process(other).create_time())
            worst = max(worst, load.account.counts["failed"] - failed)
            say(f"F1: {number + 1} of {repeats}, away {away[-1]:.1f} s")
    beyond = max(gone - load_s for gone, load_s in zip(away, loading, strict=True))
    account = load.account
    return Verdict(
        "F1",
        f"{repeats} busy workers killed: at most {stage.batch} requests fail each time, with a reason; ready again "
        f"within load time + {margin_s:g} s",
        {**account.to_json(load.sent), "most for one": worst, "away s": max(away), "beyond loading s": beyond}
        | {"reasons": _told(account.reasons)},
        {
            **account.clean(load.sent),
            "at most one batch for each": worst <= stage.batch,
            "none beside those": account.counts["failed"] <= repeats * stage.batch,
            "ready again in time": beyond <= margin_s,
        },
    )


def hung(stage: Stage, repeats: int, margin_s: float) -> Verdict:
    """F2: a worker that hangs is replaced after responseTimeout; what waited is answered by the next one."""
    stage.up()
    away, worst = [], 0
    with Load(stage.target, rate=_rate(stage, stage.hang_s + LOAD_S)) as load:
        for number in range(repeats):
            time.sleep(0.5)
            pid, failed = stage.worker(), load.account.counts["failed"]
            with stopped(pid):
                load.send(2 * stage.batch)
                at = time.time()
                other = stage.wait_for_worker(instead_of=pid)
                replaced = psutil.Process(other).create_time() - at
            away.append(replaced)
            worst = max(worst, load.account.counts["failed"] - failed)
            gone = not psutil.pid_exists(pid)
            say(f"F2: {number + 1} of {repeats}, replaced after {replaced:.1f} s")
    account = load.account
    return Verdict(
        "F2",
        f"{repeats} workers that hang: each is replaced within {stage.hang_s} s + {margin_s:g} s, at most "
        f"{stage.batch} requests fail each time, with a reason",
        {**account.to_json(load.sent), "most for one": worst, "replaced after s": max(away)}
        | {"reasons": _told(account.reasons)},
        {
            **account.clean(load.sent),
            "at most one batch for each": worst <= stage.batch,
            "replaced in time": max(away) <= stage.hang_s + margin_s,
            "the one that hung is gone": gone,
        },
    )


def drained(stage: Stage, repeats: int, rate: float) -> Verdict:
    """F3: SIGTERM to the entrypoint: it says "not ready", answers what it has, and ends with 0."""
    sent, totals, codes, took = 0, [], [], []
    claims: dict[str, bool] = {}
    for number in range(repeats):
        stage.up()
        assert stage.process
        draining = stage.live.run_dir / "run" / "draining"
        with Load(stage.target, rate=rate, first=sent) as load:
            time.sleep(1)
            load.send(2 * stage.batch)
            stage.process.send_signal(signal.SIGTERM)
            at = time.monotonic()
            while not draining.exists() and time.monotonic() - at < 10:
                time.sleep(LOOK_S)
            time.sleep(LAG_S)
        codes.append(stage.process.wait(START_S))
        took.append(time.monotonic() - at)
        sent += load.sent
        totals.append(load.account)
        claims |= {
            f"stop {number + 1}: {claim}": held for claim, held in load.account.clean(load.sent).items() if not held
        }
        say(f"F3: {number + 1} of {repeats}, ended after {took[-1]:.1f} s")
    right = sum(account.counts["right"] for account in totals)
    reasons = sum((account.reasons for account in totals), totals[0].reasons.__class__())
    return Verdict(
        "F3",
        f"{repeats} times SIGTERM at {rate:.3g} requests/s, which end {LAG_S:g} s later: all answered, exit code 0",
        {"sent": sent, "right": right, "lost": sum(account.counts["lost"] for account in totals), "ended s": max(took)}
        | ({"reasons": _told(reasons)} if reasons else {}),
        {**claims, f"{sent} answered": right == sent, "exit code 0": set(codes) == {0}},
    )


def _rate(stage: Stage, away_s: float) -> float:
    """Return a rate that a worker's absence does not fill the queue with, beside the two batches sent at once."""
    return max(0.5, (FILLED * stage.queue - 2 * stage.batch) / away_s)


def _told(reasons: dict[str, int]) -> str:
    return "; ".join(f"{count} x {reason}" for reason, count in reasons.items()) or "none"
