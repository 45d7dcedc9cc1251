"""The self-test: a loaded model answers its golden inputs as it did when the archive was built."""

from __future__ import annotations

import bisect
import statistics

from handler.archive import Golden
from handler.errors import GoldenMismatch, RequestError
from handler.predictor import Predictor
from handler.protocol import JSON
from handler.tasks import Task


def check_golden(predictor: Predictor, golden: Golden) -> None:
    """Answer the golden inputs; raises GoldenMismatch if answers differ beyond the precision's tolerances."""
    precision = predictor.engine.precision
    gain = predictor.calibration.gain if predictor.calibration else 1.0
    tolerance = precision.tolerance * gain
    try:
        answers = predictor.answer_items(golden.items, golden.parameters)
        pairs = list(zip(golden.answers, answers, strict=True))
        different = [i for i, pair in enumerate(pairs) if not predictor.task.answers_match(*pair, tolerance)]
    except (RequestError, TypeError, KeyError, AttributeError) as error:
        raise GoldenMismatch(f"the golden questions cannot be answered ({error}): pack again") from error
    if different:
        raise GoldenMismatch(
            f"golden question {different[0]} is answered differently from when the archive was built "
            f"({precision.name}, tolerance {tolerance:g}): the weights, a library or the hardware "
            "differ; pack again on this machine and compare, or choose another precision"
        )
    if precision.mean_tolerance is None:
        return
    mean_error = statistics.fmean(error_of(predictor.task, *pair) for pair in pairs)
    mean_tolerance = precision.mean_tolerance * gain
    if mean_error > mean_tolerance:
        raise GoldenMismatch(
            f"the golden questions are answered differently from when the archive was built (mean error "
            f"{mean_error:.3f} in {precision.name}, tolerance {mean_tolerance:g}): the weights, a library or "
            "the hardware differ; pack again on this machine and compare, or choose another precision"
        )


def error_of(task: Task, expected: JSON, answer: JSON) -> float:
    """Return the smallest tolerance, to a thousandth, at which two answers match; 1.0 if they match at none below."""
    tolerances = [step / 1000 for step in range(1, 1001)]
    index = bisect.bisect_left(tolerances, True, key=lambda tolerance: task.answers_match(expected, answer, tolerance))
    return tolerances[min(index, len(tolerances) - 1)]
