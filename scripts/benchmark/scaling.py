"""Part 2: time and memory against the amount of work, the texts at once, the token budget, threads and workers."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from handler.engine.device import to_torch
from handler.predictor import Predictor
from handler.sequences import Encoding
from scripts.benchmark.measure import Run, interleave, peak_memory
from scripts.benchmark.models import BenchmarkModel
from scripts.benchmark.texts import SOURCES, long_texts, read_texts, short_texts
from scripts.cli.console import say

Call = Callable[[Predictor, int], tuple[Run, Sequence[Encoding]]]  # a run, and the encodings that it computes

WORK = (1_000, 3_000, 10_000, 30_000, 100_000)  # tokens
BATCH = (1, 2, 4, 8, 16, 32, 64, 128)  # texts
BUDGET = (64, 128, 256, 512, 1024, 2048, 4096)  # tokens


def measure(
    model: BenchmarkModel, loaded: dict[str, Predictor], source: Path | None, seconds: float
) -> list[dict[str, Any]]:
    """Vary one parameter at a time, all precisions interleaved; the amount of work stops where it would take more than
    four times `seconds`. Work and workers are measured one precision after the other.
    """
    texts = read_texts(source) if source else read_texts(*SOURCES)
    encodings = model.encode(short_texts(texts, 128))
    first = encodings[:64]
    mixed = encodings[:48] + model.encode(long_texts(texts, 6, model.count))
    device, threads = to_torch(next(iter(loaded.values())).engine.device), torch.get_num_threads()
    thread_counts = steps_to(threads) if device.type == "cpu" and threads > 1 else []
    series: dict[str, tuple[Sequence[int], Call]] = {
        "batch": (BATCH, lambda predictor, n: (partial(predictor.engine.run, encodings[:n]), encodings[:n])),
        "budget": (BUDGET, lambda predictor, n: (partial(with_budget, predictor, n, mixed), mixed)),
        "threads": (
            thread_counts,
            lambda predictor, n: (partial(_with_threads, predictor, n, first), first),
        ),
    }
    results = {("work", name): work(model, predictor, texts, 4 * seconds) for name, predictor in loaded.items()}
    for kind, (steps, call) in series.items():
        calls = {(name, n): call(predictor, n) for name, predictor in loaded.items() for n in steps}
        if calls:
            runs = {f"{name} {n}": run for (name, n), (run, _) in calls.items()}
            timings = interleave(runs, device, seconds * len(loaded), min_rounds=3)
            torch.set_num_threads(threads)
            for (name, n), (_, computed) in calls.items():
                results.setdefault((kind, name), []).append(point(n, computed, timings[f"{name} {n}"].median))
    for name in loaded if thread_counts else ():
        results["workers", name] = [fleet(model, name, n, threads, first, seconds) for n in thread_counts]
    say(f"scaling {model.name}: {', '.join(dict.fromkeys(kind for kind, _ in results))} measured")
    return [
        {"model": model.name, "precision": precision, "kind": kind, "points": points}
        for (kind, precision), points in results.items()
    ]


def work(model: BenchmarkModel, predictor: Predictor, texts: Sequence[str], limit: float) -> list[dict[str, Any]]:
    """Measure time and memory of growing numbers of tokens, until one would take longer than `limit` seconds."""
    mean = sum(model.count(list(texts[:200]))) / len(texts[:200])
    predictor.engine.run(model.encode(list(texts[:32])))
    points: list[dict[str, Any]] = []
    for tokens in WORK:
        if points and points[-1]["us_per_token"] * tokens / 1e6 > limit:
            break
        encodings = _up_to(model.encode(short_texts(texts, int(tokens / mean) + 40)), tokens)
        device = to_torch(predictor.engine.device)
        with peak_memory(device) as used:
            timings = interleave({"run": partial(predictor.engine.run, encodings)}, device, 1, 3 if tokens < 2e4 else 1)
        points.append(point(tokens, encodings, timings["run"].median) | {"memory_mb": used.peak / 2**20})
    return points


def point(at: float, encodings: Sequence[Encoding], seconds: float) -> dict[str, Any]:
    """Return the figures of one measurement: `at` is the value of the parameter."""
    tokens = sum(map(len, encodings))
    return {
        "at": at,
        "texts": len(encodings),
        "tokens": tokens,
        "ms": seconds * 1e3,
        "tokens_per_s": tokens / seconds,
        "us_per_token": seconds / tokens * 1e6,
    }


def steps_to(maximum: int) -> list[int]:
    """Return the powers of two below a maximum, and the maximum.

    >>> steps_to(6)
    [1, 2, 4, 6]
    """
    return [step for step in (2**power for power in range(10)) if step < maximum] + [maximum]


def fleet(
    model: BenchmarkModel, precision: str, n_workers: int, threads: int, encodings: Sequence[Encoding], seconds: float
) -> dict[str, Any]:
    """Compute the same texts in several processes at the same time, each with its share of the threads."""
    context = multiprocessing.get_context("spawn")
    ready, answers = context.Barrier(n_workers + 1), context.Queue()
    share = max(1, threads // n_workers)
    arguments = (model, precision, share, list(encodings), seconds, ready, answers)
    workers = [context.Process(target=_worker, args=arguments) for _ in range(n_workers)]
    for worker in workers:
        worker.start()
    try:
        ready.wait(timeout=180)
        counts = [answers.get(timeout=seconds + 120) for _ in workers]
    finally:
        for worker in workers:
            worker.join(timeout=10)
            if worker.is_alive():
                worker.terminate()
    per_s = sum(runs / elapsed for runs, elapsed in counts)
    return point(n_workers, encodings, 1 / per_s) | {
        "ms": 1e3 * sum(elapsed / runs for runs, elapsed in counts) / n_workers
    }


def _worker(
    model: BenchmarkModel,
    precision: str,
    threads: int,
    encodings: list[Encoding],
    seconds: float,
    ready: Any,
    answers: Any,
) -> None:
    torch.set_num_threads(threads)
    predictor = model.load(precision, torch.device("cpu"))
    predictor.engine.run(encodings)
    ready.wait(timeout=180)
    began, runs = time.perf_counter(), 0
    while not runs or time.perf_counter() - began < seconds:
        predictor.engine.run(encodings)
        runs += 1
    answers.put((runs, time.perf_counter() - began))


def _up_to(encodings: Sequence[Encoding], tokens: int) -> list[Encoding]:
    chosen: list[Encoding] = []
    total = 0
    for encoding in encodings:
        if total + len(encoding) > tokens:
            break
        chosen.append(encoding)
        total += len(encoding)
    return chosen


def with_budget(predictor: Predictor, budget: int, encodings: Sequence[Encoding]) -> None:
    """Run the engine with a token budget, and restore its own."""
    engine = predictor.engine
    before, engine.max_batch_tokens = engine.max_batch_tokens, budget
    try:
        engine.run(encodings)
    finally:
        engine.max_batch_tokens = before


def _with_threads(predictor: Predictor, threads: int, encodings: Sequence[Encoding]) -> None:
    torch.set_num_threads(threads)
    predictor.engine.run(encodings)
