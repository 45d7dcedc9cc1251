"""F1, F2 and L3 of the standalone server: its worker is the server itself, which whatever runs it starts again.

Its engine is a thread: what stops it as a hang would is the system's means of debuggers (threads.py).
"""

from __future__ import annotations

import os
import signal
import time
from array import array

import requests

from scripts.benchmark.accounting import OK
from scripts.benchmark.statistics import quantile
from scripts.cli.console import say
from tests.reliability.load import ScenarioLoad
from tests.reliability.result import ScenarioResult
from tests.reliability.server import POLL_S, START_S, ScenarioServer, stopped
from tests.reliability.soak import OVERFLOW
from tests.reliability.threads import helpers_stopped

NOTICED_S = 1.0  # within which a client sees that its server died
LAUNCH_S = 0.2  # until all requests of a burst are under way
ENDED_S = 60.0  # within which the entrypoint ends after its server, on a busy machine


def killed(server: ScenarioServer, repeats: int) -> ScenarioResult:
    """F1: after kill -9 under load every client sees the end of its connection at once, and no wrong answer."""
    sent, answered, cut, away, late = 0, 0, 0, [], []
    invariants: dict[str, bool] = {}
    for number in range(repeats):
        server.up()
        assert server.process
        pid = server.worker()
        with ScenarioLoad(server.target, first=sent) as load:
            load.send(2 * server.batch)
            time.sleep(0.005 * (1 + number % 10))  # some are answered, some wait, one batch is computed
            os.kill(pid, signal.SIGKILL)
            began = time.monotonic()
        late.append(time.monotonic() - began)
        code = server.process.wait(ENDED_S)
        server.up()
        away.append(time.monotonic() - began)
        sent, answered, cut = sent + load.sent, answered + load.ledger.counts["right"], cut + load.ledger.counts["lost"]
        held = load.ledger.invariants(load.sent) | {"the entrypoint reports it": code not in (0, None)}
        invariants |= {
            f"kill {number + 1}: {invariant}": False
            for invariant, holds in held.items()
            if not holds and not invariant.endswith(" lost")
        }
        say(f"F1: {number + 1} of {repeats}, away {away[-1]:.1f} s")
    return ScenarioResult(
        "F1",
        f"{repeats} times kill -9 with {2 * server.batch} requests under way: each is answered rightly, or its "
        f"connection ends within {NOTICED_S:g} s; the entrypoint ends with an error, and a new one serves",
        {"sent": sent, "right": answered, "cut off": cut, "noticed s": max(late), "away s": max(away)},
        {
            **invariants,
            "right or cut off": answered + cut == sent,
            "noticed at once": max(late) <= NOTICED_S,
            "serves again in time": max(away) <= START_S,
        },
    )


def stopped_for(server: ScenarioServer, repeats: int, seconds: float) -> ScenarioResult:
    """F2: a process that is suspended under load answers everything when it goes on."""
    server.up()
    pid = server.worker()
    with ScenarioLoad(server.target, rate=server.queue / 4 / seconds) as load:
        for number in range(repeats):
            time.sleep(1)
            with stopped(pid):
                time.sleep(seconds)
            say(f"F2: {number + 1} of {repeats}")
        time.sleep(1)
    right = load.ledger.counts["right"]
    return ScenarioResult(
        "F2",
        f"{repeats} times the process is suspended for {seconds:g} s: all answered afterwards, by the same process",
        {**load.ledger.figures(load.sent), **load.times()},
        {
            **load.ledger.invariants(load.sent),
            f"{load.sent} answered": right == load.sent,
            "the same process": server.worker() == pid,
        },
    )


def engine_stopped(server: ScenarioServer, repeats: int, margin_s: float) -> ScenarioResult:
    """F2: an engine that does not return: each request gets an error, the server ends, and another one serves."""
    health_s, away, ended, sent, failed = [], [], [], 0, 0
    statuses: set[int] = set()  # of the liveness probe
    invariants: dict[str, bool] = {}
    for number in range(repeats):
        server.up()
        assert server.process
        with helpers_stopped(server.worker()), ScenarioLoad(server.target, first=sent) as load:
            load.send(server.batch)
            began = time.monotonic()
            health_s.append(_until_unhealthy(server, statuses) - began)
            ended.append(server.process.wait(server.hang_s + ENDED_S))
        server.up()
        away.append(time.monotonic() - began - server.hang_s)
        sent, failed = sent + load.sent, failed + load.ledger.counts["failed"]
        held = load.ledger.invariants(load.sent)
        invariants |= {f"hang {number + 1}: {invariant}": False for invariant, holds in held.items() if not holds}
        say(f"F2: {number + 1} of {repeats}; {dict(load.ledger.reasons)}")
    return ScenarioResult(
        "F2",
        f"{repeats} times all threads but the event loop's are stopped, with {server.batch} requests under way: after "
        f"{server.hang_s} s (responseTimeout) health says so or is gone, each request gets an error with its reason, "
        "the entrypoint ends with an error, and a new one serves",
        {
            "sent": sent,
            "failed": failed,
            "unhealthy after s": max(health_s),
            "health": sorted(statuses),
            "away beyond that s": max(away),
        },
        {
            **invariants,
            "each got an error": failed == sent,
            "healthy until then": min(health_s) >= server.hang_s,
            "unhealthy in time": max(health_s) <= server.hang_s + margin_s,
            "an error code": 0 not in ended,
            "serves again in time": max(away) <= START_S,
        },
    )


def _until_unhealthy(server: ScenarioServer, statuses: set[int]) -> float:
    """Wait until the liveness probe fails; return when. Statuses are added; 0: there is no answer any more."""
    url = f"http://127.0.0.1:{server.live.ports['metrics_address']}/v2/health/live"
    deadline = time.monotonic() + server.hang_s + START_S
    while time.monotonic() < deadline:
        try:
            status = requests.get(url, timeout=ENDED_S).status_code
        except requests.RequestException:
            status = 0
        statuses.add(status)
        if status != OK:
            break
        time.sleep(POLL_S / 2)
    return time.monotonic()


def burst(server: ScenarioServer, repeats: int) -> ScenarioResult:
    """L3: of queue + 200 requests at once each is answered, or refused for a full queue or a wait over a second."""
    server.up()
    sent, right, most, refused_s = 0, 0, 0, array("d")
    invariants: dict[str, bool] = {}
    for number in range(repeats):
        with ScenarioLoad(server.target, first=sent) as load:
            load.send(server.queue + OVERFLOW)
            time.sleep(LAUNCH_S)
        counts = load.ledger.counts
        sent, right, most = sent + load.sent, right + counts["right"], max(most, counts["refused"])
        refused_s += load.response_s["refused"]
        held = load.ledger.invariants(load.sent) | {f"{counts['failed']} failed": not counts["failed"]}
        invariants |= {f"burst {number + 1}: {invariant}": False for invariant, holds in held.items() if not holds}
    return ScenarioResult(
        "L3",
        f"{repeats} bursts of {server.queue} + {OVERFLOW} requests: each is answered rightly, or refused as too much",
        {"sent": sent, "right": right, "refused": len(refused_s), "most for one": most}
        | ({"refusal p99 ms": quantile(refused_s, 0.99) * 1e3} if refused_s else {}),
        {
            **invariants,
            "some are answered": right >= repeats,
            "the others are refused": right + len(refused_s) == sent,
        },
    )
