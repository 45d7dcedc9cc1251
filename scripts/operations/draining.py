"""Wait until a version of a model has answered everything.

The standalone server counts the requests that it has accepted and not answered. TorchServe reports how many wait, not
how many run. A worker takes one batch after the other, in order: when it
answers a prediction, it has answered all before it. While it runs one, it uses its processor, or waits for one. Changes
nothing, but sends one prediction to each model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import psutil  # type: ignore[import-untyped]

from scripts.client.http import Inference, Management, Model
from scripts.client.server import NotRunning

QUIET_CHECKS = 2  # in a row at which nothing waits and no worker computes
PAUSE_S = 0.3
CPU_AT_REST_S = 0.02  # processor time between two checks


def wait_until_idle(management: Management, versions: Callable[[], Sequence[Model]], within: float) -> bool:
    """Wait until no request of these versions waits or runs; return whether that came within so many seconds."""
    deadline = time.monotonic() + within
    try:
        while any(model.waiting for model in versions()):
            if time.monotonic() > deadline:
                return False
            time.sleep(PAUSE_S)
        for model in versions():
            if model.ready:
                timeout = max(deadline - time.monotonic(), 0.1)
                Inference(management.server).probe(model.name, model.version, timeout=timeout)
        return _wait_until_quiet(versions, deadline)
    except NotRunning:
        return True


def _wait_until_quiet(versions: Callable[[], Sequence[Model]], deadline: float) -> bool:
    n_quiet = 0
    cpu_s = float("nan")
    while n_quiet < QUIET_CHECKS and time.monotonic() < deadline:
        models = versions()
        pids = [pid for model in models for pid in model.pids]
        before, cpu_s = cpu_s, sum(cpu_seconds(pid) for pid in pids)
        if all(model.running is not None for model in models):
            at_rest = not any(model.running for model in models)
        else:
            at_rest = cpu_s - before < CPU_AT_REST_S and not any(map(is_runnable, pids))
        n_quiet = n_quiet + 1 if at_rest and not any(model.waiting for model in models) else 0
        time.sleep(PAUSE_S)
    return n_quiet == QUIET_CHECKS


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, 0 where there is none."""
    try:
        times = psutil.Process(pid).cpu_times() if pid > 0 else None
    except psutil.Error:
        return 0.0
    return float(times.user + times.system) if times else 0.0


def is_runnable(pid: int) -> bool:
    """Tell whether a process runs or is ready to: beside busy ones it may get no time between two checks."""
    try:
        return pid > 0 and psutil.Process(pid).status() == psutil.STATUS_RUNNING
    except psutil.Error:
        return False
