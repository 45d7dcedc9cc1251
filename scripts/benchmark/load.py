"""Parts 4 to 6: LoadGen's Offline and Server scenarios against a TorchServe, and servers side by side."""

from __future__ import annotations

import importlib
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from handler.predictor import Predictor
from scripts.benchmark import machine
from scripts.benchmark.accounting import Ledger, scores_of
from scripts.benchmark.arithmetic import Sample, quantile
from scripts.benchmark.http import Address, Client, closed_loop
from scripts.benchmark.models import Subject
from scripts.benchmark.service import litserve, torchserve
from scripts.benchmark.texts import SOURCES, Mix, read_texts, short_texts
from scripts.cli.console import say

Keep = Callable[[dict[str, Any]], None]

TEXTS_PER_REQUEST = 32  # of the Offline scenario
IN_FLIGHT = 64  # requests that the client keeps open at most: two full batches
STEPS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the Offline rate, tried by the Server scenario
LATENCIES = {"p50_ms": "50.00", "p90_ms": "90.00", "p99_ms": "99.00"}


class Sut:
    """The system under test as LoadGen sees it: samples come in, threads ask for them, answers are reported."""

    def __init__(self, client: Client, texts: Sequence[str], ledger: Ledger, texts_per_request: int, n: int) -> None:
        self.lg = importlib.import_module("mlperf_loadgen")
        self.client, self.texts, self.ledger = client, texts, ledger
        self.texts_per_request = texts_per_request
        self.waiting: queue.SimpleQueue[list[tuple[int, int]] | None] = queue.SimpleQueue()
        self.threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(n)]

    def issue(self, samples: Any) -> None:
        """Take samples from LoadGen: (its number, ours) each."""
        pairs = [(sample.id, sample.index) for sample in samples]
        for start in range(0, len(pairs), self.texts_per_request):
            self.waiting.put(pairs[start : start + self.texts_per_request])

    def _ask(self) -> None:
        while (pairs := self.waiting.get()) is not None:
            indices = [index for _, index in pairs]
            status, answers = self.client.ask([self.texts[index] for index in indices])
            self.lg.QuerySamplesComplete([self.lg.QuerySampleResponse(number, 0, 0) for number, _ in pairs])
            self.ledger.record(indices, status, answers)  # after the clock has stopped

    def run(self, **settings: Any) -> dict[str, str]:
        """Run one test and return LoadGen's summary, key by key."""
        asked = self.lg.TestSettings()
        asked.mode = self.lg.TestMode.PerformanceOnly
        for name, value in settings.items():
            setattr(asked, name, value)
        for thread in self.threads:
            thread.start()
        sut = self.lg.ConstructSUT(self.issue, lambda: None)
        qsl = self.lg.ConstructQSL(len(self.texts), len(self.texts), lambda _: None, lambda _: None)
        with tempfile.TemporaryDirectory(prefix="loadgen-") as folder:
            log = self.lg.LogSettings()
            log.enable_trace = False
            log.log_output.outdir = folder
            log.log_output.copy_summary_to_stdout = False
            try:
                self.lg.StartTestWithLogSettings(sut, qsl, asked, log)
            finally:
                for _ in self.threads:
                    self.waiting.put(None)
                for thread in self.threads:
                    thread.join(timeout=30)
                self.lg.DestroyQSL(qsl)
                self.lg.DestroySUT(sut)
            return read_summary((Path(folder) / "mlperf_log_summary.txt").read_text(encoding="utf-8"))


def read_summary(text: str) -> dict[str, str]:
    """Read the `key: value` lines of LoadGen's summary.

    >>> read_summary("Samples per second: 9\\n99.00 percentile latency (ns)   : 12")
    {'Samples per second': '9', '99.00 percentile latency (ns)': '12'}
    """
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def prepare(subject: Subject, predictor: Predictor, source: Path | None, seconds: float) -> tuple[Mix, Ledger]:
    """Draw texts and answer them beforehand; fewer of them where that would take long."""
    texts = read_texts(source) if source else read_texts(*SOURCES)
    probe = subject.encode(texts[:32])
    began = time.perf_counter()
    predictor.engine.run(probe)
    per_text = (time.perf_counter() - began) / len(probe)
    chosen = short_texts(texts, max(128, min(1500, int(2 * seconds / per_text))))
    answers = predictor.answer_items(chosen, {"top_k": None})
    mix = Mix(source.stem if source else "short", tuple(chosen), tuple(subject.count(chosen)))
    return mix, Ledger([scores_of(answer) for answer in answers], predictor.engine.precision.tolerance)


