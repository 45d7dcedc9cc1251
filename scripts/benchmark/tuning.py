"""Measurements and a target -> settings and their reasons. Pure: what is measured is handed in.

The argument. A worker takes one batch after the other, at most `batchSize` requests in each. A request that comes while
a batch runs waits for the rest of it, at most s(n), and is then answered with the next one, after another s(n); so its
latency is at most

    overhead + delay + 2 s(n)        as long as requests come no faster than n in s(n) for each worker.

The slowest batch of a hundred has more tokens than the mean one: n m + 2.33 d sqrt(n), where m and d are mean and
standard deviation of the lengths; s is stretched by that. The largest n whose bound keeps the target is the batch size,
and workers * n / s(n) the rate that it should carry; to s(n) is added what the cores spend on the requests themselves.
It is an estimate from above for steady arrivals; bursts longer than a batch are what the queue is for.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import yaml

from handler.config import ModelConfig
from scripts.cli.console import ScriptError

# What a request costs beside the engine, in TorchServe, in Python and in a client on the same machine, in milliseconds
# of one core: 64 connections to a server against its engine (scripts/bench.py --only http-peers, 2026-11-26).
SERVING_MS = 1.3
OVERHEAD_MS = 5.0  # HTTP, TorchServe and tokenising, of one text: the project's own goal
NEAR = 0.97  # of the best: what is nearly as fast and smaller is preferred
SIGMAS = 2.33  # of a normal distribution, above which lies one in a hundred


@dataclass(frozen=True)
class Measured:
    """What the engine did on this machine with texts of these lengths."""

    precision: str
    cores: int
    mean_tokens: float
    sd_tokens: float
    batches: Sequence[tuple[int, float]]  # texts at once -> seconds, of one worker with all threads
    budgets: Sequence[tuple[int, float]]  # token budget -> tokens a second
    fleets: Sequence[tuple[int, float]]  # workers -> tokens a second of all together


@dataclass(frozen=True)
class Plan:
    """One number of workers: the largest batch that keeps the target, and what it carries."""

    workers: int
    batch: int
    bound_ms: float
    rate: float  # texts a second


@dataclass(frozen=True)
class Decision:
    """Settings, why each is as it is, and what to expect."""

    config: ModelConfig
    reasons: Mapping[str, str]
    plan: Plan


def decide(measured: Measured, target_ms: float, base: ModelConfig) -> Decision:
    """Choose workers, threads, batch size, delay, queue and token budget for a bound of the 99th percentile.

    Raises:
        ScriptError: not even one text alone is answered in time.
    """
    delay = 1 if target_ms < 100 else 2
    plans = [plan(measured, workers, target_ms, delay) for workers, _ in measured.fleets]
    able = [one for one in plans if one is not None]
    if not able:
        alone = measured.batches[0][1] * 1e3
        raise ScriptError(
            f"--p99-ms {target_ms:g}: one text alone takes {alone:.0f} ms here, and a request may wait for another: "
            "give more time, fewer bits (--precision bf16), a smaller model or more cores"
        )
    fastest = max(one.rate for one in able)
    chosen = next(one for one in sorted(able, key=lambda one: one.workers) if one.rate >= NEAR * fastest)
    threads = max(1, measured.cores // chosen.workers)
    best = max(speed for _, speed in measured.budgets)
    budget = min(tokens for tokens, speed in measured.budgets if speed >= NEAR * best)
    queue = max(chosen.batch * chosen.workers, math.ceil(chosen.rate * target_ms / 1e3))
    frontend = replace(
        base.frontend,
        minWorkers=chosen.workers,
        maxWorkers=chosen.workers,
        batchSize=chosen.batch,
        maxBatchDelay=delay,
        jobQueueSize=queue,
    )
    handler = {**vars(base.handler), "precision": measured.precision, "max_batch_tokens": budget, "threads": threads}
    config = replace(base, frontend=frontend, handler=type(base.handler)(**handler))
    return Decision(config, reasons(measured, target_ms, chosen, able), chosen)


def plan(measured: Measured, workers: int, target_ms: float, delay_ms: float) -> Plan | None:
    """Return the largest measured batch that keeps the target with so many workers; None: not even one text does."""
    slower = workers * dict(measured.fleets)[1] / dict(measured.fleets)[workers]  # than one worker with all threads
    found = None
    for batch, seconds in measured.batches:
        texts = workers * batch
        shared = seconds * slower + texts * SERVING_MS / 1e3 / measured.cores  # until all workers have their next batch
        bound = OVERHEAD_MS + delay_ms + 2e3 * shared * stretch(measured, batch)
        rate = texts / shared
        if bound <= target_ms and (found is None or rate > found.rate):
            found = Plan(workers, batch, bound, rate)
    return found


def stretch(measured: Measured, batch: int) -> float:
    """Return how many times the tokens of a mean batch the largest one of a hundred has.

    >>> stretch(Measured("fp32", 2, 10, 10, [], [], []), 100)
    1.233
    """
    return 1 + SIGMAS * measured.sd_tokens / (measured.mean_tokens * math.sqrt(batch))


def reasons(measured: Measured, target_ms: float, chosen: Plan, able: Sequence[Plan]) -> dict[str, str]:
    """Say in a line or two why each setting is as it is."""
    speeds = ", ".join(f"{workers}: {speed:,.0f} tokens/s" for workers, speed in measured.fleets)
    rates = ", ".join(f"{one.workers}: {one.rate:.0f}/s in batches of {one.batch}" for one in able)
    budgets = ", ".join(f"{tokens}: {speed:,.0f}" for tokens, speed in measured.budgets)
    times = ", ".join(f"{batch}: {seconds * 1e3:.0f} ms" for batch, seconds in measured.batches)
    return {
        "minWorkers": f"Measured side by side, workers: {speeds}. Within {target_ms:g} ms they should carry {rates}.",
        "batchSize": f"Texts of one batch, and its time: {times}. A request may wait for one batch and then travel in "
        f"the next: with {chosen.batch} texts 99 % should be answered within {chosen.bound_ms:.0f} ms.",
        "maxBatchDelay": "Under load batches fill while the worker is busy; more than this only adds latency.",
        "jobQueueSize": f"What {chosen.rate:.0f} texts a second answer in {target_ms:g} ms: a request that would wait "
        "longer gets 503 at once.",
        "precision": "As asked for; every number here was measured in it.",
        "max_batch_tokens": f"Tokens of one forward pass, and tokens a second: {budgets}. The smallest within "
        f"{1 - NEAR:.0%} of the best.",
        "threads": f"{measured.cores} cores, shared out among the workers.",
    }


def to_yaml(decision: Decision, head: Sequence[str]) -> str:
    """Write a model-config.yaml: `head` and every reason as comments above what they explain."""
    frontend = {key: value for key, value in asdict(decision.config.frontend).items() if value is not None}
    handler = {key: value for key, value in asdict(decision.config.handler).items() if value is not None}
    lines = [f"# {line}".rstrip() for line in head] + [""]
    lines += _section(frontend, decision.reasons, "")
    lines += ["handler:", *_section(handler, decision.reasons, "  ")]
    return "\n".join(lines) + "\n"


def _section(settings: Mapping[str, object], reasons: Mapping[str, str], indent: str) -> list[str]:
    lines = []
    for key, value in settings.items():
        lines += [f"{indent}# {line}" for line in _wrapped(reasons.get(key, ""), 118 - len(indent))]
        lines += [indent + line for line in yaml.safe_dump({key: value}).strip().splitlines()]
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False) if text else []
