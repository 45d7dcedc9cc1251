"""Calibrated scores of a task: served, judged by a confidence or a coverage, or raw on request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from handler.confidence import ScoreCalibration
from handler.errors import InvalidInput
from handler.protocol import JSON
from handler.tasks import parameters
from handler.tasks.parameters import Boolean, Parameter, Share
from handler.tasks.queries import Query

JUDGING = ("min_confidence", "coverage")  # parameters that judge calibrated scores

# Parameters of a task whose scores were calibrated; `Task.calibrated_parameters` says which of them a task has.
CALIBRATED_PARAMETERS: dict[str, Parameter] = {
    "raw": Boolean(default=False, description="whether to return scores as the model computes them, not calibrated"),
    "min_confidence": Share(description="calibrated score below which the answer is marked as abstained"),
    "coverage": Share(below_one=True, description="probability with which the set of labels holds the right one"),
}

CONFIDENCE_SCHEMA: JSON = {
    "type": "number",
    "description": "that min_confidence is compared with: chosen when the model was packed, to tell texts out of scope",
}


class ScoreJudge:
    """The part of a task that serves calibrated scores, once `calibrate` was called, and judges answers by them."""

    name: ClassVar[str]
    calibrated_parameters: ClassVar[tuple[str, ...]] = ()  # of CALIBRATED_PARAMETERS; empty: no score is a probability
    same_scores: ClassVar[tuple[str, ...]] = ()  # other tasks whose scores are those of this one

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.parameters: dict[str, Parameter] = {}
        self.calibration: ScoreCalibration | None = None

    def calibrate(self, calibration: ScoreCalibration) -> None:
        """Serve calibrated scores from now on, if they are those of this task, and accept their parameters."""
        if calibration.task in (self.name, *self.same_scores) and self.calibrated_parameters:
            self.calibration = calibration
            names = [name for name in self.calibrated_parameters if name != "coverage" or calibration.label_sets]
            self.parameters |= {name: CALIBRATED_PARAMETERS[name] for name in names}

    def judgements(self, query: Query, answer: JSON) -> list[tuple[str | None, float]]:
        """Return what an answer with calibrated scores says: a label, where labels are the model's, and its score.

        Empty where the scores of the answer are not calibrated.
        """
        return []

    def read_parameters(self, values: Mapping[str, JSON]) -> dict[str, Any]:
        """Return every parameter of the task, by default where `values` has none.

        Raises:
            InvalidInput: an unknown parameter, a value that is not valid, or a parameter of scores that are calibrated.
        """
        for name in self.calibrated_parameters:
            if name in values and name not in self.parameters:
                raise InvalidInput(
                    f"{name} needs calibrated scores, which this archive does not have for {self.name}: pack the "
                    "model with --calibrate-scores FILE"
                )
        read = parameters.read(self.parameters, values)
        judging = [name for name in JUDGING if read.get(name) is not None]
        if judging and read.get("raw"):
            raise InvalidInput(f"{judging[0]} is about calibrated scores: leave out raw, or {judging[0]}")
        return read

    def is_calibrated(self, query: Query, variant: str) -> bool:
        """Return whether the scores of an answer are calibrated ones.

        Args:
            query: whose parameters may ask for raw scores.
            variant: of the scores, by the parameters of the request.

        Raises:
            InvalidInput: raw scores are to be judged.
        """
        if self.calibration and variant in self.calibration.functions and not query.parameters.get("raw"):
            return True
        if judging := [name for name in JUDGING if query.parameters.get(name) is not None]:
            raise InvalidInput(
                f"{judging[0]} needs calibrated scores, which this archive has only for {self._variants()}"
            )
        return False

    def _variants(self) -> str:
        return ", ".join(self.calibration.functions) if self.calibration else "none"

    def calibrated(self, scores: NDArray[Any], query: Query, variant: str) -> NDArray[Any]:
        """Return the scores to serve: calibrated, where the archive can and the request does not ask for raw ones.

        Args:
            scores: after windows were merged, each from 0 to 1.
            query: as `is_calibrated`, with `variant`.
        """
        if self.calibration is None or not self.is_calibrated(query, variant):
            return scores
        return self.calibration.functions[variant](scores)

    def abstains(self, query: Query, confidence: float) -> dict[str, JSON]:
        """Return the field `abstained` of an answer, or of a part of one; nothing where no confidence is required."""
        least = query.parameters.get("min_confidence")
        return {} if least is None else {"abstained": bool(confidence < least)}

    def abstain_from_labels(
        self, query: Query, ranking: list[JSON], scores: NDArray[Any], confidence: float | None = None
    ) -> JSON:
        """Return the ranking of labels that exclude each other; an object that holds it where it is to be judged.

        Args:
            ranking: the best labels with their scores.
            scores: (labels,), of all labels.
            confidence: that decides on abstention and is said beside it; None: the best score decides.
        """
        judged = self.abstains(query, float(scores.max()) if confidence is None else confidence)
        if judged and confidence is not None:
            judged["confidence"] = confidence
        coverage = query.parameters.get("coverage")
        if coverage is not None and self.calibration and self.calibration.label_sets:
            chosen = self.calibration.label_sets.choose(self.labels, scores.tolist(), coverage)
            judged |= {"set": chosen or [self.labels[int(scores.argmax())]], "coverage": coverage}
        return {"ranking": ranking, **judged} if judged else ranking

    def abstain_from_each(self, query: Query, ranking: list[JSON], scores: NDArray[Any]) -> JSON:
        """Return a ranking of labels of which each is true or not; an object that holds it where it is to be judged.

        The absence of a label is as confident as 1 - its score. The answer abstains where any label does.

        Args:
            ranking: the best labels with their scores.
            scores: (labels,), of all labels.
        """
        judged = self.abstains(query, float(np.maximum(scores, 1 - scores).min()))
        if judged:
            ranking = [ranked | self.abstains(query, max(ranked["score"], 1 - ranked["score"])) for ranked in ranking]
        coverage = query.parameters.get("coverage")
        if coverage is not None and self.calibration and self.calibration.label_sets:
            chosen = self.calibration.label_sets.choose(self.labels, scores.tolist(), coverage)
            judged |= {"set": chosen, "coverage": coverage}
        return {"ranking": ranking, **judged} if judged else ranking

    def abstained_schema(self) -> dict[str, JSON]:
        """Describe the field `abstained` of a part of an answer; empty where scores are not calibrated."""
        description = "only with min_confidence: whether the score is less"
        return {"abstained": {"type": "boolean", "description": description}} if self.calibration else {}

    def answer_schema(self, answer: dict[str, JSON]) -> dict[str, JSON]:
        """Describe an answer that is a ranking, or an object that holds it where it is judged, as a JSON Schema."""
        if self.calibration is None:
            return answer
        judged = {
            "ranking": answer,
            "abstained": {"type": "boolean", "description": "whether it is less confident than min_confidence"},
            **({"confidence": CONFIDENCE_SCHEMA} if self.calibration.abstention else {}),
            "set": {"type": "array", "items": {"type": "string"}, "description": "holds the right label in `coverage`"},
            "coverage": {"type": "number"},
        }
        return {"oneOf": [answer, {"type": "object", "properties": judged, "required": ["ranking"]}]}
