"""Ask two versions of a model the same questions: which answers change, how far scores move, how long each takes.

Every question goes to both versions, in turns first to one and first to the other. The report holds counts, numbers,
labels of the model and numbers of lines, never a question or an answer.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from handler.protocol import JSON
from scripts.cli.console import ScriptError, say, table
from scripts.client.http import Inference
from scripts.client.predictions import predicted_label, scores
from scripts.client.questions import read_questions
from scripts.client.server import Refused, Unavailable, UnknownModel
from scripts.operations.context import CommandContext
from scripts.operations.evaluations import labelled_shadow

MAX_LINES = 20  # numbers of lines in a report


@dataclass
class VersionComparison:
    """The answers of two versions so far: how many, how they differ, and how long they took."""

    name: str
    versions: tuple[str, str]  # the one that serves, the candidate
    n_questions: int = 0
    changed: list[int] = field(default_factory=list)  # numbers of questions with another prediction, from 1
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)  # of those: label before, label after
    drift: list[float] = field(default_factory=list)  # the largest change of a score, for each question
    ms: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    errors: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    only_candidate_failed: list[int] = field(default_factory=list)

    def add(self, answers: tuple[JSON, JSON]) -> None:
        """Compare two answers to the next question."""
        self.n_questions += 1
        failed = [isinstance(answer, FailedRequest) for answer in answers]
        for answer, errors in zip(answers, self.errors, strict=True):
            if isinstance(answer, FailedRequest):
                errors[answer.kind] += 1
        if any(failed):
            if not failed[0]:
                self.only_candidate_failed.append(self.n_questions)
            return
        before, after = map(predicted_label, answers)
        if before != after:
            self.changed.append(self.n_questions)
            if isinstance(before, str) and isinstance(after, str):
                self.labels[before, after] += 1
        old, new = (dict(scores(answer)) for answer in answers)
        self.drift.append(max((abs(old[key] - new[key]) for key in old.keys() & new.keys()), default=0))

    @property
    def is_worse(self) -> bool:
        """Whether the candidate answers any question otherwise, or not at all."""
        return bool(self.changed or self.only_candidate_failed)

    def report(self) -> dict[str, JSON]:
        """Return the comparison as JSON."""
        timed = zip(self.versions, self.ms, self.errors, strict=True)
        return {
            "model": self.name,
            "serving": self.versions[0],
            "candidate": self.versions[1],
            "questions": self.n_questions,
            "compared": len(self.drift),
            "flipped": len(self.changed),
            "flipped_lines": self.changed[:MAX_LINES],
            "flips": [{"from": a, "to": b, "count": count} for (a, b), count in self.labels.most_common()],
            "score_drift": {
                "mean": statistics.fmean(self.drift or [0]),
                "p95": quantile(self.drift, 0.95),
                "max": max(self.drift, default=0),
            },
            "versions": {
                version: {
                    "p50_ms": quantile(ms, 0.5),
                    "p95_ms": quantile(ms, 0.95),
                    "errors": dict(errors),
                }
                for version, ms, errors in timed
            },
            "failed_only_for_candidate": len(self.only_candidate_failed),
            "failed_only_for_candidate_lines": self.only_candidate_failed[:MAX_LINES],
        }


@dataclass(frozen=True)
class FailedRequest:
    """An error of this type in the place of an answer."""

    kind: str


def quantile(values: list[float], fraction: float) -> float:
    """Return a quantile, interpolated linearly; 0 without values."""
    return float(np.quantile(values or [0], fraction))


def compare(inference: Inference, name: str, versions: tuple[str, str], questions: Iterable[JSON]) -> VersionComparison:
    """Ask both versions every question."""
    comparison = VersionComparison(name, versions)
    for number, question in enumerate(questions):
        answers: list[JSON] = [None, None]
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            began = time.perf_counter()
            answers[index] = _ask(inference, name, versions[index], question)
            comparison.ms[index].append(1000 * (time.perf_counter() - began))
        comparison.add((answers[0], answers[1]))
    if not comparison.n_questions:
        raise ScriptError("there is no question in the input: one text a line, or --jsonl FILE")
    return comparison


def _ask(inference: Inference, name: str, version: str, question: JSON) -> JSON:
    try:
        return inference.predict(name, question, version=version)
    except UnknownModel:
        raise
    except Refused as refusal:
        return FailedRequest(refusal.kind)
    except Unavailable:
        return FailedRequest("Unavailable")


def table_of(comparison: VersionComparison) -> tuple[list[str], list[list[object]]]:
    """Return header and rows: one a version."""
    report = comparison.report()
    drift = report["score_drift"]
    rows: list[list[object]] = []
    for index, version in enumerate(comparison.versions):
        timed = report["versions"][version]
        row: list[object] = [version, f"{timed['p50_ms']:.1f}", f"{timed['p95_ms']:.1f}", sum(timed["errors"].values())]
        differences = [
            f"{len(comparison.changed)} of {len(comparison.drift)}",
            *(f"{drift[key]:.5f}" for key in ("mean", "p95", "max")),
        ]
        rows.append([*row, *(differences if index else ["", "", "", ""])])
    return ["version", "p50 ms", "p95 ms", "errors", "changed", "drift mean", "p95", "max"], rows


def shadow(context: CommandContext) -> int:
    """Ask the version that serves and a candidate the same questions, and report how their answers differ.

    The candidate is registered beside it (register). Exits with 1 when a prediction changed or only the candidate
    failed. The report has no text, only numbers of lines. With --data, a labelled file, both are evaluated on it
    instead: McNemar's test, calibration and slices of both; exits with 1 when the candidate is worse beyond chance.
    """
    arguments, management = context.arguments, context.management
    arguments.words = []
    versions = (arguments.serving or management.default_version(arguments.name), arguments.candidate)
    for version in versions:
        management.model(arguments.name, version)
    if arguments.data:
        return labelled_shadow(context, versions)
    comparison = compare(Inference(context.server), arguments.name, versions, read_questions(arguments)[0])
    if arguments.json:
        print(json.dumps(comparison.report(), indent=2, ensure_ascii=False))
    else:
        table(*table_of(comparison))
        for (before, after), count in comparison.labels.most_common(10):
            say(f"{count} from {before} to {after}")
        for what, lines in (
            ("changed", comparison.changed),
            ("only the candidate failed", comparison.only_candidate_failed),
        ):
            if lines:
                more = " ..." if len(lines) > MAX_LINES else ""
                say(f"{what}: lines {', '.join(map(str, lines[:MAX_LINES]))}{more}")
    return 1 if comparison.is_worse else 0
