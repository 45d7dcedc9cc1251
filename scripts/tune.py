#!/usr/bin/env python3
"""Find workers, threads, batch size, delay, queue and token budget for a model, its texts and a bound of latency.

Measures the engine on this machine for about a minute, with texts of the lengths that it will get, and reasons from
there (scripts/benchmark/tuning.py says how); --check then holds the result against a live server. Writes a
model-config.yaml with every reason beside its setting, for scripts/package.py --config.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.cli.console import ScriptError, run, say

if TYPE_CHECKING:
    from scripts.benchmark.models import Subject
    from scripts.benchmark.tuning import Decision, Measured

# Threads that wait must not spin, as scripts/serve.sh says; OpenMP reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

BATCHES = (1, 2, 4, 8, 16, 32, 64)
BUDGETS = (128, 256, 512, 1024, 2048)


def main() -> None:
    """Measure, decide, write, and check if asked to."""
    arguments = parser().parse_args()
    import torch

    from handler.config import ModelConfig, usable_cores
    from scripts.benchmark import machine, tuning
    from scripts.benchmark.models import subject

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers and folders of ours are cleared away then, too
    torch.set_num_threads(usable_cores())
    with ExitStack() as stack:
        model = subject(arguments.model, stack)
        precision = arguments.precision or model.config.handler.precision
        measured, texts = measure(model, precision, arguments.texts, arguments.seconds)
        decision = tuning.decide(measured, arguments.p99_ms, model.config)
        facts = machine.about(torch.device("cpu"))
        head = [
            f"{model.name} for a 99th percentile of {arguments.p99_ms:g} ms: written by scripts/tune.py,",
            f"{facts['date']}, on {facts['device']}, {facts['cores']} cores, torch {facts['versions']['torch']}.",
            f"Lengths: {arguments.texts.name if arguments.texts else 'the examples'}, mean {measured.mean_tokens:.1f} "
            f"tokens, standard deviation {measured.sd_tokens:.1f}.",
            f"Expected to carry {decision.plan.rate:.0f} texts a second, one a request, until the target breaks.",
        ]
        if arguments.check:
            head.append(check(model, decision, texts, arguments.p99_ms, arguments.seconds))
        arguments.output.write_text(tuning.to_yaml(decision, head), encoding="utf-8")
        ModelConfig.read(arguments.output)  # what was written is what package.py will read
    for line in head:
        say(line)
    say(f"wrote {arguments.output}: scripts/package.py --config {arguments.output} packs it")


def parser() -> argparse.ArgumentParser:
    """Return the parser of this script's command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="a model folder, a .mar archive or random:LAYERSxWIDTH")
    parser.add_argument("--texts", type=Path, metavar="CSV", help="a sample of real texts (default: the examples')")
    parser.add_argument("--p99-ms", type=float, required=True, metavar="MS", help="99 of 100 answers within this")
    parser.add_argument("--precision", help="fp32, bf16, ... (default: what the archive or model-config.yaml says)")
    parser.add_argument("--seconds", type=float, default=8, metavar="S", help="of one measurement (default: 8)")
    parser.add_argument("--check", action="store_true", help="send the expected rate to a live server and tell its p99")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the model-config.yaml to write")
    return parser


def measure(subject: Subject, precision: str, source: Path | None, seconds: float) -> tuple[Measured, list[str]]:
    """Measure batches, token budgets and numbers of workers with texts drawn as they come."""
    import torch

    from scripts.benchmark import scaling, tuning
    from scripts.benchmark.measure import Run, interleave
    from scripts.benchmark.texts import SOURCES, read_texts, short_texts

    texts = read_texts(source) if source else read_texts(*SOURCES)
    drawn = short_texts(texts, min(len(texts), 256))
    if len(drawn) < max(BATCHES):
        raise ScriptError(f"{source} has {len(drawn)} different texts; at least {max(BATCHES)} are needed")
    encodings = subject.encode(drawn)
    lengths = [len(encoding) for encoding in encodings]
    device, threads = torch.device("cpu"), torch.get_num_threads()
    predictor = subject.load(precision, device)
    engine = predictor.engine
    say(f"measuring {subject.name} in {engine.precision.name} with texts of {statistics.mean(lengths):.1f} tokens")
    # Batches of mean tokens: a slice of the sorted lengths, spread over all of them.
    ordered = sorted(encodings, key=len)
    slices = {n: [ordered[int((place + 0.5) * len(ordered) / n)] for place in range(n)] for n in BATCHES}
    runs: dict[str, Run] = {str(n): partial(engine.run, its) for n, its in slices.items()}
    batches = interleave(runs, device, seconds)
    runs = {str(n): partial(scaling.with_budget, predictor, n, encodings[:128]) for n in BUDGETS}
    budgets = interleave(runs, device, seconds, least=3)
    tokens = sum(lengths[:128])
    fleets = []
    for workers in scaling.steps_to(threads):
        told = scaling.fleet(subject, precision, workers, threads, slices[32], seconds / 2)
        fleets.append((workers, float(told["tokens_per_s"])))
    measured = tuning.Measured(
        precision=engine.precision.name,
        cores=threads,
        mean_tokens=statistics.mean(lengths),
        sd_tokens=statistics.pstdev(lengths),
        batches=[(n, batches[str(n)].median) for n in BATCHES],
        budgets=[(n, tokens / budgets[str(n)].median) for n in BUDGETS],
        fleets=fleets,
    )
    return measured, drawn


def check(subject: Subject, decision: Decision, texts: list[str], target_ms: float, seconds: float) -> str:
    """Serve the model with the settings, send it 0.8 of the rate expected, and say what came of it."""
    import torch

    from handler.engine.weights import holds_floats
    from scripts.benchmark import load, machine
    from scripts.benchmark.accounting import Ledger, scores_of
    from scripts.benchmark.service import torchserve

    lacking = machine.missing("loadgen")
    if lacking:
        return f"Not checked against a server: {lacking}"
    precision = decision.config.handler.precision
    if not holds_floats(subject.model):
        return f"Not checked against a server: {subject.name} has weights in int8 alone, and cannot be packed again"
    predictor = subject.load(precision, torch.device("cpu"))
    answers = predictor.answer_items(texts, {"top_k": None})
    ledger = Ledger([scores_of(answer) for answer in answers], predictor.engine.precision.tolerance)
    config = replace(decision.config, frontend=replace(decision.config.frontend, jobQueueSize=1000))
    mar = subject.pack(precision, config)
    with torchserve(mar) as addresses:
        rate = 0.8 * decision.plan.rate
        load.trial(addresses[mar.stem], texts, ledger, rate / 2, target_ms, max(seconds, 5))  # Java is slow at first
        trial = load.trial(addresses[mar.stem], texts, ledger, rate, target_ms, max(seconds, 10))
    kept = "kept" if trial["p99_ms"] <= target_ms else "broken"
    return (
        f"Checked with a live server at {rate:.0f} texts a second: p50 {trial['p50_ms']:.0f} ms, p99 "
        f"{trial['p99_ms']:.0f} ms, target {kept}; {ledger.to_json()}"
    )


if __name__ == "__main__":
    run(main)
