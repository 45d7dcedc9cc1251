#!/usr/bin/env python3
"""Measure the engine on an NVIDIA GPU: speed against its matrix multiply and against transformers, latency, agreement.

Needs PyTorch and transformers, nothing else: weights are random, the tokenizer is synthetic. Writes results.json and
report.md into --output and ends in --minutes. Run it from the repository: python -m scripts.bench_gpu
"""

from __future__ import annotations

from scripts.cli.command import require, run

import argparse
from pathlib import Path

from scripts.benchmark import gpu_report, gpu_suite
from scripts.benchmark.gpu_suite import PARTS
from scripts.benchmark.tables import read_results
from scripts.cli.options import device_name, names_of, path_name, positive_float


def main() -> int:
    """Measure the parts of --only and write the results."""
    arguments = parser().parse_args()
    if arguments.render:
        results = read_results(arguments.render, "models")
        gpu_report.write(results, arguments.output or arguments.render.parent)
        return 0
    require("torch")  # rather than in each of the processes that measure
    output = arguments.output or Path("run") / "bench-gpu"
    output.mkdir(parents=True, exist_ok=True)
    results = gpu_suite.measure(
        arguments.only, arguments.minutes, arguments.device, output, lambda partial: gpu_report.write(partial, output)
    )
    print((output / "report.md").read_text(encoding="utf-8"))
    return 0 if results["models"] or "workers" in results else 1


def parser() -> argparse.ArgumentParser:
    """Return the parser of this script's command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=parts, default=PARTS, metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--minutes", type=positive_float, default=7.5, metavar="M", help="of all (default: %(default)s)"
    )
    parser.add_argument("--device", type=device_name, default="cuda:0", help="default: %(default)s")
    parser.add_argument("--output", type=path_name, metavar="DIR", help="where to write (default: run/bench-gpu)")
    parser.add_argument("--render", type=path_name, metavar="JSON", help="only write the report of these results")
    return parser


def parts(word: str) -> tuple[str, ...]:
    """Read a comma-separated list of parts."""
    return names_of(word, PARTS, "part")


if __name__ == "__main__":
    run(main)
