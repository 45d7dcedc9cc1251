#!/usr/bin/env python3
"""Find workers, threads, batch size, delay, queue and token budget for a model, its texts and a latency target.

Measures the engine on this machine for about a minute, with texts of realistic lengths, and computes the settings from
that (scripts/benchmark/tuning.py has the model); --check then compares the result with a live server. Writes a
model-config.yaml with the reason of every setting, for scripts/package.py --config.
"""

from __future__ import annotations

from scripts.cli.command import run

import argparse
import os
import signal
import sys
from contextlib import ExitStack

from scripts.cli.console import say
from scripts.cli.files import check_output, write_whole
from scripts.cli.options import natural_float, path_name, positive_float

# Waiting threads must not spin, as in scripts/serve.sh; OpenMP reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main() -> None:
    """Measure, decide, write, and check where --check is given."""
    arguments = parser().parse_args()
    check_output(arguments.output, arguments.texts)
    import torch

    from handler.config import ModelConfig, usable_cores
    from scripts.benchmark import capacity, machine, tuning
    from scripts.benchmark.models import benchmark_model

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and temporary folders are removed
    torch.set_num_threads(usable_cores())
    with ExitStack() as stack:
        model = benchmark_model(arguments.model, stack)
        if arguments.check:
            capacity.require_check(model)
        precision = arguments.precision or model.config.handler.precision
        measurements, texts = capacity.measure(model, precision, arguments.texts, arguments.seconds)
        decision = tuning.decide(measurements, arguments.p99_ms, model.config)
        about = machine.about(torch.device("cpu"))
        head = [
            f"{model.name} for a 99th percentile of {arguments.p99_ms:g} ms: written by scripts/tune.py,",
            f"{about['date']}, on {about['device']}, {about['cores']} cores, torch {about['versions']['torch']}.",
            f"Lengths: {arguments.texts.name if arguments.texts else 'the examples'}, mean "
            f"{measurements.mean_tokens:.1f} tokens, standard deviation {measurements.sd_tokens:.1f}.",
            f"Expected to carry {decision.plan.rate:.0f} texts a second, one a request, until the target breaks.",
        ]
        if arguments.check:
            head.append(capacity.check(model, decision, texts, arguments.p99_ms, arguments.seconds))
        write_whole(arguments.output, tuning.to_yaml(decision, head))
        ModelConfig.read(arguments.output)  # package.py must be able to read it
    for line in head:
        say(line)
    say(f"wrote {arguments.output}: scripts/package.py --config {arguments.output} packs it")


def parser() -> argparse.ArgumentParser:
    """Return the parser of this script's command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="a model folder, a .mar archive or random:LAYERSxWIDTH")
    parser.add_argument(
        "--texts", type=path_name, metavar="CSV", help="a sample of real texts (default: the examples')"
    )
    parser.add_argument(
        "--p99-ms", type=positive_float, required=True, metavar="MS", help="target: 99 of 100 answers within this"
    )
    parser.add_argument("--precision", help="fp32, bf16, ... (default: what the archive or model-config.yaml says)")
    parser.add_argument("--seconds", type=natural_float, default=8, metavar="S", help="of one measurement (default: 8)")
    parser.add_argument(
        "--check", action="store_true", help="send 0.8 of the expected rate to a live server and report its p99"
    )
    parser.add_argument(
        "--output", type=path_name, required=True, metavar="FILE", help="the model-config.yaml to write"
    )
    return parser


if __name__ == "__main__":
    run(main)
