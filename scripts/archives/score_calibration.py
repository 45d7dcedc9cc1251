"""Calibrate the scores of a model on labelled examples, answered as they are served: windows merged, int8 as int8.

Nothing of a text is kept: an archive gets the fitted functions, the nonconformity of right labels, histograms of inputs
and answers, and what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from handler.confidence import LabelSets, ScoreCalibration, ScoreFunction
from handler.predictor import Predictor
from handler.protocol import JSON
from scripts.archives import score_fit
from scripts.archives.drift_reference import reference_of
from scripts.archives.labelled import read_items, read_labelled
from scripts.archives.score_fit import Numbers
from scripts.archives.score_report import coverage_report, measures, report_lines, truths_of
from scripts.archives.scored_answers import raw_answers, scored_answers, vectors
from scripts.cli.console import ScriptError, say

MIN_EXAMPLES = 20
FEW_EXAMPLES = 100  # below which a note is printed


@dataclass(frozen=True)
class ScoreExamples:
    """The files of `--calibrate-scores` and `--out-of-scope`."""

    file: Path
    out_of_scope: Path | None = None
    label_column: str | None = None


def calibrate_scores(predictor: Predictor, examples: ScoreExamples) -> ScoreCalibration:
    """Return the calibration of a predictor's scores, and serve calibrated scores with it from now on.

    Raises:
        ScriptError: a task without such scores, examples that are not of the task, or scores that say nothing.
    """
    task = predictor.task
    file = read_labelled(examples.file, task, examples.label_column)
    if len(file.items) < MIN_EXAMPLES:
        raise ScriptError(
            f"{file.name}: {len(file.items)} examples; a calibration needs {MIN_EXAMPLES}, better hundreds"
        )
    say(f"calibrating the scores on {len(file.items)} examples ({predictor.engine.precision.name})")
    if len(file.items) < FEW_EXAMPLES:
        say(f"note: {len(file.items)} examples are few: several hundred that the model has not seen are better")
    functions: dict[str, ScoreFunction] = {}
    report: dict[str, JSON] = {"file": {"name": file.name, "sha256": file.sha256, "examples": len(file.items)}}
    measured: dict[str, JSON] = {}
    sets: LabelSets | None = None
    accuracy = float("nan")
    for variant, answers in scored_answers(predictor, file):
        function = answers.fit(answers.scores, answers.targets)
        if not score_fit.is_informative(function):
            if not functions:
                raise ScriptError(
                    f"{file.name}: answers with higher scores are not right more often: give more examples, and look "
                    "at whether their labels are those of the model"
                )
            say(f"note: not calibrated for {variant}: there, answers with higher scores are not right more often")
            continue
        functions[variant] = function
        calibrated = score_fit.out_of_fold(answers.fit, answers.scores, answers.targets, answers.folds)
        measured[variant] = measures(answers, calibrated)
        if not len(measured) > 1:
            accuracy = float(answers.decisions(calibrated)[1].mean())
        if "coverage" in task.calibrated_parameters:
            truths = truths_of(answers)
            sets = score_fit.nonconformity(task.labels, calibrated, truths)
            report["coverage"] = coverage_report(task.labels, calibrated, truths)
        if examples.out_of_scope and answers.is_exclusive and "coverage" in task.calibrated_parameters:
            items = [example.item for example in file.items]
            inside = calibrated.max(-1)
            report["out_of_scope"] = _out_of_scope(predictor, examples.out_of_scope, functions[variant], inside, items)
    if examples.out_of_scope and "out_of_scope" not in report:
        raise ScriptError("--out-of-scope is for models with labels that exclude each other")
    report["scores"] = measured
    calibration = ScoreCalibration(task.name, functions, sets, None, report)
    predictor.calibrate(calibration)
    reference = reference_of(predictor, file, accuracy)
    calibration = ScoreCalibration(task.name, functions, sets, reference, report)
    predictor.calibrate(calibration)
    say("\n".join(report_lines(calibration)))
    return calibration


def _out_of_scope(
    predictor: Predictor, path: Path, function: ScoreFunction, inside: Numbers, in_scope: Sequence[JSON]
) -> JSON:
    """Return how well the confidence, and the energy, tell texts that no label fits from those of the calibration file.

    The energy of a text is -log(sum(exp(logits))) (Liu et al. 2020, "Energy-based Out-of-distribution Detection").

    Args:
        inside: (examples,), the confidence of the answers to `in_scope`, out of fold.
    """
    from sklearn.metrics import roc_auc_score

    task = predictor.task
    items = read_items(path, task)
    all_labels: dict[str, JSON] = {"top_k": None} if "top_k" in task.parameters else {}
    outside = function(vectors(raw_answers(predictor, items, all_labels), task.labels)).max(-1)
    is_inside = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    threshold = float(np.quantile(inside, 0.05))
    report = {"auroc": float(roc_auc_score(is_inside, np.r_[inside, outside]))}
    if "function_to_apply" in task.parameters:
        logits = all_labels | {"function_to_apply": "none"}
        scores = vectors(raw_answers(predictor, [*in_scope, *items], logits), task.labels)
        highest = scores.max(-1)
        negative_energy = highest + np.log(np.exp(scores - highest[:, None]).sum(-1))
        report["auroc_energy"] = float(roc_auc_score(is_inside, negative_energy))
    return {
        "name": path.name,
        "examples": len(items),
        **{name: round(value, 5) for name, value in report.items()},
        "min_confidence": round(threshold, 4),  # which keeps 95 % of the texts in scope
        "refused_in_scope": round(float((inside < threshold).mean()), 5),
        "refused_out_of_scope": round(float((outside < threshold).mean()), 5),
    }