def offline(
    subject: Subject, predictor: Predictor, address: Address, mix: Mix, ledger: Ledger, seconds: float
) -> dict[str, Any]:
    """Run the Offline scenario: all texts at once, 32 a request; beside it, the engine alone before and after."""
    lg = importlib.import_module("mlperf_loadgen")
    before = alone(subject, predictor, mix)
    ledger = Ledger(ledger.expected, ledger.tolerance)
    sut = Sut(Client(address), mix.texts, ledger, TEXTS_PER_REQUEST, 4)
    summary = sut.run(
        scenario=lg.TestScenario.Offline,
        offline_expected_qps=0.9 / before,
        min_duration_ms=int(seconds * 1000),
        min_query_count=1,
    )
    engine = (before + alone(subject, predictor, mix)) / 2
    rate = float(summary["Samples per second"])
    say(f"offline {subject.name} {predictor.engine.precision.name}: {rate:.1f} texts/s, {ledger.to_json()}")
    return {
        "model": subject.name,
        "mix": mix.name,
        "precision": predictor.engine.precision.name,
        "texts_per_request": TEXTS_PER_REQUEST,
        "texts_per_s": rate,
        "engine_texts_per_s": 1 / engine,
        "of_engine": rate * engine,
        "ledger": ledger.to_json(),
        "loadgen": summary,
    }


def alone(subject: Subject, predictor: Predictor, mix: Mix) -> float:
    """Return the seconds a text that the engine takes, batches of TorchServe's size."""
    times = []
    for start in range(0, min(len(mix.texts), 5 * TEXTS_PER_REQUEST), TEXTS_PER_REQUEST):
        encodings = subject.encode(mix.texts[start : start + TEXTS_PER_REQUEST])
        began = time.perf_counter()
        predictor.engine.run(encodings)
        times.append((time.perf_counter() - began) / len(encodings))
    return Sample(tuple(times)).median


def server(
    subject: Subject,
    predictor: Predictor,
    address: Address,
    mix: Mix,
    ledger: Ledger,
    seconds: float,
    offline_rate: float,
    bound_ms: float | None,
) -> dict[str, Any]:
    """Run the Server scenario at rising rates until the bound is broken twice; return every rate tried."""
    alone_ms, engine_ms = one_text(subject, predictor, address, mix)
    bound = bound_ms or max(50.0, 15 * alone_ms)
    ledger = Ledger(ledger.expected, ledger.tolerance)
    trials: list[dict[str, Any]] = []
    for step in STEPS:
        rate = step * offline_rate
        trials.append(trial(address, mix.texts, ledger, rate, bound, seconds))
        told = trials[-1]
        say(f"server {subject.name}: {rate:.1f}/s p99 {told['p99_ms']:.0f} ms of {bound:.0f} ms, {ledger.to_json()}")
        if sum(not one["valid"] for one in trials) == 2:
            break
    found = max((one["rate"] for one in trials if one["valid"]), default=0.0)
    return {
        "model": subject.name,
        "mix": mix.name,
        "precision": predictor.engine.precision.name,
        "bound_ms": bound,
        "found": found,
        "over_offline": found / offline_rate,
        "trials": trials,
        "alone_ms": alone_ms,
        "engine_alone_ms": engine_ms,
        "ledger": ledger.to_json(),
    }


def trial(
    address: Address, texts: Sequence[str], ledger: Ledger, rate: float, bound_ms: float, seconds: float
) -> dict[str, Any]:
    """Send one text a request at a mean rate, at Poisson-distributed times; return latencies in milliseconds."""
    lg = importlib.import_module("mlperf_loadgen")
    before = ledger.refused + ledger.failed
    summary = Sut(Client(address), texts, ledger, 1, IN_FLIGHT).run(
        scenario=lg.TestScenario.Server,
        server_target_qps=rate,
        server_target_latency_ns=int(bound_ms * 1e6),
        server_target_latency_percentile=0.99,
        min_duration_ms=int(seconds * 1000),
        min_query_count=1,
    )
    told = {name: float(summary[f"{part} percentile latency (ns)"]) / 1e6 for name, part in LATENCIES.items()}
    clean = ledger.refused + ledger.failed == before
    return {"rate": rate, **told, "valid": told["p99_ms"] <= bound_ms and clean, "loadgen": summary}


