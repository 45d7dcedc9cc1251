"""Answers from a context, by answerability, with the two metrics of SQuAD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from handler.protocol import JSON
from scripts.evaluation.statistics import Columns, mean_interval
from scripts.evaluation.tasks.base import EvaluationTask, ModelQuestion, Outcome, TextEdit, answer_error
from scripts.training.tasks.question_answering import QuestionExample
from scripts.training.tasks.squad import exact_match, f1, normalised


class AnswerEvaluation(EvaluationTask[QuestionExample]):
    """The part of a context that answers a question; none where the data has unanswerable questions."""

    title = "Answers"
    unit_name = "questions"
    served_as = "question-answering"
    metric_titles: ClassVar = {"exact_match": "exact match", "f1": "F1", "answerability": "none or some, right"}
    main_metric = "f1"
    score_title = "exact match"

    def __init__(self, labels: Sequence[str], *, may_be_none: bool) -> None:
        super().__init__(labels)
        self.parameters = {"handle_impossible_answer": True} if may_be_none else {}

    def questions(self, example: QuestionExample) -> list[ModelQuestion]:
        return [ModelQuestion({"question": example.question, "context": example.context}, self.parameters)]

    def texts(self, example: QuestionExample) -> tuple[str, ...]:
        return (example.question, example.context)

    def edited(self, example: QuestionExample, edit: TextEdit) -> QuestionExample | None:
        return replace(example, question=edit(example.question))

    def outcome(self, example: QuestionExample, answers: Sequence[JSON]) -> Outcome:
        (answer,) = answers
        if not (isinstance(answer, dict) and "start" in answer):
            raise answer_error(answer, "a part of the context")
        start, end = answer["start"], answer["end"]
        text = example.context[start:end]
        targets = [target for _, target in example.answers if normalised(target)] or [""]
        exact = max(exact_match(text, target) for target in targets)
        overlap = max(f1(text, target) for target in targets)
        spans = [f"characters {at}-{at + len(target)}" for at, target in example.answers]
        return Outcome(
            exact,
            {
                "exact": exact,
                "f1": overlap,
                "answerable": float(bool(example.answers)),
                "answered": float(bool(text.strip())),
            },
            spans[0] if spans else "none",
            f"characters {start}-{end}" if text.strip() else "none",
            [float(answer["score"])],
            [exact],
        )

    def measure(self, columns: Columns) -> dict[str, float]:
        return {
            "exact_match": float(columns["exact"].mean()),
            "f1": float(columns["f1"].mean()),
            "answerability": float((columns["answerable"] == columns["answered"]).mean()),
        }

    def details(self, outcomes: Sequence[Outcome]) -> dict[str, JSON]:
        kinds = {"with an answer": 1.0, "without an answer": 0.0}
        rows = []
        for name, flag in kinds.items():
            group = [outcome.columns for outcome in outcomes if outcome.columns["answerable"] == flag]
            if group:
                rows.append(
                    {
                        "label": name,
                        "support": len(group),
                        "exact_match": mean_interval([columns["exact"] for columns in group]).to_json(),
                        "f1": float(np.mean([columns["f1"] for columns in group])),
                        "answered": float(np.mean([columns["answered"] for columns in group])),
                    }
                )
        return {"labels": rows}
