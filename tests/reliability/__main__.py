"""Hold the promises of docs/reliability.md against a real server: the long form of the reliability suite.

Serves a model on ports and in a folder of its own, breaks it in every way that the table of promises names, and prints
the table with the figures it saw; results.json in --output has all of them. Exit code 1: a promise was broken.
Everything together takes two hours, half of them the soak (L4); it needs a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.cli.console import ROOT, ScriptError, run, say, table
from tests.reliability.result import Verdict

N_TEXTS = 4000  # with answers known beforehand
ALL = ("L1", "L2", "L3", "L4", "F1", "F2", "F3", "F4", "F5", "F6", "F7", "B1", "B2", "B3")


def main() -> int:
    """Run what was asked for, and tell what came of it."""
    arguments = parser().parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers and folders of ours are cleared away then, too
    found: list[Verdict] = []
    facts: dict[str, Any] = {}
    for verdict in verdicts(arguments, facts):
        found.append(verdict)
        say(f"{verdict.promise}: {'kept' if verdict.kept else 'BROKEN'}; {verdict.figures()}")
        save(arguments.output, facts, found)  # a run that is cut short keeps it
    table(["promise", "what was done", "seen", "kept"], [verdict.row() for verdict in found])
    say(f"wrote {arguments.output}/results.json")
    return 0 if all(verdict.kept for verdict in found) else 1


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.reliability", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=promises, default=ALL, metavar="L1,F3", help=f"of {', '.join(ALL)}")
    parser.add_argument("--scale", type=float, default=1, help="of all repeats and times but the soak (default: 1)")
    parser.add_argument("--soak-minutes", type=float, default=60, metavar="M", help="of L4 (default: 60)")
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="to serve (default: models/intents, else a random one)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of the worker (default: the cores)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", default=ROOT / "run" / "reliability", help="default: run/reliability"
    )
    return parser


def promises(word: str) -> tuple[str, ...]:
    """Read a list of promises."""
    asked = tuple(name.strip().upper() for name in word.split(",") if name.strip())
    if unknown := [name for name in asked if name not in ALL]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is no promise; there are {', '.join(ALL)}")
    return asked


def verdicts(arguments: argparse.Namespace, facts: dict[str, Any]) -> Iterator[Verdict]:
    """Yield what each scenario finds; one that does not come to its end is a broken promise, too."""
    import torch

    from scripts.benchmark.machine import about, load
    from scripts.benchmark.models import base_tokenizer
    from scripts.benchmark.synthetic import random_bert
    from tests.reliability.plan import SCENARIOS, Suite, settings
    from tests.reliability.stage import stage

    facts |= about(torch.device("cpu")) | {"command": shlex.join(["python -m tests.reliability", *sys.argv[1:]])}
    with tempfile.TemporaryDirectory(prefix="reliability-") as scratch:
        words = base_tokenizer()
        small = (random_bert(Path(scratch) / "1", 2, 64, words), random_bert(Path(scratch) / "2", 2, 128, words))
        model = arguments.model or ROOT / "models" / "intents"
        if not model.is_dir():
            raise ScriptError(f"no model at {model}: give a folder with --model, or run scripts/quickstart.sh first")
        with stage(model, settings(arguments.threads), N_TEXTS) as staged:
            suite = Suite(staged, small, arguments.scale, arguments.soak_minutes)
            for promise in SCENARIOS:
                if promise in arguments.only:
                    try:
                        yield from SCENARIOS[promise](suite)
                    except Exception as error:  # noqa: BLE001 - the others are still to be looked at
                        yield Verdict(
                            promise, "did not come to its end", {}, {f"{type(error).__name__}: {error}": False}
                        )
                    facts |= {"capacity": suite.found, "load_after": load()}


def save(folder: Path, facts: dict[str, Any], found: list[Verdict]) -> None:
    """Write what there is so far."""
    partial = folder / "results.partial"
    partial.write_text(json.dumps({"about": facts, "verdicts": [one.to_json() for one in found]}, indent=1) + "\n")
    partial.replace(folder / "results.json")


if __name__ == "__main__":
    run(main)
