"""A model in eight-bit floats: nothing has to be calibrated, but whether it answers as well has to be looked at.

The look needs no GPU: a CPU multiplies the same numbers, slowly. Beside that, a GPU differs by the order of its sums.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from handler.config import ServingConfig
from handler.engine import fp8
from handler.engine.encoder import encoder_name
from handler.engine.precision import FP8
from handler.loading import load_predictor
from handler.predictor import Predictor
from scripts.archives.calibration import Calibration, Report, compare, examples_of, hold
from scripts.cli.console import ScriptError
from scripts.readers.formats import TABLES
from scripts.readers.tables import read


def tried(folder: Path, config: ServingConfig, calibration: Calibration) -> tuple[Predictor, Report]:
    """Return a predictor in fp8 on this CPU, and how it answers the examples.

    Raises:
        ScriptError: a family that has no fp8, examples that are no questions of the task, or answers too different.
    """
    exact, rounded = (load_predictor(folder, replace(config, precision="fp32")) for _ in "12")
    round_off(rounded)
    asked = examples_of(read(calibration.evaluation or calibration.examples, TABLES))
    report = replace(compare(exact, rounded, asked, 0), precision="fp8")
    hold(report, calibration.least_ratio)
    return rounded, report


def round_off(predictor: Predictor) -> None:
    """Round a predictor in fp32 on a CPU to fp8; raises ScriptError for a family that has none."""
    model = predictor.engine.model
    if reason := fp8.refusal(getattr(model.base_model, encoder_name(model.base_model) or "", model)):
        raise ScriptError(f"a {type(model).__name__} has no fp8 ({reason}): pack it with --precision bf16")
    fp8.install(model)
    predictor.engine.precision = FP8
