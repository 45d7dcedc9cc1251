"""How well scores tell texts that no label fits from the others, and the confidence by which answers abstain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np

from handler.confidence import ABSTENTION_SCORES, AbstentionScore, ScoreFunction
from handler.predictor import Predictor
from handler.protocol import JSON
from scripts.archives import score_fit
from scripts.archives.examples import ColumnOptions
from scripts.archives.labelled import LabelledFile, read_items
from scripts.archives.score_fit import Numbers
from scripts.archives.scored_answers import ScoredAnswers, raw_answers, vectors
from scripts.cli.console import ScriptError

AbstainBy: TypeAlias = Literal["calibrated", "raw", "energy", "auto"]
ABSTAIN_BY: tuple[AbstainBy, ...] = get_args(AbstainBy)
KEPT_IN_SCOPE = 0.95  # by the suggested min_confidence


@dataclass(frozen=True)
class ScopeScores:
    """The scores by which texts of the calibration file and texts out of scope might be told apart.

    inside: (examples,) and outside: (texts,) by the name of the score; higher in scope. is_right: (examples,), 0 or 1.
    folds: (examples,).
    """

    name: str
    inside: dict[str, Numbers]
    outside: dict[str, Numbers]
    is_right: Numbers
    folds: np.ndarray[tuple[int, ...], np.dtype[np.intp]]

    @classmethod
    def of(
        cls,
        predictor: Predictor,
        file: LabelledFile,
        out_of_scope: Path,
        options: ColumnOptions,
        answers: ScoredAnswers,
        calibrated: Numbers,
        function: ScoreFunction,
    ) -> ScopeScores:
        """Answer the texts of a file that no label fits, and both files for their logits.

        Args:
            options: the columns of that file.
            answers: the raw scores of the calibration file, labels that exclude each other.
            calibrated: the same, calibrated out of fold.
            function: of all folds.
        """
        task = predictor.task
        items = read_items(out_of_scope, task, options)
        every: dict[str, JSON] = {"top_k": None} if "top_k" in task.parameters else {}
        raw = vectors(raw_answers(predictor, items, every), task.labels)
        inside, outside = {"calibrated": calibrated.max(-1)}, {"calibrated": function(raw).max(-1)}
        if "function_to_apply" in task.parameters:
            questions = [*(example.item for example in file.items), *items]
            logits = vectors(raw_answers(predictor, questions, every | {"function_to_apply": "none"}), task.labels)
            n_inside = len(file.items)
            for kind, score in ABSTENTION_SCORES.items():
                inside[kind] = score(answers.scores, logits[:n_inside])
                outside[kind] = score(raw, logits[n_inside:])
        return cls(out_of_scope.name, inside, outside, answers.decisions(answers.scores)[1], answers.folds)

    def auroc(self, kind: str) -> float:
        """Return the probability that a text in scope has a higher score than one out of scope."""
        from sklearn.metrics import roc_auc_score

        inside, outside = self.inside[kind], self.outside[kind]
        return float(roc_auc_score(np.r_[np.ones(len(inside)), np.zeros(len(outside))], np.r_[inside, outside]))

    def report(self, abstain_by: AbstainBy) -> tuple[JSON, AbstentionScore | None]:
        """Return what is reported, and the score that `min_confidence` is compared with; None: the calibrated one.

        Raises:
            ScriptError: a task that has no such score.
        """
        areas = {kind: self.auroc(kind) for kind in self.inside}
        kind = max(areas, key=lambda name: areas[name]) if abstain_by == "auto" else abstain_by
        if kind not in areas:
            raise ScriptError(f"--abstain-by {kind} is for text-classification with labels that exclude each other")
        inside, outside, score = self.inside[kind], self.outside[kind], None
        if kind != "calibrated":
            slope, intercept = score_fit.fit_line(*self._decisions(kind, np.full(len(inside), True)))
            if slope <= 0:
                raise ScriptError(f"--abstain-by {kind}: answers with higher values are not right more often")
            score = AbstentionScore(kind, slope, intercept)
            inside, outside = self._out_of_fold(kind), _sigmoid(slope * outside + intercept)
        threshold = float(np.quantile(inside, 1 - KEPT_IN_SCOPE))
        return {
            "name": self.name,
            "examples": len(outside),
            "abstain_by": kind,
            "auroc": round(areas["calibrated"], 5),
            **{f"auroc_{name}": round(area, 5) for name, area in areas.items() if name != "calibrated"},
            "min_confidence": round(threshold, 4),  # which keeps 95 % of the texts in scope
            "refused_in_scope": round(float((inside < threshold).mean()), 5),
            "refused_out_of_scope": round(float((outside < threshold).mean()), 5),
        }, score

    def _decisions(self, kind: str, chosen: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> tuple[Numbers, Numbers]:
        """Return values and targets of a line: an answer to a text out of scope is never right."""
        values = np.r_[self.inside[kind][chosen], self.outside[kind]]
        return values, np.r_[self.is_right[chosen], np.zeros(len(self.outside[kind]))]

    def _out_of_fold(self, kind: str) -> Numbers:
        """Return the confidence of each example by a line that was fitted without its fold."""
        confidences = np.empty(len(self.is_right))
        for fold in np.unique(self.folds):
            slope, intercept = score_fit.fit_line(*self._decisions(kind, self.folds != fold))
            held_out = self.folds == fold
            confidences[held_out] = _sigmoid(slope * self.inside[kind][held_out] + intercept)
        return confidences


def _sigmoid(values: Numbers) -> Numbers:
    confidences: Numbers = 1 / (1 + np.exp(-values))
    return confidences
