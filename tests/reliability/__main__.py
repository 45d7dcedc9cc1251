"""Run the scenarios of docs/reliability.md on a real server: the long form of the reliability suite.

Serves a model by TorchServe or the standalone server on its own ports and in its own folder, runs load and faults
against it, and prints the table of scenarios with their figures; results.json in --output has all of them. Exit code 1:
an invariant is violated.
Everything together takes three hours, one of them the soak (L4); it needs a machine that does nothing else.
"""

from __future__ import annotations

from scripts.cli.command import run

import argparse
import json
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.cli.console import ROOT, ScriptError, say, table
from scripts.cli.options import names_of, path_name, positive_float, positive_int
from tests.reliability.result import ScenarioResult

N_TEXTS = 4000  # with expected answers
ALL = (*(f"L{number}" for number in range(1, 6)), *(f"F{number}" for number in range(1, 15)), "B1", "B2", "B3")


def main() -> int:
    """Run the scenarios of --only and report their results."""
    arguments = parser().parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and temporary folders are removed
    results: list[ScenarioResult] = []
    about: dict[str, Any] = {}
    for result in run_scenarios(arguments, about):
        results.append(result)
        say(f"{result.scenario}: {'holds' if result.holds else 'VIOLATED'}; {result.summary()}")
        save(arguments.output, about, results)  # a run that is interrupted keeps them
    table(["scenario", "procedure", "figures", "invariants"], [result.row() for result in results])
    say(f"wrote {arguments.output}/results.json")
    return 0 if all(result.holds for result in results) else 1


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.reliability", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=scenarios, default=ALL, metavar="L1,F3", help=f"of {', '.join(ALL)}")
    parser.add_argument(
        "--server", choices=("torchserve", "standalone"), default="torchserve", help="(default: torchserve)"
    )
    parser.add_argument(
        "--scale", type=positive_float, default=1, help="of all repeats and times but the soak (default: 1)"
    )
    parser.add_argument("--soak-minutes", type=positive_float, default=60, metavar="M", help="of L4 (default: 60)")
    parser.add_argument(
        "--model", type=path_name, metavar="DIR", help="to serve (default: models/intents, else a random one)"
    )
    parser.add_argument("--threads", type=positive_int, metavar="N", help="of the worker (default: the cores)")
    parser.add_argument(
        "--output", type=path_name, metavar="DIR", default=ROOT / "run" / "reliability", help="default: run/reliability"
    )
    return parser


def scenarios(word: str) -> tuple[str, ...]:
    """Read a comma-separated list of scenarios."""
    return names_of(word.upper(), ALL, "scenario")


def run_scenarios(arguments: argparse.Namespace, about: dict[str, Any]) -> Iterator[ScenarioResult]:
    """Yield the result of each scenario; an exception counts as a violated invariant."""
    import torch

    from scripts.benchmark import machine
    from scripts.benchmark.models import base_tokenizer
    from scripts.benchmark.synthetic import random_classifier
    from tests.reliability.plan import SCENARIOS, Suite, settings
    from tests.reliability.server import scenario_server

    about |= machine.about(torch.device("cpu")) | {
        "command": shlex.join(["python -m tests.reliability", *sys.argv[1:]])
    }
    with tempfile.TemporaryDirectory(prefix="reliability-") as scratch:
        tokenizer = base_tokenizer()
        small = tuple(random_classifier(Path(scratch) / str(width), 2, width, tokenizer) for width in (64, 128))
        model = arguments.model or ROOT / "models" / "intents"
        if not model.is_dir():
            raise ScriptError(f"no model at {model}: give a folder with --model, or run scripts/quickstart.sh first")
        with scenario_server(model, settings(arguments.threads), N_TEXTS, arguments.server) as server:
            suite = Suite(server, (small[0], small[1]), arguments.scale, arguments.soak_minutes)
            for scenario in SCENARIOS:
                if scenario in arguments.only:
                    try:
                        yield from SCENARIOS[scenario](suite)
                    except Exception as error:  # noqa: BLE001 - the other scenarios still run
                        yield ScenarioResult(
                            scenario, "raised an exception", {}, {f"{type(error).__name__}: {error}": False}
                        )
                    about |= {"capacity": suite.measured, "load_after": machine.load()}


def save(folder: Path, about: dict[str, Any], results: list[ScenarioResult]) -> None:
    """Write the results so far."""
    partial = folder / "results.partial"
    content = {"about": about, "scenarios": [result.to_json() for result in results]}
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(folder / "results.json")


if __name__ == "__main__":
    run(main)
