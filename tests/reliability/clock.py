"""F13: the clock of the system jumps an hour, forwards and back, under load.

The clock belongs to everybody on a machine, and a time namespace shifts the monotonic one alone. So the server alone
gets another time of day, by clock.c, which replaces the functions of the C library that tell it. `libfaketime` 0.9.10
cannot: with elapsed time left alone, `time.sleep` of Python raises "Invalid argument". Needs a C compiler, and raises
NotPermitted without one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.reliability.load import ScenarioLoad
from tests.reliability.result import ScenarioResult
from tests.reliability.server import ScenarioServer
from tests.reliability.surroundings import NotPermitted

READ_S = 0.2  # within which the library sees another time
DEADLINE = "x-request-deadline-ms"  # a time of day, which the server compares with its own
JUMPS_S = (3600, 0, -3600, 0)  # of the clock, from the true time


def jumping(server: ScenarioServer, rate: float, seconds: float) -> ScenarioResult:
    """F13: the clock of the server jumps: everything is answered, by the same worker, and its keys remain valid."""
    server.stop()
    said = server.live.run_dir / "clock"
    _set(said, 0)
    with _another_clock(said):
        server.up()
    pid = server.worker()
    try:
        before_s = _queued_s(server)
        with ScenarioLoad(server.target, rate=rate) as load:
            for jump in JUMPS_S:
                time.sleep(seconds)
                _set(said, jump)
            time.sleep(seconds)
            _set(said, JUMPS_S[0])
            time.sleep(READ_S)
            is_late = _is_refused_as_late(server)
        queued_s = _queued_s(server) - before_s
        status = server.live.script("serve.sh", "status", check=False)
        same = server.worker() == pid
    finally:
        server.stop()
    ledger = load.ledger
    return ScenarioResult(
        "F13",
        f"the clock differs by {', '.join(f'{jump:+d}' for jump in JUMPS_S)} s, each for {seconds:.0f} s, at {rate:.3g}"
        " requests/s: all answered, by the same worker",
        {**ledger.figures(load.sent), **load.times(), "queued s by its metric": queued_s},
        {
            **ledger.invariants(load.sent),
            f"{load.sent} answered": ledger.counts["right"] == load.sent,
            "the server saw another time": is_late,
            "the same worker": same,
            "status says ready": status.returncode == 0,
            "no metric counts the jump": 0 <= queued_s < 1800,
        },
    )


@contextlib.contextmanager
def _another_clock(said: Path) -> Iterator[None]:
    """Let processes that are started add the seconds in a file to their time of day."""
    compiler = shutil.which("cc")
    if not compiler:
        raise NotPermitted("F13 needs a C compiler: apt-get install gcc libc6-dev")
    library = said.with_suffix(".so")
    source = Path(__file__).with_suffix(".c")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    changes = {"LD_PRELOAD": str(library), "OTHER_CLOCK": str(said)}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name in changes:
            del os.environ[name]


def _set(said: Path, offset_s: int) -> None:
    partial = said.with_suffix(".partial")
    partial.write_text(f"{offset_s}\n")
    partial.replace(said)


def _queued_s(server: ScenarioServer) -> float:
    """Return the seconds that requests were queued, by the metric of the server."""
    return server.live.steady_metric("ts_queue_latency_microseconds") / 1e6


def _is_refused_as_late(server: ScenarioServer) -> bool:
    """Tell whether a deadline of half an hour from now has passed for the server."""
    deadline_ms = str(int((time.time() + JUMPS_S[0] / 2) * 1000))
    body = server.target.oracle.body(0)
    response = server.live.post(f"/predictions/{server.target.model}", body, headers={DEADLINE: deadline_ms})
    return bool(response.status_code == 504 and "deadline" in response.text.lower())
