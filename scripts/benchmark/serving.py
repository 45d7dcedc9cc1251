"""Parts 4 to 6: LoadGen's Offline and Server scenarios against a TorchServe, and servers side by side."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from handler.predictor import Predictor
from scripts.benchmark import machine
from scripts.benchmark.accounting import ExpectedScores, RequestAccounting, scores_of
from scripts.benchmark.http import Endpoint, LoadClient
from scripts.benchmark.load import closed_loop
from scripts.benchmark.loadgen import SystemUnderTest
from scripts.benchmark.models import BenchmarkModel
from scripts.benchmark.servers import litserve, torchserve
from scripts.benchmark.statistics import Timings, quantile
from scripts.benchmark.texts import SOURCES, Mix, read_texts, short_texts
from scripts.cli.console import say

Keep = Callable[[dict[str, Any]], None]  # saves all results so far

TEXTS_PER_REQUEST = 32  # of the Offline scenario
OFFLINE_IN_FLIGHT = 4  # requests of that many texts that the client keeps open at most
IN_FLIGHT = 64  # requests of one text that the client keeps open at most: two full batches
STEPS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the Offline rate, tried by the Server scenario
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


def side_by_side(
    model: BenchmarkModel,
    ours: Mapping[str, Endpoint],
    mix: Mix,
    expected: Mapping[str, ExpectedScores],
    threads: int,
    seconds: float,
) -> dict[str, Any]:
    """Load our server and LitServe in turn, three rounds; each connection sends one text after the other."""
    connections = 2 * TEXTS_PER_REQUEST
    latencies: dict[str, list[float]] = {}
    durations: dict[str, float] = {}
    with litserve(model.model_folder, threads, TEXTS_PER_REQUEST) as peer:
        endpoints = {**ours, "LitServe, pipeline fp32": peer}
        accounts = {name: RequestAccounting() for name in endpoints}
        for name, endpoint in endpoints.items():  # a warm-up that does not count
            closed_loop(endpoint, mix.texts, expected[name], RequestAccounting(), connections, seconds / 4)
        for _ in range(3):
            for name, endpoint in endpoints.items():
                times, duration = closed_loop(endpoint, mix.texts, expected[name], accounts[name], connections, seconds)
                latencies[name] = [*latencies.get(name, []), *times]
                durations[name] = durations.get(name, 0) + duration
    rows = []
    for name, times in latencies.items():
        rate = len(times) / durations[name]
        quantiles = {f"p{percent}_ms": 1e3 * quantile(times, percent / 100) for percent in (50, 99)}
        row = {"name": name, "ours": name in ours, "texts_per_s": rate, **quantiles, "ledger": accounts[name].to_json()}
        rows.append(row)
        say(f"http-peers {model.name}: {name} {rate:.1f} texts/s, p99 {quantiles['p99_ms']:.0f} ms, {row['ledger']}")
    return {"model": model.name, "mix": mix.name, "connections": connections, "servers": rows}


def measure(
    model: BenchmarkModel, loaded: dict[str, Predictor], options: Any, results: dict[str, Any], keep: Keep
) -> None:
    """Serve one model at its fastest precision (and, beside LitServe, in fp32), and run the parts of --only."""
    skipped, only = results["about"]["skipped"], options.only
    missing = {part: machine.missing("loadgen") for part in ("offline", "server") if part in only}
    missing |= {"http-peers": machine.missing("litserve")} if "http-peers" in only else {}
    skipped += [reason for reason in dict.fromkeys(missing.values()) if reason and reason not in skipped]
    parts = [part for part, reason in missing.items() if not reason]
    if not parts:
        return
    best = list(loaded)[-1]
    beside = ["fp32"] if "http-peers" in parts and best != "fp32" and "fp32" in loaded else []
    archives = {precision: model.pack(precision) for precision in [best, *beside]}
    mix, expected = prepare(model, loaded[best], options.lengths_from, options.seconds)
    with torchserve(archives[best]) as endpoints:
        endpoint = endpoints[archives[best].stem]
        if "offline" in parts or "server" in parts:
            row = offline(model, loaded[best], endpoint, mix, expected, options.seconds)
            results.setdefault("offline", []).append(row)
            keep(results)
            if "server" in parts:
                rate, bound = row["texts_per_s"], options.p99_ms
                scenario = server(model, loaded[best], endpoint, mix, expected, options.seconds, rate, bound)
                results.setdefault("server", []).append(scenario)
                keep(results)
    if "http-peers" in parts:
        with torchserve(*archives.values()) as endpoints:
            ours = {f"TorchServe, packed {name}": endpoints[mar.stem] for name, mar in archives.items()}
            expected_by = {f"TorchServe, packed {best}": expected, "LitServe, pipeline fp32": expected}
            if beside:
                exact, tolerance = loaded["fp32"].answer_items(mix.texts, {"top_k": None}), 1e-3
                fp32 = ExpectedScores([scores_of(answer) for answer in exact], tolerance)
                expected_by |= {"TorchServe, packed fp32": fp32, "LitServe, pipeline fp32": fp32}
            servers = side_by_side(model, ours, mix, expected_by, options.threads, options.seconds)
            results.setdefault("http_peers", []).append(servers)
            keep(results)
