"""Parts 4 to 6: LoadGen's Offline and Server scenarios against both servers of this package; servers side by side."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from handler.predictor import Predictor
from scripts.benchmark import machine, side_by_side
from scripts.benchmark.accounting import ExpectedScores, RequestAccounting, scores_of
from scripts.benchmark.http import Endpoint, LoadClient
from scripts.benchmark.loadgen import SystemUnderTest
from scripts.benchmark.models import BenchmarkModel
from scripts.benchmark.servers import KINDS, package_server
from scripts.benchmark.statistics import Timings
from scripts.benchmark.texts import SOURCES, Mix, read_texts, short_texts
from scripts.cli.console import say

Keep = Callable[[dict[str, Any]], None]  # saves all results so far

TEXTS_PER_REQUEST = 32  # of the Offline scenario
OFFLINE_IN_FLIGHT = 4  # requests of that many texts that the client keeps open at most
IN_FLIGHT = 64  # requests of one text that the client keeps open at most: two full batches
STEPS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the Offline rate, tried by the Server scenario
FP32_TOLERANCE = 1e-3  # of a score, to LitServe's pipeline
LATENCIES = {"p50_ms": "50.00", "p90_ms": "90.00", "p99_ms": "99.00"}


def prepare(
    model: BenchmarkModel, predictor: Predictor, source: Path | None, seconds: float
) -> tuple[Mix, ExpectedScores]:
    """Draw texts and compute their answers before the run; fewer of them for a slow model."""
    texts = read_texts(source) if source else read_texts(*SOURCES)
    probe = model.encode(texts[:32])
    began = time.perf_counter()
    predictor.engine.run(probe)
    per_text = (time.perf_counter() - began) / len(probe)
    chosen = short_texts(texts, max(128, min(1500, int(2 * seconds / per_text))))
    answers = predictor.answer_items(chosen, {"top_k": None})
    mix = Mix(source.stem if source else "short", tuple(chosen), tuple(model.count(chosen)))
    return mix, ExpectedScores([scores_of(answer) for answer in answers], predictor.engine.precision.tolerance)


def offline(
    model: BenchmarkModel,
    predictor: Predictor,
    endpoint: Endpoint,
    mix: Mix,
    expected: ExpectedScores,
    seconds: float,
) -> dict[str, Any]:
    """Run the Offline scenario: all texts at once, 32 a request; measure the engine alone before and after it."""
    lg = importlib.import_module("mlperf_loadgen")
    before = engine_alone(model, predictor, mix)
    accounting = RequestAccounting()
    sut = SystemUnderTest(endpoint, mix.texts, expected, accounting, TEXTS_PER_REQUEST, OFFLINE_IN_FLIGHT)
    summary = sut.run(
        scenario=lg.TestScenario.Offline,
        offline_expected_qps=0.9 / before,
        min_duration_ms=int(seconds * 1000),
        min_query_count=1,
    )
    engine_s = (before + engine_alone(model, predictor, mix)) / 2
    rate = float(summary["Samples per second"])
    say(f"offline {model.name} {predictor.engine.precision.name}: {rate:.1f} texts/s, {accounting.to_json()}")
    return {
        "model": model.name,
        "mix": mix.name,
        "precision": predictor.engine.precision.name,
        "texts_per_request": TEXTS_PER_REQUEST,
        "texts_per_s": rate,
        "engine_texts_per_s": 1 / engine_s,
        "of_engine": rate * engine_s,
        "ledger": accounting.to_json(),
        "loadgen": summary,
    }


def engine_alone(model: BenchmarkModel, predictor: Predictor, mix: Mix) -> float:
    """Return the seconds that the engine takes for one text, in batches of TorchServe's size."""
    times = []
    for start in range(0, min(len(mix.texts), 5 * TEXTS_PER_REQUEST), TEXTS_PER_REQUEST):
        encodings = model.encode(mix.texts[start : start + TEXTS_PER_REQUEST])
        began = time.perf_counter()
        predictor.engine.run(encodings)
        times.append((time.perf_counter() - began) / len(encodings))
    return Timings(tuple(times)).median


