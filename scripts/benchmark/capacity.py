"""Measurements of scripts/tune.py: the speed of the engine for its decision, and a check against a live server."""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from handler.engine.int8_weights import has_float_weights
from scripts.benchmark import machine, scaling, serving
from scripts.benchmark.accounting import ExpectedScores, RequestAccounting, scores_of
from scripts.benchmark.measure import Run, interleave
from scripts.benchmark.models import BenchmarkModel
from scripts.benchmark.servers import package_server
from scripts.benchmark.texts import SOURCES, read_texts, short_texts
from scripts.benchmark.tuning import Decision, Measurements
from scripts.cli.console import ScriptError, say

BATCHES = (1, 2, 4, 8, 16, 32, 64)
BUDGETS = (128, 256, 512, 1024, 2048)


def measure(
    model: BenchmarkModel, precision: str, source: Path | None, seconds: float
) -> tuple[Measurements, list[str]]:
    """Measure batch sizes, token budgets and numbers of workers; return the texts that were used, too."""
    texts = read_texts(source) if source else read_texts(*SOURCES)
    drawn = short_texts(texts, min(len(texts), 256))
    if len(drawn) < max(BATCHES):
        raise ScriptError(f"{source} has {len(drawn)} different texts; at least {max(BATCHES)} are needed")
    encodings = model.encode(drawn)
    lengths = [len(encoding) for encoding in encodings]
    device, threads = torch.device("cpu"), torch.get_num_threads()
    predictor = model.load(precision, device)
    engine = predictor.engine
    say(f"measuring {model.name} in {engine.precision.name} with texts of {statistics.mean(lengths):.1f} tokens")
    # Batches of mean tokens: a sample of the sorted lengths, spread over all of them.
    ordered = sorted(encodings, key=len)
    samples = {n: [ordered[int((index + 0.5) * len(ordered) / n)] for index in range(n)] for n in BATCHES}
    runs: dict[str, Run] = {str(n): partial(engine.run, sample) for n, sample in samples.items()}
    batches = interleave(runs, device, seconds)
    runs = {str(n): partial(scaling.with_budget, predictor, n, encodings[:128]) for n in BUDGETS}
    budgets = interleave(runs, device, seconds, min_rounds=3)
    tokens = sum(lengths[:128])
    fleets = []
    for workers in scaling.steps_to(threads):
        point = scaling.fleet(model, precision, workers, threads, samples[32], seconds / 2)
        fleets.append((workers, float(point["tokens_per_s"])))
    measurements = Measurements(
        precision=engine.precision.name,
        cores=threads,
        mean_tokens=statistics.mean(lengths),
        sd_tokens=statistics.pstdev(lengths),
        batches=[(n, batches[str(n)].median) for n in BATCHES],
        budgets=[(n, tokens / budgets[str(n)].median) for n in BUDGETS],
        fleets=fleets,
    )
    return measurements, drawn


def require_check(model: BenchmarkModel) -> None:
    """Raise ScriptError where `check` is impossible: before minutes of measuring, not after."""
    if reason := machine.lacking("loadgen"):
        raise ScriptError(f"--check: {reason}, or leave --check out")
    if not has_float_weights(model.model_folder):
        raise ScriptError(
            f"--check: {model.name} has weights in int8 alone, which cannot be packed again: leave it out"
        )


def check(model: BenchmarkModel, decision: Decision, texts: list[str], target_ms: float, seconds: float) -> str:
    """Serve the model with the settings, send 0.8 of the expected rate, and return the result in a line."""
    precision = decision.config.handler.precision
    predictor = model.load(precision, torch.device("cpu"))
    answers = predictor.answer_items(texts, {"top_k": None})
    expected = ExpectedScores([scores_of(answer) for answer in answers], predictor.engine.precision.tolerance)
    accounting = RequestAccounting()
    config = replace(decision.config, frontend=replace(decision.config.frontend, jobQueueSize=1000))
    mar = model.pack(precision, config)
    with package_server("torchserve", mar) as running:
        endpoint, rate = running.endpoints[mar.stem], 0.8 * decision.plan.rate
        # The first trial warms up Java, which is slow at first.
        serving.trial(endpoint, texts, expected, accounting, rate / 2, target_ms, max(seconds, 5))
        trial = serving.trial(endpoint, texts, expected, accounting, rate, target_ms, max(seconds, 10))
    kept = "kept" if trial["p99_ms"] <= target_ms else "broken"
    return (
        f"Checked with a live server at {rate:.0f} texts a second: p50 {trial['p50_ms']:.0f} ms, p99 "
        f"{trial['p99_ms']:.0f} ms, target {kept}; {accounting.to_json()}"
    )
