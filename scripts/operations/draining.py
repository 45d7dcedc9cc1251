"""When a version of a model has answered everything: TorchServe tells how many requests wait, not how many run.

A worker takes one batch after the other, in order: when it answers a prediction, it has answered all before; and while
it runs one, it uses its processor, or waits for one. Changes nothing, but asks one prediction of each model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import psutil  # type: ignore[import-untyped]

from scripts.client.http import Inference, Management, Model
from scripts.client.server import NotRunning

QUIET = 2  # looks in a row at which nothing waits and nobody works
PAUSE_S = 0.3


def idle(management: Management, versions: Callable[[], Sequence[Model]], within: float) -> bool:
    """Wait until no request of these versions waits or runs; return whether that came within so many seconds."""
    deadline = time.monotonic() + within
    try:
        while any(model.waiting for model in versions()):
            if time.monotonic() > deadline:
                return False
            time.sleep(PAUSE_S)
        for model in versions():
            if model.ready:
                left = max(deadline - time.monotonic(), 0.1)
                Inference(management.server).responds(model.name, model.version, timeout=left)
        return _quiet(versions, deadline)
    except NotRunning:
        return True


def _quiet(versions: Callable[[], Sequence[Model]], deadline: float) -> bool:
    quiet = 0
    spent = float("nan")
    while quiet < QUIET and time.monotonic() < deadline:
        models = versions()
        pids = [pid for model in models for pid in model.pids]
        before, spent = spent, sum(cpu_seconds(pid) for pid in pids)
        at_rest = spent - before < 0.02 and not any(map(wants_processor, pids))
        quiet = quiet + 1 if at_rest and not any(model.waiting for model in models) else 0
        time.sleep(PAUSE_S)
    return quiet == QUIET


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, 0 where there is none."""
    try:
        times = psutil.Process(pid).cpu_times() if pid > 0 else None
    except psutil.Error:
        return 0.0
    return float(times.user + times.system) if times else 0.0


def wants_processor(pid: int) -> bool:
    """Tell whether a process runs or would: beside busy ones it may get no time for longer than we look."""
    try:
        return pid > 0 and psutil.Process(pid).status() == psutil.STATUS_RUNNING
    except psutil.Error:
        return False
