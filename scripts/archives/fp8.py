"""Quantize a model to fp8 on a CPU and compare its answers: nothing has to be calibrated, but accuracy is measured.

No GPU is needed: a CPU multiplies the same numbers, slowly. A GPU differs only by the order of its sums.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from handler.config import ServingConfig
from handler.engine import fp8
from handler.loading import load_predictor
from handler.predictor import Predictor
from scripts.archives.calibration import Calibration
from scripts.archives.comparison import Comparison, compare
from scripts.archives.examples import examples_of
from scripts.cli.console import ScriptError
from scripts.readers.formats import TABLES
from scripts.readers.tables import read


def evaluate(folder: Path, config: ServingConfig, calibration: Calibration) -> tuple[Predictor, Comparison]:
    """Return a predictor in fp8 on this CPU, and how it answers the examples.

    Raises:
        ScriptError: a family without fp8, examples that the task refuses, or too low an accuracy.
    """
    exact, quantized = (load_predictor(folder, replace(config, precision="fp32")) for _ in "12")
    quantize(quantized)
    examples = examples_of(read(calibration.evaluation or calibration.examples, TABLES))
    comparison = replace(compare(exact, quantized, examples, 0), precision="fp8")
    comparison.require(calibration.min_accuracy_ratio)
    return quantized, comparison


def quantize(predictor: Predictor) -> None:
    """Quantize a predictor in fp32 on a CPU to fp8; raises ScriptError for a family without fp8."""
    model = predictor.engine.model
    if reason := fp8.unsupported_reason(model):
        raise ScriptError(f"a {type(model).__name__} has no fp8 ({reason}): pack it with --precision bf16")
    predictor.engine.with_gradients().quantize_to_fp8()
