"""The gate: limits of a YAML file that a report must keep. A limit that was not measured is not kept.

score: 0.85                # at least: the main metric of the task (accuracy, F1, NDCG, ...)
metrics: {macro_f1: 0.8}   # at least; at most for metrics where lower is better (nll, brier, mae, ...)
ece: 0.05                  # at most: the calibration error with bins of equal width
worst_slice: 0.6           # at least: the score of the worst slice that is weak beyond chance
fairness_gap: 0.1          # at most: between groups of a column of --groups, where it is beyond chance
kept_accuracy: 0.9         # at least: of the most harmful perturbation, after / before
unanswered: 0              # at most: examples that got an error (0 without a line here)
p99_ms: 50                 # at most: of requests of one text
changed_predictions: 0.1   # at most: against the other model
accuracy_drop: 0.01        # at most: against the other model
regression: 0.05           # refused: fewer right answers than the other model, with a p-value below this
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from handler.protocol import JSON
from scripts.cli.console import ScriptError


@dataclass(frozen=True)
class GateCheck:
    """One limit, what was measured, and whether it is kept."""

    name: str
    limit: float
    measured: float | None
    passed: bool
    rule: str  # "at least", "at most"

    def line(self) -> str:
        """Return it as one line."""
        measured = "was not measured" if self.measured is None else f"is {self.measured:.4g}"
        return f"{'passed' if self.passed else 'FAILED'}: {self.name} {measured}, {self.rule} {self.limit:g}"

    def to_json(self) -> dict[str, JSON]:
        """Return it as JSON."""
        return {
            "name": self.name,
            "limit": self.limit,
            "measured": self.measured,
            "passed": self.passed,
            "rule": self.rule,
        }


def read_gate(path: Path) -> dict[str, JSON]:
    """Return the limits of a file; raises ScriptError for one that means nothing."""
    try:
        limits = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ScriptError(f"{path} is no YAML file") from None
    if not isinstance(limits, dict) or not limits:
        raise ScriptError(f"{path}: a line for each limit is needed, e.g. score: 0.85")
    for name, value in limits.items():
        if name != "metrics" and name not in MEASURES:
            raise ScriptError(f"{path}: {name} is no limit; there are {', '.join([*MEASURES, 'metrics'])}")
        if name == "metrics" and not (isinstance(value, dict) and all(map(is_limit, value.values()))):
            raise ScriptError(f"{path}: metrics needs a number for each metric, e.g. {{macro_f1: 0.8}}")
        if name != "metrics" and not is_limit(value):
            raise ScriptError(f"{path}: {name} needs a number")
    return limits


def is_limit(value: object) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def checks(limits: Mapping[str, JSON], report: Mapping[str, JSON]) -> list[GateCheck]:
    """Hold a report against limits."""
    made = []
    for name, limit in {"unanswered": 0, **limits}.items():
        if name == "metrics":
            for metric, bound in limit.items():
                described: Mapping[str, Any] = report["metrics"].get(metric) or {}
                lower = bool(described.get("lower_is_better"))
                made.append(check(f"metrics.{metric}", float(bound), described.get("value"), at_most=lower))
        else:
            at_most, measure = MEASURES[name]
            if name == "score":
                at_most = bool(report["metrics"][report["main_metric"]]["lower_is_better"])
            made.append(check(name, float(limit), measure(report, float(limit)), at_most=at_most))
    return made


def check(name: str, limit: float, measured: float | None, *, at_most: bool) -> GateCheck:
    """Compare a number with its limit."""
    passed = measured is not None and (measured <= limit if at_most else measured >= limit)
    return GateCheck(name, limit, measured, passed, "at most" if at_most else "at least")


Measured = Callable[[Mapping[str, Any], float], "float | None"]


def worst_slice(report: Mapping[str, Any], _: float) -> float | None:
    """Return the score of the worst slice that is weak beyond chance; 1 where none is."""
    weak = [row["score"]["value"] for row in report.get("slices") or () if row["weak"]]
    return min(weak, default=1.0) if report.get("slices") is not None else None


def fairness_gap(report: Mapping[str, Any], _: float) -> float | None:
    """Return the largest gap between groups that is beyond chance; 0 where none is."""
    columns = (report.get("fairness") or {}).get("columns")
    if not columns:
        return None
    return max((row["gap"]["value"] for row in columns if row["q_value"] < 0.05), default=0.0)


def kept_accuracy(report: Mapping[str, Any], _: float) -> float | None:
    """Return the smallest kept accuracy of a perturbation."""
    values = [
        row["kept"]["value"] for row in report.get("robustness") or () if row.get("kept", {}).get("value") is not None
    ]
    return min(values, default=None)


def against(key: str) -> Measured:
    """Return a function that reads a measure of the comparison."""
    return lambda report, _: ((report.get("against") or {}).get(key) or {}).get("value")


def accuracy_drop(report: Mapping[str, Any], _: float) -> float | None:
    """Return by how much the mean score is below that of the other model."""
    value = against("difference")(report, 0.0)
    return None if value is None else 0.0 - value  # -0 would be printed of equal models


def regression(report: Mapping[str, Any], limit: float) -> float | None:
    """Return the p-value of "right as often as the other model" where the model is worse; 1 where it is not."""
    compared = report.get("against")
    if not compared or "mcnemar" not in compared:
        return None
    return float(compared["mcnemar"]["p_value"]) if compared["difference"]["value"] < 0 else max(1.0, limit)


# name -> (whether the measure must be at most the limit, the measure)
MEASURES: dict[str, tuple[bool, Measured]] = {
    "score": (False, lambda report, _: report["metrics"][report["main_metric"]]["value"]),
    "ece": (True, lambda report, _: (report.get("calibration") or {}).get("ece", {}).get("value")),
    "worst_slice": (False, worst_slice),
    "fairness_gap": (True, fairness_gap),
    "kept_accuracy": (False, kept_accuracy),
    "unanswered": (True, lambda report, _: float(report["unanswered"]["count"])),
    "p99_ms": (True, lambda report, _: (report.get("cost") or {}).get("p99_ms")),
    "changed_predictions": (True, against("changed_predictions")),
    "accuracy_drop": (True, accuracy_drop),
    "regression": (False, regression),
}
