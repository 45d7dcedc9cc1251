"""Ask every example, and judge the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scripts.client.answers import is_error
from scripts.evaluation.answering import Asker
from scripts.evaluation.tasks.base import EvaluationTask, Located, ModelQuestion, Outcome


@dataclass(frozen=True)
class JudgedExample:
    """An example, its place among the examples that were asked, and what the answer is worth."""

    position: int
    located: Located[Any]
    outcome: Outcome


@dataclass(frozen=True)
class Unanswered:
    """The rows that got an error in the place of an answer, and how many of each kind."""

    rows: list[int]
    kinds: Counter[str]


def judge(
    asker: Asker, task: EvaluationTask[Any], examples: Sequence[Located[Any]], title: str, *, brief: bool = False
) -> tuple[list[JudgedExample], Unanswered]:
    """Ask every example; return what was answered, and what was not.

    With `brief` outcomes have the right score and prediction, but not the losses and scores of all labels.
    """
    extra = {**(task.brief if brief else {}), **asker.model.parameters_for(task.served_as)}
    questions = [
        [ModelQuestion(question.item, {**question.parameters, **extra}) for question in task.questions(item.example)]
        for item in examples
    ]
    answers = iter(asker.ask([question for group in questions for question in group], title))
    judged: list[JudgedExample] = []
    unanswered = Unanswered([], Counter())
    for position, (item, group) in enumerate(zip(examples, questions, strict=True)):
        given = [next(answers) for _ in group]
        if errors := [answer["error"] for answer in given if is_error(answer)]:
            unanswered.rows.append(item.row)
            unanswered.kinds[str(errors[0].get("type"))] += 1
        else:
            judged.append(JudgedExample(position, item, task.outcome(item.example, given)))
    return judged, unanswered
