"""Evaluations of a candidate against the version that serves, on labelled data, for `promote` and `shadow`.

The package scripts/evaluation is imported when one is asked for: it needs requirements/train.txt, which a machine that
only serves does not have.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from handler.protocol import JSON
from scripts.cli.console import ScriptError, say, table
from scripts.cli.options import path_name, positive_int
from scripts.evaluation.settings import PROBLEMS, defaults
from scripts.operations.context import CommandContext

SIGNIFICANT = 0.05  # p-value of McNemar's test
MAX_SLICES = 5  # printed


def add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name labelled examples, and where the report goes."""
    group = parser.add_argument_group("evaluation on labelled examples, as by scripts/evaluate.py")
    group.add_argument("--data", type=path_name, metavar="FILE", help="labelled examples that the model has not seen")
    group.add_argument("--problem", choices=["auto", *PROBLEMS], default="auto", help="default: what the model is for")
    group.add_argument("--text-column", metavar="COLUMN")
    group.add_argument("--label-column", metavar="COLUMN")
    group.add_argument("--limit", type=positive_int, metavar="N", help="a sample of so many examples")
    group.add_argument(
        "--evaluation-output", type=path_name, metavar="DIR", help="of the report (default: evaluation/NAME-VERSION)"
    )


def evaluation_gate(context: CommandContext) -> Callable[[str, str], None] | None:
    """Return the check that --gate names: it raises ScriptError where a version does not keep the limits."""
    arguments = context.arguments
    if not arguments.gate:
        if arguments.data:
            raise ScriptError("--data without --gate would have no effect: name the limits with --gate FILE")
        return None
    if not arguments.data:
        raise ScriptError("--gate needs labelled examples: --data FILE")
    require_libraries()
    from scripts.evaluation.gate import read_gate
    from scripts.evaluation.run import run

    read_gate(arguments.gate)  # a file with a mistake is refused before anything is registered

    def check(old: str, version: str) -> None:
        settings = candidate_settings(arguments, version, old)
        if not run(settings):
            report = settings.output / "report.html"
            raise ScriptError(f"{arguments.name} {version} does not keep the limits of {arguments.gate}: {report}")

    return check


def candidate_settings(arguments: argparse.Namespace, candidate: str, serving: str) -> argparse.Namespace:
    """Return the settings of an evaluation of a candidate against the version that serves."""
    output = arguments.evaluation_output or Path("evaluation") / f"{arguments.name}-{candidate}"
    shared = {key: value for key, value in vars(arguments).items() if key in vars(defaults())}
    server = {"config": arguments.config, "run_dir": arguments.run_dir}
    gate = getattr(arguments, "gate", None)
    chosen = {"model": arguments.name, "version": candidate, "against": serving, "output": output, "gate": gate}
    return defaults(**{**shared, **server, **chosen})


def labelled_shadow(context: CommandContext, versions: tuple[str, str]) -> int:
    """Evaluate two versions on labelled examples and print how they differ; return 1 where the candidate is worse."""
    require_libraries()
    from scripts.evaluation.models import open_model
    from scripts.evaluation.output import without_nan
    from scripts.evaluation.run import evaluate

    settings = candidate_settings(context.arguments, versions[1], versions[0])
    settings.output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        report, _ = evaluate(settings, open_model(settings, stack), stack)
    compared = without_nan(report["against"])
    if context.arguments.json:
        print(json.dumps(compared, indent=2, ensure_ascii=False))
    else:
        print_comparison(compared, report, versions)
    return 1 if is_worse(compared) else 0


def is_worse(compared: dict[str, JSON]) -> bool:
    """Return whether the candidate's score is lower beyond chance: by McNemar's test, else by the interval."""
    if "mcnemar" in compared:
        return bool(compared["difference"]["value"] < 0 and compared["mcnemar"]["p_value"] < SIGNIFICANT)
    return bool(compared["difference"]["upper"] < 0)


def print_comparison(compared: dict[str, JSON], report: dict[str, JSON], versions: tuple[str, str]) -> None:
    """Print the metrics and the calibration of both, McNemar's test, and the slices that got worst."""
    rows = [
        [report["metrics"][key]["title"], f"{compared['metrics']['other'][key]:.4f}", f"{value:.4f}"]
        for key, value in compared["metrics"]["model"].items()
    ]
    if all(compared["calibration"]):
        rows.append(["calibration error (ECE)", *(f"{item['ece']:.4f}" for item in reversed(compared["calibration"]))])
    table(["", *versions], rows)
    changed = compared["changed_predictions"]["value"]
    say(f"{changed:.1%} of {compared['examples']} predictions change")
    if test := compared.get("mcnemar"):
        say(
            f"only {versions[1]} is right on {test['only_first']}, only {versions[0]} on {test['only_second']}: "
            f"McNemar's p = {test['p_value']:.3g}"
        )
    for row in compared["slices"][:MAX_SLICES]:
        if row["difference"] < 0:
            chance = "worse" if row["worse"] else "may be chance"
            scores = f"{row['other']:.3f} to {row['model']:.3f}"
            say(f"{row['feature']} {row['value']}: {scores} of {row['support']}, {chance}")


def require_libraries() -> None:
    """Refuse an evaluation where the libraries of training are not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise ScriptError("an evaluation needs scikit-learn: pip install -r requirements/train.txt")
