"""Calibrate the scores of a model on labelled examples, answered as they are served: windows merged, int8 as int8.

Nothing of a text is kept: an archive gets the fitted functions, the nonconformity of right labels, histograms of inputs
and answers, and what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from handler.confidence import AbstentionScore, LabelSets, ScoreCalibration, ScoreFunction
from handler.predictor import Predictor
from handler.protocol import JSON
from scripts.archives import score_fit
from scripts.archives.drift_reference import reference_of
from scripts.archives.examples import DEFAULT_COLUMNS, ColumnOptions
from scripts.archives.labelled import read_labelled
from scripts.archives.scope_scores import AbstainBy, ScopeScores
from scripts.archives.score_report import coverage_report, measures, report_lines, truths_of
from scripts.archives.scored_answers import scored_answers
from scripts.cli.console import ScriptError, say

MIN_EXAMPLES = 20
FEW_EXAMPLES = 100  # below which a note is printed


@dataclass(frozen=True)
class ScoreExamples:
    """The files of `--calibrate-scores` and `--out-of-scope`, and what `min_confidence` shall be compared with."""

    file: Path
    out_of_scope: Path | None = None
    columns: ColumnOptions = DEFAULT_COLUMNS
    abstain_by: AbstainBy = "calibrated"


def calibrate_scores(predictor: Predictor, examples: ScoreExamples) -> ScoreCalibration:
    """Return the calibration of a predictor's scores, and serve calibrated scores with it from now on.

    Raises:
        ScriptError: a task without such scores, examples that are not of the task, or scores that say nothing.
    """
    task = predictor.task
    file = read_labelled(examples.file, task, examples.columns)
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
    abstention: AbstentionScore | None = None
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
            scored = ScopeScores.of(
                predictor, file, examples.out_of_scope, examples.columns, answers, calibrated, function
            )
            report["out_of_scope"], abstention = scored.report(examples.abstain_by)
    if examples.out_of_scope and "out_of_scope" not in report:
        raise ScriptError("--out-of-scope is for models with labels that exclude each other")
    report["scores"] = measured
    calibration = ScoreCalibration(task.name, functions, sets, None, report, abstention)
    predictor.calibrate(calibration)
    calibration = replace(calibration, reference=reference_of(predictor, file, accuracy))
    predictor.calibrate(calibration)
    say("\n".join(report_lines(calibration)))
    return calibration