def server(
    model: BenchmarkModel,
    predictor: Predictor,
    endpoint: Endpoint,
    mix: Mix,
    expected: ExpectedScores,
    seconds: float,
    offline_rate: float,
    bound_ms: float | None,
) -> dict[str, Any]:
    """Run the Server scenario at rising rates until the latency bound is missed twice; return every rate tried."""
    alone_ms, engine_ms = one_text(model, predictor, endpoint, mix)
    bound = bound_ms or max(50.0, 15 * alone_ms)
    accounting = RequestAccounting()
    trials: list[dict[str, Any]] = []
    for step in STEPS:
        rate = step * offline_rate
        result = trial(endpoint, mix.texts, expected, accounting, rate, bound, seconds)
        trials.append(result)
        p99 = f"p99 {result['p99_ms']:.0f} ms of {bound:.0f} ms"
        say(f"server {model.name}: {rate:.1f}/s {p99}, {accounting.to_json()}")
        if sum(not result["valid"] for result in trials) == 2:
            break
    best_rate = max((result["rate"] for result in trials if result["valid"]), default=0.0)
    return {
        "model": model.name,
        "mix": mix.name,
        "precision": predictor.engine.precision.name,
        "bound_ms": bound,
        "found": best_rate,
        "over_offline": best_rate / offline_rate,
        "trials": trials,
        "alone_ms": alone_ms,
        "engine_alone_ms": engine_ms,
        "ledger": accounting.to_json(),
    }


def trial(
    endpoint: Endpoint,
    texts: Sequence[str],
    expected: ExpectedScores,
    accounting: RequestAccounting,
    rate: float,
    bound_ms: float,
    seconds: float,
) -> dict[str, Any]:
    """Send one text a request at a mean rate, at Poisson-distributed times; return latencies in milliseconds."""
    lg = importlib.import_module("mlperf_loadgen")
    before = accounting.counts["refused"] + accounting.counts["failed"]
    summary = SystemUnderTest(endpoint, texts, expected, accounting, 1, IN_FLIGHT).run(
        scenario=lg.TestScenario.Server,
        server_target_qps=rate,
        server_target_latency_ns=int(bound_ms * 1e6),
        server_target_latency_percentile=0.99,
        min_duration_ms=int(seconds * 1000),
        min_query_count=1,
    )
    latencies = {name: float(summary[f"{part} percentile latency (ns)"]) / 1e6 for name, part in LATENCIES.items()}
    all_answered = accounting.counts["refused"] + accounting.counts["failed"] == before
    return {"rate": rate, **latencies, "valid": latencies["p99_ms"] <= bound_ms and all_answered, "loadgen": summary}


def one_text(model: BenchmarkModel, predictor: Predictor, endpoint: Endpoint, mix: Mix) -> tuple[float, float]:
    """Return the median milliseconds of one text alone over HTTP, and of the same text in the engine, in turn."""
    over_http, in_engine = [], []

    async def measure_both() -> None:
        client = LoadClient(endpoint.host, endpoint.port)
        for text in mix.texts[:40]:
            began = time.perf_counter()
            await client.send(endpoint.message([text]))
            over_http.append((time.perf_counter() - began) * 1e3)
            began = time.perf_counter()
            predictor.engine.run(model.encode([text]))
            in_engine.append((time.perf_counter() - began) * 1e3)
        client.close()

    asyncio.run(measure_both())
    return Timings(tuple(over_http)).median, Timings(tuple(in_engine)).median


def measure(
    model: BenchmarkModel, loaded: dict[str, Predictor], options: Any, results: dict[str, Any], keep: Keep
) -> None:
    """Serve one model at its fastest precision (and, beside LitServe, in fp32), and run the parts of --only."""
    skipped, only = results["about"]["skipped"], options.only
    missing = {part: machine.missing("loadgen") for part in ("offline", "server") if part in only}
    skipped += [reason for reason in dict.fromkeys(missing.values()) if reason and reason not in skipped]
    parts = [part for part, reason in missing.items() if not reason]
    best = list(loaded)[-1]
    if parts:
        mix, expected = prepare(model, loaded[best], options.lengths_from, options.seconds)
        archive = model.pack(best)
        for kind in KINDS:
            with package_server(kind, archive) as running:
                endpoint = running.endpoints[archive.stem]
                row = {"server": kind, **offline(model, loaded[best], endpoint, mix, expected, options.seconds)}
                results.setdefault("offline", []).append(row)
                keep(results)
                if "server" in parts:
                    rate, bound = row["texts_per_s"], options.p99_ms
                    scenario = server(model, loaded[best], endpoint, mix, expected, options.seconds, rate, bound)
                    results.setdefault("server", []).append({"server": kind, **scenario})
                    keep(results)
    if "http-peers" in only:
        reason = machine.missing("litserve")
        skipped += [reason] if reason and reason not in skipped else []
        precisions = [best] if best == "fp32" or reason or "fp32" not in loaded else [best, "fp32"]
        mix, expected = prepare(model, loaded[best], options.lengths_from, options.seconds)
        exact = loaded["fp32"].answer_items(mix.texts, {"top_k": None}) if "fp32" in precisions else []
        scores = {best: expected, "fp32": ExpectedScores([scores_of(answer) for answer in exact], FP32_TOLERANCE)}
        archives = {precision: model.pack(precision) for precision in precisions}
        rows = side_by_side.measure(model, archives, loaded, mix, scores, options.threads, options.seconds)
        results.setdefault("http_peers", []).extend(rows)
        keep(results)
