"""L1 to L4: below capacity, far above it, in a burst, and for an hour."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]

from scripts.benchmark.arithmetic import quantile
from scripts.cli.console import say
from tests.reliability.load import Load
from tests.reliability.result import Verdict
from tests.reliability.stage import LOOK_S, Stage, Target, stopped

GOODPUT, REFUSAL_MS, RECOVERY_S = 0.9, 100.0, 5.0  # L2
OVERFLOW = 200  # L3
WARM_S, GROWTH = 300.0, 1.05  # L4


def below(stage: Stage, rate: float, seconds: float) -> Verdict:
    """L1: at a rate below capacity every request is answered, right and once."""
    stage.up()
    model = {"ModelName": stage.target.model}
    before = _settled(stage, **model)
    with Load(stage.target, rate=rate) as load:
        time.sleep(seconds)
    right = load.account.counts["right"]
    computed = stage.live.wait_for_metric("bert_texts_total", before + right, **model) - before
    return Verdict(
        "L1",
        f"{rate:.3g} requests/s for {seconds:.0f} s: all answered, and right",
        {**load.account.to_json(load.sent), **load.times()},
        {
            **load.account.clean(load.sent),
            f"{load.sent} answered": right == load.sent,
            f"{computed:.0f} texts computed for them": computed == right,
        },
    )


def _settled(stage: Stage, **labels: str) -> float:
    """Return how many texts were computed, once those of the start (is it ready?) are among them."""
    before, now = -1.0, stage.live.metric("bert_texts_total", **labels)
    while now != before:
        time.sleep(1)
        before, now = now, stage.live.metric("bert_texts_total", **labels)
    return now


def above(stage: Stage, capacity: float, times: float, seconds: float) -> Verdict:
    """L2: far above capacity as much is answered as ever, the rest is refused at once, and it is over soon."""
    stage.up()
    calm = statistics.median(_probe(stage.target, number) for number in range(20))
    with Load(stage.target, rate=times * capacity) as load:
        time.sleep(seconds)
        load.end()
        recovery = _recovery(stage.target, 3 * calm + 0.05)
    goodput = sum(when <= seconds for when in load.finished_s) / seconds / capacity
    refusal_ms = quantile(load.refused_s, 0.99) * 1e3 if load.refused_s else 0.0
    return Verdict(
        "L2",
        f"{times:g} times {capacity:.3g} requests/s for {seconds:.0f} s: goodput {GOODPUT:.0%}, refused within "
        f"{REFUSAL_MS:.0f} ms (p99), as before within {RECOVERY_S:.0f} s",
        {
            **load.account.to_json(load.sent),
            "goodput of C": goodput,
            "refusal p99 ms": refusal_ms,
            "recovery s": recovery,
            "client late p99 ms": load.times()["client late p99 ms"],
        },
        {
            **load.account.clean(load.sent),
            f"{load.account.counts['failed']} failed": not load.account.counts["failed"],
            "goodput": goodput >= GOODPUT,
            "quick refusals": refusal_ms <= REFUSAL_MS,
            "recovery": recovery <= RECOVERY_S,
        },
    )


def burst(stage: Stage, repeats: int) -> Verdict:
    """L3: the worker has a batch and cannot take more; of queue + 200 requests at once exactly 200 are refused."""
    stage.up()
    exact = 0
    with Load(stage.target) as load:
        for _ in range(repeats):
            refused, right = load.account.counts["refused"], load.account.counts["right"]
            with stopped(stage.worker()):
                load.send(1)
                time.sleep(5 * LOOK_S)  # it leaves the queue for the worker, which holds it
                load.send(stage.queue + OVERFLOW)
                load.wait_for("refused", refused + OVERFLOW, within=stage.hang_s / 2)
                time.sleep(LOOK_S)
            load.wait_for("right", right + stage.queue + 1)
            exact += load.account.counts["refused"] - refused == OVERFLOW
    account = load.account
    return Verdict(
        "L3",
        f"{repeats} bursts of {stage.queue} + {OVERFLOW} requests: exactly {OVERFLOW} of each are refused",
        {**account.to_json(load.sent), "exact": exact, "refusal p99 ms": quantile(load.refused_s, 0.99) * 1e3},
        {
            **account.clean(load.sent),
            f"{account.counts['failed']} failed": not account.counts["failed"],
            f"exact {exact} of {repeats} times": exact == repeats,
            "those that found room were answered": account.counts["right"] == repeats * (stage.queue + 1),
        },
    )


@dataclass(frozen=True)
class Sample:
    """What all processes of a server hold at one time."""

    second: float
    pss_mb: float  # memory, pages that several share counted once
    descriptors: int
    threads: int


def soak(stage: Stage, rate: float, minutes: float) -> Verdict:
    """L4: under load for long, memory, descriptors and threads stay what they are once the server is warm."""
    stage.up()
    seconds = 60 * minutes
    samples: list[Sample] = []
    with Load(stage.target, rate=rate) as load:
        began = time.monotonic()
        while (second := time.monotonic() - began) < seconds:
            samples.append(_sample(stage, second))
            if len(samples) % 30 == 0:
                say(f"L4: {second / 60:.0f} of {minutes:g} minutes, {samples[-1].pss_mb:.0f} MB")
            time.sleep(min(max(0.5, seconds / 720), seconds - second))
    warm = [sample for sample in samples if sample.second >= min(WARM_S, seconds / 4)]
    part = max(1, len(warm) // 10)
    first, last = warm[:part], warm[-part:]
    grown = {name: _median(last, name) / _median(first, name) for name in ("pss_mb", "descriptors", "threads")}
    return Verdict(
        "L4",
        f"{minutes:g} minutes at {rate:.3g} requests/s: memory grows by at most {GROWTH - 1:.0%} once warm, "
        "descriptors and threads stay",
        {
            **load.account.to_json(load.sent),
            **load.times(),
            "MB": _median(last, "pss_mb"),
            "growth %": 100 * (grown["pss_mb"] - 1),
            **{name: f"{_median(first, name):.0f} -> {_median(last, name):.0f}" for name in ("descriptors", "threads")},
        },
        {
            **load.account.clean(load.sent),
            f"{load.account.counts['failed']} failed": not load.account.counts["failed"],
            "memory stays": grown["pss_mb"] <= GROWTH,
            "descriptors stay": grown["descriptors"] <= GROWTH,
            "threads stay": grown["threads"] <= GROWTH,
        },
    )


def _sample(stage: Stage, second: float) -> Sample:
    pss, descriptors, threads = 0, 0, 0
    for process in stage.family():
        try:
            files = process.num_fds() - len(process.net_connections())  # connections are as many as the client keeps
            found = process.memory_full_info().pss, files, process.num_threads()
        except psutil.NoSuchProcess:
            continue
        pss, descriptors, threads = pss + found[0], descriptors + found[1], threads + found[2]
    return Sample(second, pss / 1e6, descriptors, threads)


def _median(samples: list[Sample], name: str) -> float:
    return float(statistics.median(getattr(sample, name) for sample in samples))


def _probe(target: Target, number: int) -> float:
    """Return the seconds that one request alone takes, infinity where it is not answered."""
    began = time.perf_counter()
    reply = target.live.post(f"/predictions/{target.model}", target.exam.body(number))
    return time.perf_counter() - began if reply.status_code == 200 else float("inf")


def _recovery(target: Target, calm: float) -> float:
    """Return after how many seconds a request is answered as fast as in calm times."""
    began = time.perf_counter()
    number = 0
    while _probe(target, number) > calm and time.perf_counter() - began < 60:
        number += 1
        time.sleep(LOOK_S)
    return time.perf_counter() - began
