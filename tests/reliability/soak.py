"""L1 to L4: load below capacity, above it, in a burst, and for an hour."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]

from scripts.benchmark.statistics import quantile
from scripts.cli.console import say
from tests.reliability.load import ScenarioLoad
from tests.reliability.result import ScenarioResult
from tests.reliability.server import POLL_S, START_S, ScenarioServer, Target, stopped

GOODPUT, REFUSAL_MS, RECOVERY_S = 0.9, 100.0, 5.0  # L2
OVERFLOW = 200  # L3
WARM_S, GROWTH = 300.0, 1.05  # L4


def below(server: ScenarioServer, rate: float, seconds: float) -> ScenarioResult:
    """L1: at a rate below capacity every request is answered, right and once."""
    server.up()
    model = {"ModelName": server.target.model}
    before = _stable_count(server, **model)
    with ScenarioLoad(server.target, rate=rate) as load:
        time.sleep(seconds)
    right = load.ledger.counts["right"]
    computed = server.live.wait_for_metric("bert_texts_total", before + right, **model) - before
    return ScenarioResult(
        "L1",
        f"{rate:.3g} requests/s for {seconds:.0f} s: all answered, and right",
        {**load.ledger.figures(load.sent), **load.times()},
        {
            **load.ledger.invariants(load.sent),
            f"{load.sent} answered": right == load.sent,
            f"{computed:.0f} texts computed for them": computed == right,
        },
    )


def _stable_count(server: ScenarioServer, **labels: str) -> float:
    """Return how many texts were computed, once those of the readiness checks are counted."""
    before, now = -1.0, server.live.metric("bert_texts_total", **labels)
    while now != before:
        time.sleep(1)
        before, now = now, server.live.metric("bert_texts_total", **labels)
    return now


def above(server: ScenarioServer, capacity: float, times: float, seconds: float) -> ScenarioResult:
    """L2: above capacity, goodput stays, the rest is refused at once, and latency recovers soon."""
    server.up()
    idle_s = statistics.median(_probe(server.target, number) for number in range(20))
    with ScenarioLoad(server.target, rate=times * capacity) as load:
        time.sleep(seconds)
        load.end()
        recovery = _recovery(server.target, 3 * idle_s + 0.05)
    goodput = sum(finished <= seconds for finished in load.finished_s["right"]) / seconds / capacity
    refused_s = load.response_s["refused"]
    refusal_ms = quantile(refused_s, 0.99) * 1e3 if refused_s else 0.0
    return ScenarioResult(
        "L2",
        f"{times:g} times {capacity:.3g} requests/s for {seconds:.0f} s: goodput {GOODPUT:.0%}, refused within "
        f"{REFUSAL_MS:.0f} ms (p99), as before within {RECOVERY_S:.0f} s",
        {
            **load.ledger.figures(load.sent),
            "goodput of C": goodput,
            "refusal p99 ms": refusal_ms,
            "recovery s": recovery,
            **{name: figure for name, figure in load.times().items() if name.startswith("client")},
        },
        {
            **load.ledger.invariants(load.sent),
            f"{load.ledger.counts['failed']} failed": not load.ledger.counts["failed"],
            "goodput": goodput >= GOODPUT,
            "quick refusals": refusal_ms <= REFUSAL_MS,
            "recovery": recovery <= RECOVERY_S,
        },
    )


def burst(server: ScenarioServer, repeats: int) -> ScenarioResult:
    """L3: while the worker is stopped with a batch, exactly 200 of queue + 200 requests at once are refused."""
    server.up()
    exact = 0
    with ScenarioLoad(server.target) as load:
        for _ in range(repeats):
            refused, right = load.ledger.counts["refused"], load.ledger.counts["right"]
            with stopped(server.worker()):
                load.send(1)
                time.sleep(5 * POLL_S)  # the request leaves the queue for the stopped worker
                load.send(server.queue + OVERFLOW)
                load.ledger.wait_for("refused", refused + OVERFLOW, timeout_s=server.hang_s / 2)
                time.sleep(POLL_S)
            load.ledger.wait_for("right", right + server.queue + 1, timeout_s=START_S)
            exact += load.ledger.counts["refused"] - refused == OVERFLOW
    ledger = load.ledger
    return ScenarioResult(
        "L3",
        f"{repeats} bursts of {server.queue} + {OVERFLOW} requests: exactly {OVERFLOW} of each are refused",
        {
            **ledger.figures(load.sent),
            "exact": exact,
            "refusal p99 ms": quantile(load.response_s["refused"], 0.99) * 1e3,
        },
        {
            **ledger.invariants(load.sent),
            f"{ledger.counts['failed']} failed": not ledger.counts["failed"],
            f"exact {exact} of {repeats} times": exact == repeats,
            "the others were answered": ledger.counts["right"] == repeats * (server.queue + 1),
        },
    )


@dataclass(frozen=True)
class ResourceSample:
    """Resources of all processes of a server at one time."""

    second: float
    pss_mb: float  # proportional set size: shared pages are counted once
    descriptors: int
    threads: int


def soak(server: ScenarioServer, rate: float, minutes: float) -> ScenarioResult:
    """L4: under long load, memory, descriptors and threads of a warm server do not grow."""
    server.up()
    seconds = 60 * minutes
    samples: list[ResourceSample] = []
    with ScenarioLoad(server.target, rate=rate) as load:
        began = time.monotonic()
        while (second := time.monotonic() - began) < seconds:
            samples.append(_sample(server, second))
            if len(samples) % 30 == 0:
                say(f"L4: {second / 60:.0f} of {minutes:g} minutes, {samples[-1].pss_mb:.0f} MB")
            time.sleep(min(max(0.5, seconds / 720), seconds - second))
    warm = [sample for sample in samples if sample.second >= min(WARM_S, seconds / 4)]
    part = max(1, len(warm) // 10)
    first, last = warm[:part], warm[-part:]
    growth = {name: _median(last, name) / _median(first, name) for name in ("pss_mb", "descriptors", "threads")}
    return ScenarioResult(
        "L4",
        f"{minutes:g} minutes at {rate:.3g} requests/s: memory grows by at most {GROWTH - 1:.0%} once warm, "
        "descriptors and threads stay",
        {
            **load.ledger.figures(load.sent),
            **load.times(),
            "MB": _median(last, "pss_mb"),
            "growth %": 100 * (growth["pss_mb"] - 1),
            **{name: f"{_median(first, name):.0f} -> {_median(last, name):.0f}" for name in ("descriptors", "threads")},
        },
        {
            **load.ledger.invariants(load.sent),
            f"{load.ledger.counts['failed']} failed": not load.ledger.counts["failed"],
            "memory stays": growth["pss_mb"] <= GROWTH,
            "descriptors stay": growth["descriptors"] <= GROWTH,
            "threads stay": growth["threads"] <= GROWTH,
        },
    )


def _sample(server: ScenarioServer, second: float) -> ResourceSample:
    pss, descriptors, threads = 0, 0, 0
    for process in server.family():
        try:
            files = process.num_fds() - len(process.net_connections())  # the client decides the number of connections
            memory, n_threads = process.memory_full_info().pss, process.num_threads()
        except psutil.NoSuchProcess:
            continue
        pss, descriptors, threads = pss + memory, descriptors + files, threads + n_threads
    return ResourceSample(second, pss / 1e6, descriptors, threads)


def _median(samples: list[ResourceSample], name: str) -> float:
    return float(statistics.median(getattr(sample, name) for sample in samples))


def _probe(target: Target, number: int) -> float:
    """Return the seconds that one request alone takes, infinity where it is not answered."""
    began = time.perf_counter()
    response = target.live.post(f"/predictions/{target.model}", target.oracle.body(number))
    return time.perf_counter() - began if response.status_code == 200 else float("inf")


def _recovery(target: Target, limit_s: float) -> float:
    """Return the seconds until a request is answered within `limit_s`."""
    began = time.perf_counter()
    number = 0
    while _probe(target, number) > limit_s and time.perf_counter() - began < 60:
        number += 1
        time.sleep(POLL_S)
    return time.perf_counter() - began