def one_text(subject: Subject, predictor: Predictor, address: Address, mix: Mix) -> tuple[float, float]:
    """Return the median milliseconds of one text alone over HTTP, and of the same by the engine, in turn."""
    client, over, bare = Client(address), [], []
    for text in mix.texts[:40]:
        began = time.perf_counter()
        client.ask([text])
        over.append((time.perf_counter() - began) * 1e3)
        began = time.perf_counter()
        predictor.engine.run(subject.encode([text]))
        bare.append((time.perf_counter() - began) * 1e3)
    return Sample(tuple(over)).median, Sample(tuple(bare)).median


def side_by_side(
    subject: Subject, ours: dict[str, Address], mix: Mix, ledgers: dict[str, Ledger], threads: int, seconds: float
) -> dict[str, Any]:
    """Load our server and LitServe in turn, three rounds; each connection sends one text after the other."""
    connections = 2 * TEXTS_PER_REQUEST
    latencies: dict[str, list[float]] = {}
    spent: dict[str, float] = {}
    with litserve(subject.model, threads, TEXTS_PER_REQUEST) as other:
        addresses = {**ours, "LitServe, pipeline fp32": other}
        counts = {name: Ledger(ledgers[name].expected, ledgers[name].tolerance) for name in addresses}
        for name, address in addresses.items():  # does not count
            closed_loop(Client(address), mix.texts, Ledger(counts[name].expected, 1), connections, seconds / 4)
        for _ in range(3):
            for name, address in addresses.items():
                times, took = closed_loop(Client(address), mix.texts, counts[name], connections, seconds)
                latencies[name] = [*latencies.get(name, []), *times]
                spent[name] = spent.get(name, 0) + took
    rows = []
    for name, times in latencies.items():
        rate = len(times) / spent[name]
        told = {f"p{part}_ms": 1e3 * quantile(times, part / 100) for part in (50, 99)}
        row = {"name": name, "ours": name in ours, "texts_per_s": rate, **told, "ledger": counts[name].to_json()}
        rows.append(row)
        say(f"http-peers {subject.name}: {name} {rate:.1f} texts/s, p99 {told['p99_ms']:.0f} ms, {row['ledger']}")
    return {"model": subject.name, "mix": mix.name, "connections": connections, "servers": rows}


def measure(subject: Subject, loaded: dict[str, Predictor], options: Any, results: dict[str, Any], keep: Keep) -> None:
    """Serve one model at its fastest precision (and, beside LitServe, in fp32), and run the parts asked for."""
    skipped, only = results["about"]["skipped"], options.only
    lacks = {part: machine.missing("loadgen") for part in ("offline", "server") if part in only}
    lacks |= {"http-peers": machine.missing("litserve")} if "http-peers" in only else {}
    skipped += [reason for reason in dict.fromkeys(lacks.values()) if reason and reason not in skipped]
    wanted = [part for part, reason in lacks.items() if not reason]
    if not wanted:
        return
    best = list(loaded)[-1]
    beside = ["fp32"] if "http-peers" in wanted and best != "fp32" and "fp32" in loaded else []
    archives = {precision: subject.pack(precision) for precision in [best, *beside]}
    mix, ledger = prepare(subject, loaded[best], options.lengths_from, options.seconds)
    with torchserve(archives[best]) as addresses:
        address = addresses[archives[best].stem]
        if "offline" in wanted or "server" in wanted:
            row = offline(subject, loaded[best], address, mix, ledger, options.seconds)
            results.setdefault("offline", []).append(row)
            keep(results)
            if "server" in wanted:
                rate, bound = row["texts_per_s"], options.p99_ms
                told = server(subject, loaded[best], address, mix, ledger, options.seconds, rate, bound)
                results.setdefault("server", []).append(told)
                keep(results)
    if "http-peers" in wanted:
        with torchserve(*archives.values()) as addresses:
            ours = {f"TorchServe, packed {name}": addresses[mar.stem] for name, mar in archives.items()}
            ledgers = {f"TorchServe, packed {best}": ledger}
            if beside:
                exact, tolerance = loaded["fp32"].answer_items(mix.texts, {"top_k": None}), 1e-3
                plain = Ledger([scores_of(answer) for answer in exact], tolerance)
                ledgers |= {"TorchServe, packed fp32": plain, "LitServe, pipeline fp32": plain}
            else:
                ledgers["LitServe, pipeline fp32"] = ledger
            told = side_by_side(subject, ours, mix, ledgers, options.threads, options.seconds)
            results.setdefault("http_peers", []).append(told)
            keep(results)
