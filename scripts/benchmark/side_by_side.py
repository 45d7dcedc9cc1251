"""Part 6: servers side by side in one run: both of this package with the same archive, and LitServe if it is installed.

Every server runs all the time and is loaded in turn, by the same client. Answers are checked before the run.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from handler.predictor import Predictor
from scripts.benchmark import machine, wrk
from scripts.benchmark.accounting import ExpectedScores, RequestAccounting
from scripts.benchmark.http import Endpoint, LoadResponse
from scripts.benchmark.load import LoadGenerator, closed_loop
from scripts.benchmark.models import BenchmarkModel
from scripts.benchmark.request_time import RequestTime
from scripts.benchmark.servers import KINDS, litserve, package_server
from scripts.benchmark.statistics import Timings, quantile
from scripts.benchmark.texts import Mix
from scripts.cli.console import say

CONNECTIONS = (1, 16, 64)
ROUNDS = 3
CHECK_S = 3.0  # of the run whose answers are compared, at 64 connections: the server is warm after it
OVERLOAD = 5  # times the rate at 64 connections
OVERLOAD_CONNECTIONS = 1_000  # of wrk, each of which waits for its answer and pauses
TRIAL_S = 2.0  # in which the time that the answers take is measured
PROBES_PER_S = 40.0  # requests of this process during the overload by wrk: their answers and latencies are looked at
BATCH = 32  # texts of LitServe's batches, and of the engine alone: TorchServe's batchSize
FIGURES = ("texts_per_s", "p50_ms", "p99_ms")


@dataclass(frozen=True)
class Contestant:
    """One server that runs."""

    name: str
    ours: bool
    endpoint: Endpoint
    expected: ExpectedScores
    pid: int
    metrics_url: str = ""  # of a server of this package


def client() -> str:
    """Describe the client of the closed loops."""
    return f"wrk {wrk.wrk_version()}" if wrk.wrk_version() else "Python (wrk is not installed: apt-get install wrk)"


def measure(
    model: BenchmarkModel,
    archives: Mapping[str, Path],
    predictors: Mapping[str, Predictor],
    mix: Mix,
    expected: Mapping[str, ExpectedScores],
    threads: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """Measure a model at each precision of `archives`: the first one under overload too, fp32 beside LitServe.

    Args:
        predictors, expected: of each precision.
        seconds: of each server at each number of connections, over all rounds.
    """
    rows = []
    for number, (precision, archive) in enumerate(archives.items()):
        with ExitStack() as stack:
            contestants = []
            for kind in KINDS:
                server = stack.enter_context(package_server(kind, archive))
                endpoint = server.endpoints[archive.stem]
                contestants.append(
                    Contestant(kind, True, endpoint, expected[precision], server.pid, server.metrics_url)
                )
            if precision == "fp32" and not machine.missing("litserve"):
                endpoint, pid = stack.enter_context(litserve(model.model_folder, threads, BATCH))
                contestants.append(Contestant("LitServe, pipeline", False, endpoint, expected[precision], pid))
            row: dict[str, Any] = {"model": model.name, "mix": mix.name, "precision": precision, "client": client()}
            row |= _closed_loops(model, predictors[precision], contestants, mix.texts, seconds)
            if number == 0:
                overload = overload_by_wrk if wrk.wrk_version() else overload_by_python
                row["overload"] = [
                    overload(each, _capacity(row["servers"], each.name), mix.texts, seconds)
                    for each in contestants
                    if each.ours
                ]
            rows.append(row)
    return rows


def _closed_loops(
    model: BenchmarkModel,
    predictor: Predictor,
    contestants: Sequence[Contestant],
    texts: Sequence[str],
    seconds: float,
) -> dict[str, Any]:
    """Load the servers in turn, in rounds, with the engine alone before each round."""
    ledgers = {each.name: RequestAccounting() for each in contestants}
    for each in contestants:
        closed_loop(each.endpoint, texts, each.expected, ledgers[each.name], CONNECTIONS[-1], CHECK_S)
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    times = {(each.name, count): RequestTime(count) for each in contestants if each.ours for count in CONNECTIONS}
    engine_s, engine_one_s = [], []
    for _ in range(ROUNDS):
        engine_s.append(_engine_s(model, predictor, texts, BATCH))
        engine_one_s.append(_engine_s(model, predictor, texts, 1))
        for connections in CONNECTIONS:
            for each in contestants:
                spent = times.get((each.name, connections))
                with nullcontext() if spent is None else spent.observe(each.metrics_url, each.pid):
                    run = _load(each, texts, connections, seconds / ROUNDS)
                runs.setdefault((each.name, connections), []).append(run)
    engine_rate = 1 / statistics.median(engine_s)
    rows = []
    for each in contestants:
        memory = _memory_mb(each.pid)
        for connections in CONNECTIONS:
            of_rounds = runs[each.name, connections]
            row: dict[str, Any] = {
                "name": each.name,
                "ours": each.ours,
                "connections": connections,
                "rounds": of_rounds,
            }
            row |= {figure: statistics.median(run[figure] for run in of_rounds) for figure in FIGURES}
            row |= {"unanswered": sum(run["refused"] + run["failed"] for run in of_rounds)}
            row |= {"of_engine": row["texts_per_s"] / engine_rate, "memory_mb": memory}
            if (each.name, connections) in times:
                row["request_time"] = times[each.name, connections].row()
            rows.append(row | {"ledger": ledgers[each.name].to_json()})
            figures = f"{row['texts_per_s']:.1f} texts/s, p50 {row['p50_ms']:.2f} ms, p99 {row['p99_ms']:.1f} ms"
            say(f"http-peers {model.name}: {each.name} at {connections}: {figures}, {memory:.0f} MB")
    one_ms = 1e3 * statistics.median(engine_one_s)
    return {"servers": rows, "engine_texts_per_s": engine_rate, "engine_alone_ms": one_ms}


def _load(contestant: Contestant, texts: Sequence[str], connections: int, seconds: float) -> dict[str, Any]:
    """Run one closed loop, with wrk where it is installed."""
    if wrk.wrk_version():
        return wrk.load(contestant.endpoint, texts, connections, seconds)
    accounting = RequestAccounting()
    times, duration = closed_loop(contestant.endpoint, texts, contestant.expected, accounting, connections, seconds)
    return {
        "texts_per_s": accounting.counts["right"] / duration,
        **{f"p{percent}_ms": 1e3 * quantile(times, percent / 100) for percent in (50, 99)},
        "refused": accounting.counts["refused"],
        "failed": accounting.counts["failed"] + accounting.counts["wrong"],
    }


def _capacity(rows: Sequence[dict[str, Any]], name: str) -> float:
    """Return the texts per second of a server at the most connections."""
    return next(
        float(row["texts_per_s"]) for row in rows if (row["name"], row["connections"]) == (name, CONNECTIONS[-1])
    )


def overload_by_python(contestant: Contestant, capacity: float, texts: Sequence[str], seconds: float) -> dict[str, Any]:
    """Send many times what the server can answer, at Poisson-distributed times, whatever it answers.

    Args:
        capacity: texts that it answers per second.

    Returns:
        goodput (right answers within the time, per second, and as a share of the capacity), p99 of right answers and of
        refusals in milliseconds from sending, and how late the client itself was.
    """
    with _open_loop(contestant, texts, OVERLOAD * capacity) as (load, accounting):
        time.sleep(seconds)
        sent = load.sent
    in_time = sum(finished <= seconds for finished in load.finished_s["right"])
    return _overload_row(contestant, capacity, sent / seconds, in_time / seconds, load, accounting)


def overload_by_wrk(contestant: Contestant, capacity: float, texts: Sequence[str], seconds: float) -> dict[str, Any]:
    """Send many times what the server can answer, by many connections of wrk, which takes little of the cores.

    wrk tells no latency by status and compares no answer: a few requests of this process beside it do. Arguments and
    result are those of `overload_by_python`.
    """
    endpoint, period_s = contestant.endpoint, OVERLOAD_CONNECTIONS / (OVERLOAD * capacity)
    trial = wrk.load(endpoint, texts, OVERLOAD_CONNECTIONS, TRIAL_S, period_s)
    answer_s = OVERLOAD_CONNECTIONS / max(1.0, trial["sent_per_s"]) - period_s
    with _open_loop(contestant, texts, PROBES_PER_S) as (probe, accounting):
        run = wrk.load(endpoint, texts, OVERLOAD_CONNECTIONS, seconds, max(0.0, period_s - answer_s))
    goodput = run["texts_per_s"] + accounting.counts["right"] / probe.seconds
    return _overload_row(contestant, capacity, run["sent_per_s"] + PROBES_PER_S, goodput, probe, accounting)


@contextlib.contextmanager
def _open_loop(
    contestant: Contestant, texts: Sequence[str], rate: float
) -> Iterator[tuple[LoadGenerator, RequestAccounting]]:
    accounting = RequestAccounting()
    messages = [contestant.endpoint.message([text]) for text in texts]

    def record(number: int, response: LoadResponse) -> str:
        answers = contestant.endpoint.answers(response)
        outcomes = contestant.expected.outcomes([number % len(texts)], response.status, answers)
        accounting.add(outcomes)
        return next(iter(outcomes))

    host, port = contestant.endpoint.host, contestant.endpoint.port
    with LoadGenerator(host, port, lambda number: messages[number % len(messages)], record, rate=rate) as load:
        yield load, accounting


def _overload_row(
    contestant: Contestant,
    capacity: float,
    rate: float,
    goodput: float,
    load: LoadGenerator,
    accounting: RequestAccounting,
) -> dict[str, Any]:
    row = {
        "name": contestant.name,
        "rate": rate,
        "times": rate / capacity,
        "goodput": goodput,
        "of_capacity": goodput / capacity,
        "right_p99_ms": _p99_ms(load.response_s["right"]),
        "refused_p99_ms": _p99_ms(load.response_s["refused"]),
        "client_late_p99_ms": _p99_ms(load.late_s),
        "ledger": accounting.to_json(),
    }
    say(
        f"http-peers overload {contestant.name}: {row['rate']:.0f}/s, goodput {row['of_capacity']:.0%}, p99 refused "
        f"{row['refused_p99_ms'] or 0:.1f} ms, {row['ledger']}"
    )
    return row


def _p99_ms(seconds: Sequence[float]) -> float | None:
    return 1e3 * quantile(seconds, 0.99) if len(seconds) else None


def _engine_s(model: BenchmarkModel, predictor: Predictor, texts: Sequence[str], size: int) -> float:
    """Return the median seconds of the engine for one text, in batches of `size`."""
    times = []
    for start in range(0, min(len(texts), 5 * BATCH), size):
        encodings = model.encode(texts[start : start + size])
        began = time.perf_counter()
        predictor.engine.run(encodings)
        times.append((time.perf_counter() - began) / len(encodings))
    return Timings(tuple(times)).median


def _memory_mb(pid: int) -> float:
    """Return the memory of a process and all processes that it started; what they share counts once."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return float(sum(process.memory_full_info().pss for process in family)) / 2**20
