"""Two versions of a model asked the same questions: which answers change, how far scores move, how long each takes.

Every question goes to both, one after the other, in turns first to one and first to the other. What is told holds
counts, numbers, labels of the model and numbers of lines, never a question or an answer.
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
from scripts.client.predictions import scores, verdict
from scripts.client.questions import read_questions
from scripts.client.server import Refused, Unavailable, UnknownModel
from scripts.operations.commands import Call

SHOWN = 20  # numbers of lines


@dataclass
class Comparison:
    """What was found so far."""

    name: str
    versions: tuple[str, str]  # the one that serves, the candidate
    n_questions: int = 0
    flipped: list[int] = field(default_factory=list)  # numbers of questions, from 1
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)  # of those that flipped
    drift: list[float] = field(default_factory=list)  # of each question, the score that moved most
    ms: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    errors: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    only_candidate_failed: list[int] = field(default_factory=list)

    def add(self, answers: tuple[JSON, JSON]) -> None:
        """Compare two answers to the next question."""
        self.n_questions += 1
        failed = [isinstance(answer, Failure) for answer in answers]
        for answer, counted in zip(answers, self.errors, strict=True):
            if isinstance(answer, Failure):
                counted[answer.kind] += 1
        if any(failed):
            if not failed[0]:
                self.only_candidate_failed.append(self.n_questions)
            return
        before, after = map(verdict, answers)
        if before != after:
            self.flipped.append(self.n_questions)
            if isinstance(before, str) and isinstance(after, str):
                self.labels[before, after] += 1
        moved = [dict(scores(answer)) for answer in answers]
        self.drift.append(
            max((abs(moved[0][at] - moved[1][at]) for at in moved[0].keys() & moved[1].keys()), default=0)
        )

    @property
    def worse(self) -> bool:
        """Whether the candidate answers any question otherwise, or not at all."""
        return bool(self.flipped or self.only_candidate_failed)

    def report(self) -> dict[str, JSON]:
        """Return all of it as JSON."""
        timed = zip(self.versions, self.ms, self.errors, strict=True)
        return {
            "model": self.name,
            "serving": self.versions[0],
            "candidate": self.versions[1],
            "questions": self.n_questions,
            "compared": len(self.drift),
            "flipped": len(self.flipped),
            "flipped_lines": self.flipped[:SHOWN],
            "flips": [{"from": a, "to": b, "count": count} for (a, b), count in self.labels.most_common()],
            "score_drift": {
                "mean": statistics.fmean(self.drift or [0]),
                "p95": float(np.quantile(self.drift or [0], 0.95)),
                "max": max(self.drift, default=0),
            },
            "versions": {
                version: {
                    "p50_ms": float(np.quantile(ms or [0], 0.5)),
                    "p95_ms": float(np.quantile(ms or [0], 0.95)),
                    "errors": dict(errors),
                }
                for version, ms, errors in timed
            },
            "failed_only_for_candidate": len(self.only_candidate_failed),
            "failed_only_for_candidate_lines": self.only_candidate_failed[:SHOWN],
        }


@dataclass(frozen=True)
class Failure:
    """No answer, but an error of this kind."""

    kind: str


def compare(inference: Inference, name: str, versions: tuple[str, str], questions: Iterable[JSON]) -> Comparison:
    """Ask both versions every question."""
    found = Comparison(name, versions)
    for number, question in enumerate(questions):
        answers: list[JSON] = [None, None]
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            began = time.perf_counter()
            answers[which] = _ask(inference, name, versions[which], question)
            found.ms[which].append(1000 * (time.perf_counter() - began))
        found.add((answers[0], answers[1]))
    if not found.n_questions:
        raise ScriptError("there is no question in the input: one text a line, or --jsonl FILE")
    return found


def _ask(inference: Inference, name: str, version: str, question: JSON) -> JSON:
    try:
        return inference.predict(name, question, version=version)
    except UnknownModel:
        raise
    except Refused as refusal:
        return Failure(refusal.kind)
    except Unavailable:
        return Failure("Unavailable")


def table_of(found: Comparison) -> tuple[list[str], list[list[object]]]:
    """Return header and rows: one a version."""
    report = found.report()
    drift = report["score_drift"]
    rows: list[list[object]] = []
    for index, version in enumerate(found.versions):
        timed = report["versions"][version]
        row: list[object] = [version, f"{timed['p50_ms']:.1f}", f"{timed['p95_ms']:.1f}", sum(timed["errors"].values())]
        moved = [
            f"{len(found.flipped)} of {len(found.drift)}",
            *(f"{drift[key]:.5f}" for key in ("mean", "p95", "max")),
        ]
        rows.append([*row, *(moved if index else ["", "", "", ""])])
    return ["version", "p50 ms", "p95 ms", "errors", "flipped", "drift mean", "p95", "max"], rows


def mirror(call: Call) -> int:
    """Ask the version that serves and a candidate the same questions, and tell how their answers differ.

    The candidate is registered beside it (register). Exits with 1 when a best label changed or only the candidate
    failed. No text is told, only numbers of lines.
    """
    asked = call.arguments
    asked.words = []
    versions = (asked.serving or call.management.default_version(asked.name), asked.candidate)
    for version in versions:
        call.management.model(asked.name, version)
    found = compare(Inference(call.server), asked.name, versions, read_questions(asked)[0])
    if asked.json:
        print(json.dumps(found.report(), indent=2, ensure_ascii=False))
    else:
        table(*table_of(found))
        for (before, after), count in found.labels.most_common(10):
            say(f"{count} from {before} to {after}")
        for told, lines in (("flipped", found.flipped), ("only the candidate failed", found.only_candidate_failed)):
            if lines:
                say(f"{told}: lines {', '.join(map(str, lines[:SHOWN]))}{' ...' * (len(lines) > SHOWN)}")
    return 1 if found.worse else 0
