#!/usr/bin/env python3
"""Measure how fast a model is served, against the machine's roofline and other implementations.

Writes results.json (machine, versions, command, every single time), report.md and figures into --output. Everything
that is compared is interleaved in one process or against servers that this script starts, so that a busy machine slows
all alike; docs/benchmarks.md says how to read it.
"""

from __future__ import annotations

from scripts.cli.command import run

import argparse
import os
import signal
import sys
from contextlib import ExitStack

from scripts.benchmark.texts import MIXES
from scripts.cli.console import ROOT, say
from scripts.cli.options import names_of, natural_float, path_name, positive_float, positive_int, torch_device

PARTS = ("engine", "scaling", "peers", "offline", "server", "http-peers", "training")
PRECISIONS = ("fp32", "bf16", "fp16", "int8", "fp8")

# Waiting threads must not spin, as in scripts/serve.sh; OpenMP reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main() -> int:
    """Measure the parts of --only and write the results."""
    arguments = parser().parse_args()
    from scripts.benchmark import report
    from scripts.benchmark.tables import read_results

    if arguments.render:
        results = read_results(arguments.render, "about")
        report.write(results, arguments.output or arguments.render.parent)
        return 0
    arguments.output = arguments.output or ROOT / "run" / "bench"
    arguments.output.mkdir(parents=True, exist_ok=True)
    from scripts.benchmark.suites import measure

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and temporary folders are removed
    with ExitStack() as stack:
        results = measure(arguments, stack, lambda partial: report.save(partial, arguments.output))
    report.write(results, arguments.output)
    for reason in results["about"]["skipped"]:
        say(reason)
    loads = [*results.get("offline", []), *results.get("server", [])]
    loads += [server for row in results.get("http_peers", []) for server in [*row["servers"], *row.get("overload", [])]]
    return 1 if any(row["ledger"]["wrong"] for row in loads) else 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of this script's command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=parts, default=PARTS, metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="MODEL",
        help="folders, .mar archives or random:[FAMILY:]LAYERSxWIDTH (default: models/intents and random:12x768)",
    )
    parser.add_argument(
        "--mixes",
        type=mixes,
        default=MIXES,
        metavar="NAME,...",
        help=f"of one, few, {', '.join(MIXES)} (default: {','.join(MIXES)})",
    )
    parser.add_argument(
        "--lengths-from", type=path_name, metavar="CSV", help="texts of this file instead of the examples'"
    )
    parser.add_argument(
        "--precisions", type=precisions, metavar="NAME,...", help="default: all that the machine and the model support"
    )
    parser.add_argument(
        "--padded", action="store_true", help="measure the modules of transformers on padded batches beside the engine"
    )
    parser.add_argument("--device", type=torch_device, default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument(
        "--threads", type=positive_int, metavar="N", help="of PyTorch and of the peers (default: the cores)"
    )
    parser.add_argument(
        "--seconds", type=natural_float, default=10, metavar="S", help="of one comparison (default: 10)"
    )
    parser.add_argument(
        "--p99-ms",
        type=positive_float,
        metavar="MS",
        help="latency bound of the Server scenario (default: 15 times one text alone)",
    )
    parser.add_argument(
        "--against",
        type=path_name,
        metavar="CHECKOUT",
        help="only compare this build with another commit's, set up in its own folder: engine, answers, start, memory "
        "(--only engine) and training (--only training; models are then what is fine-tuned, by default models/base)",
    )
    parser.add_argument("--output", type=path_name, metavar="DIR", help="where to write (default: run/bench)")
    parser.add_argument(
        "--render", type=path_name, metavar="JSON", help="only write report and figures of these results"
    )
    return parser


def parts(word: str) -> tuple[str, ...]:
    """Read a comma-separated list of parts."""
    return names_of(word, PARTS, "part")


def mixes(word: str) -> tuple[str, ...]:
    """Read a comma-separated list of distributions of lengths."""
    return names_of(word, ("one", "few", *MIXES), "distribution of lengths")


def precisions(word: str) -> tuple[str, ...]:
    """Read a comma-separated list of precisions."""
    return names_of(word, PRECISIONS, "precision")


if __name__ == "__main__":
    run(main)
