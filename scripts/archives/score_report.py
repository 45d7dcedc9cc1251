"""What was measured of a calibration, as lines for the console and the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from handler.confidence import ScoreCalibration, ScoreFunction
from handler.protocol import JSON
from scripts.archives import score_fit
from scripts.archives.score_fit import Numbers
from scripts.archives.scored_answers import ScoredAnswers
from scripts.evaluation.calibration import expected_calibration_error

BY = {"calibrated": "the calibrated confidence", "raw": "the raw confidence", "energy": "the energy"}
COVERAGES = (0.9, 0.95)  # that are held against held-out examples


def measures(answers: ScoredAnswers, calibrated: Numbers) -> JSON:
    measured: dict[str, JSON] = {"decisions": len(answers.confidences)}
    for name, scores in (("before", answers.scores), ("after", calibrated)):
        confidences, hits = answers.decisions(scores)
        measured[name] = {
            "ece": round(expected_calibration_error(confidences, hits), 5),
            "ece_equal_mass": round(expected_calibration_error(confidences, hits, equal_mass=True), 5),
            "brier": round(answers.brier(scores), 5),
            "mean_confidence": round(float(confidences.mean()), 5),
        }
    measured["accuracy"] = round(float(answers.decisions(calibrated)[1].mean()), 5)
    return measured


def truths_of(answers: ScoredAnswers) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    if answers.is_exclusive:
        return np.eye(answers.scores.shape[1], dtype=bool)[answers.targets.astype(np.intp)]
    return answers.targets >= 0.5


def coverage_report(
    labels: Sequence[str], calibrated: Numbers, truths: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
) -> JSON:
    seen: dict[str, JSON] = {}
    for coverage in COVERAGES:
        by_label, size = score_fit.observed_coverage(labels, calibrated, truths, coverage)
        n, n_covered = (sum(getattr(covered, name) for covered in by_label.values()) for name in ("n", "n_covered"))
        seen[f"{coverage:g}"] = {
            "overall": round(n_covered / n, 5) if n else None,
            "mean_set_size": round(size, 3),
            "labels": {
                label: {"examples": covered.n, "covered": round(covered.share, 5)}
                for label, covered in by_label.items()
                if covered.n
            },
        }
    return seen


def report_lines(calibration: ScoreCalibration) -> list[str]:
    """Return the lines for the console and the model card, without a text."""
    report = calibration.report
    file = report["file"]
    lines = [f"- scores calibrated on {file['examples']} examples of {file['name']} (SHA-256 {file['sha256']})"]
    for variant, measured in report["scores"].items():
        before, after = measured["before"], measured["after"]
        lines.append(
            f"- {variant}: ECE {before['ece']:.4f} -> {after['ece']:.4f} (15 bins; of equal mass "
            f"{before['ece_equal_mass']:.4f} -> {after['ece_equal_mass']:.4f}), Brier {before['brier']:.4f} -> "
            f"{after['brier']:.4f}, {_function_line(calibration.functions[variant])}"
        )
    for coverage, seen in report.get("coverage", {}).items():
        lines.append(
            f"- label sets with coverage {coverage}: {seen['overall']:.4f} seen on held-out examples, "
            f"{seen['mean_set_size']:.2f} labels a set"
        )
    if outside := report.get("out_of_scope"):
        others = ""
        if "auroc_energy" in outside:
            others = f", of the raw one {outside['auroc_raw']:.4f}, of the energy {outside['auroc_energy']:.4f}"
        lines.append(
            f"- out of scope ({outside['examples']} texts of {outside['name']}): AUROC of the calibrated confidence "
            f"{outside['auroc']:.4f}{others}; answers abstain by {BY[outside['abstain_by']]}, and min_confidence "
            f"{outside['min_confidence']:g} refuses "
            f"{outside['refused_out_of_scope']:.1%} of them and {outside['refused_in_scope']:.1%} of the others"
        )
    return lines


def card_section(by_precision: Mapping[str, ScoreCalibration]) -> list[str]:
    """Return a section of the model card: measures of each precision, and the coverage seen by label."""
    lines = ["## Calibration of the scores", ""]
    for precision, calibration in by_precision.items():
        lines += ([f"In {precision}:", ""] if len(by_precision) > 1 else []) + [*report_lines(calibration), ""]
        coverages = calibration.report.get("coverage", {})
        if not coverages:
            continue
        lines += [f"| label | examples | {' | '.join(f'covered at {coverage}' for coverage in coverages)} |"]
        lines += ["|---|---|" + "---|" * len(coverages)]
        first = next(iter(coverages.values()))["labels"]
        for label, row in first.items():
            cells = " | ".join(f"{seen['labels'][label]['covered']:.3f}" for seen in coverages.values())
            lines.append(f"| {label.replace('|', chr(92) + '|')} | {row['examples']} | {cells} |")
        lines.append("")
    return lines


def _function_line(function: ScoreFunction) -> str:
    parameters = function.to_json()
    if "temperature" in parameters:
        return f"temperature {parameters['temperature']:.4g}"
    if len(parameters["slopes"]) == 1:
        return f"slope {parameters['slopes'][0]:.4g}, intercept {parameters['intercepts'][0]:.4g}"
    return f"a line for each of {len(parameters['slopes'])} labels"
