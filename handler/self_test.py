"""The self-test: a loaded model answers its golden inputs as it did when the archive was built."""

from __future__ import annotations

from handler.archive import Golden
from handler.errors import GoldenMismatch, RequestError
from handler.predictor import Predictor


def check_golden(predictor: Predictor, golden: Golden) -> None:
    """Answer the golden inputs; raises GoldenMismatch if an answer differs beyond the precision's tolerance."""
    precision = predictor.engine.precision
    try:
        answers = predictor.answer_items(golden.items, golden.parameters)
        pairs = zip(golden.answers, answers, strict=True)
        different = [i for i, pair in enumerate(pairs) if not predictor.task.answers_match(*pair, precision.tolerance)]
    except (RequestError, TypeError, KeyError, AttributeError) as error:
        raise GoldenMismatch(f"the golden questions cannot be answered ({error}): pack again") from error
    if different:
        raise GoldenMismatch(
            f"golden question {different[0]} is answered differently from when the archive was built "
            f"({precision.name}, tolerance {precision.tolerance:g}): the weights, a library or the hardware "
            "differ; pack again on this machine and compare, or choose another precision"
        )
