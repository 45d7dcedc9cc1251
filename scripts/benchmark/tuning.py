"""Settings of a model from measurements and a latency target, each with its reason. Pure: nothing is measured here.

The model. A worker takes one batch after the other, at most `batchSize` requests in each. A request that arrives while
a batch runs waits for the rest of it, at most s(n), and is then answered with the next one, after another s(n); so its
latency is at most

    overhead + delay + 2 s(n)        as long as requests come no faster than n in s(n) for each worker.

The largest batch of a hundred has more tokens than the mean one: n m + 2.33 d sqrt(n), where m and d are mean and
standard deviation of the lengths; s is scaled by that. The largest n whose bound meets the target is the batch size,
and workers * n / s(n) the expected rate; s(n) includes what the cores spend on the requests themselves. It is an upper
estimate for steady arrivals; the queue holds bursts longer than a batch.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import yaml

from handler.config import ModelConfig
from scripts.cli.console import ScriptError

# Cost of a request beside the engine (TorchServe, Python, a client on the same machine), in milliseconds of one core:
# 64 connections to a server against its engine (scripts/bench.py --only http-peers, 2026-11-26).
SERVING_MS = 1.3
OVERHEAD_MS = 5.0  # HTTP, TorchServe and tokenization of one text: the project's own goal
NEAR_BEST = 0.97  # the smallest setting that reaches this fraction of the best one is preferred
SIGMAS = 2.33  # the 99th percentile of a normal distribution


@dataclass(frozen=True)
class Measurements:
    """Speed of the engine on this machine with texts of these lengths."""

    precision: str
    cores: int
    mean_tokens: float
    sd_tokens: float
    batches: Sequence[tuple[int, float]]  # texts in a batch -> seconds, of one worker with all threads
    budgets: Sequence[tuple[int, float]]  # token budget -> tokens a second
    fleets: Sequence[tuple[int, float]]  # workers -> tokens a second of all of them


@dataclass(frozen=True)
class WorkerPlan:
    """A number of workers, the largest batch that meets the target, its latency bound and the expected rate."""

    workers: int
    batch: int
    bound_ms: float
    rate: float  # texts a second


@dataclass(frozen=True)
class Decision:
    """Settings, the reason of each, and the plan that they follow."""

    config: ModelConfig
    reasons: Mapping[str, str]
    plan: WorkerPlan


def decide(measurements: Measurements, target_ms: float, base: ModelConfig) -> Decision:
    """Choose workers, threads, batch size, delay, queue and token budget for a bound of the 99th percentile.

    Raises:
        ScriptError: one text alone misses the target.
    """
    delay = 1 if target_ms < 100 else 2
    plans = [plan(measurements, workers, target_ms, delay) for workers, _ in measurements.fleets]
    feasible = [candidate for candidate in plans if candidate is not None]
    if not feasible:
        alone = measurements.batches[0][1] * 1e3
        raise ScriptError(
            f"--p99-ms {target_ms:g}: one text alone takes {alone:.0f} ms here, and a request may wait for another: "
            "give more time, fewer bits (--precision bf16), a smaller model or more cores"
        )
    fastest = max(candidate.rate for candidate in feasible)
    by_workers = sorted(feasible, key=lambda candidate: candidate.workers)
    chosen = next(candidate for candidate in by_workers if candidate.rate >= NEAR_BEST * fastest)
    threads = max(1, measurements.cores // chosen.workers)
    best = max(speed for _, speed in measurements.budgets)
    budget = min(tokens for tokens, speed in measurements.budgets if speed >= NEAR_BEST * best)
    queue = max(chosen.batch * chosen.workers, math.ceil(chosen.rate * target_ms / 1e3))
    frontend = replace(
        base.frontend,
        minWorkers=chosen.workers,
        maxWorkers=chosen.workers,
        batchSize=chosen.batch,
        maxBatchDelay=delay,
        jobQueueSize=queue,
    )
    handler = {
        **vars(base.handler),
        "precision": measurements.precision,
        "max_batch_tokens": budget,
        "threads": threads,
    }
    config = replace(base, frontend=frontend, handler=type(base.handler)(**handler))
    return Decision(config, reasons(measurements, target_ms, chosen, feasible), chosen)


def plan(measurements: Measurements, workers: int, target_ms: float, delay_ms: float) -> WorkerPlan | None:
    """Return the batch with the highest rate that meets the target with `workers` workers, None where none does."""
    slower = (
        workers * dict(measurements.fleets)[1] / dict(measurements.fleets)[workers]
    )  # than one worker with all threads
    best = None
    for batch, seconds in measurements.batches:
        texts = workers * batch
        shared = (
            seconds * slower + texts * SERVING_MS / 1e3 / measurements.cores
        )  # until all workers have their next batch
        bound = OVERHEAD_MS + delay_ms + 2e3 * shared * stretch(measurements, batch)
        rate = texts / shared
        if bound <= target_ms and (best is None or rate > best.rate):
            best = WorkerPlan(workers, batch, bound, rate)
    return best


def stretch(measurements: Measurements, batch: int) -> float:
    """Return the tokens of the largest batch of a hundred over those of a mean one.

    >>> stretch(Measurements("fp32", 2, 10, 10, [], [], []), 100)
    1.233
    """
    return 1 + SIGMAS * measurements.sd_tokens / (measurements.mean_tokens * math.sqrt(batch))


def reasons(
    measurements: Measurements, target_ms: float, chosen: WorkerPlan, feasible: Sequence[WorkerPlan]
) -> dict[str, str]:
    """Return the reason of each setting."""
    speeds = ", ".join(f"{workers}: {speed:,.0f} tokens/s" for workers, speed in measurements.fleets)
    rates = ", ".join(
        f"{candidate.workers}: {candidate.rate:.0f}/s in batches of {candidate.batch}" for candidate in feasible
    )
    budgets = ", ".join(f"{tokens}: {speed:,.0f}" for tokens, speed in measurements.budgets)
    times = ", ".join(f"{batch}: {seconds * 1e3:.0f} ms" for batch, seconds in measurements.batches)
    return {
        "minWorkers": f"Measured side by side, workers: {speeds}. Within {target_ms:g} ms they should carry {rates}.",
        "batchSize": f"Texts of one batch, and its time: {times}. A request may wait for one batch and then be "
        f"in the next: with {chosen.batch} texts 99 % should be answered within {chosen.bound_ms:.0f} ms.",
        "maxBatchDelay": "Under load batches fill while the worker is busy; more than this only adds latency.",
        "jobQueueSize": f"What {chosen.rate:.0f} texts a second answer in {target_ms:g} ms: a request that would wait "
        "longer gets 503 at once.",
        "precision": "From the options; every number here was measured in it.",
        "max_batch_tokens": f"Tokens of one forward pass, and tokens a second: {budgets}. The smallest within "
        f"{1 - NEAR_BEST:.0%} of the best.",
        "threads": f"{measurements.cores} cores, shared out among the workers.",
    }


def to_yaml(decision: Decision, head: Sequence[str]) -> str:
    """Return a model-config.yaml with `head` and the reasons as comments."""
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
