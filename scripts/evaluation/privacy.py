"""Privacy: how well a model's confidence tells what it was trained on, and personal data in the files, by kind.

Membership inference by loss: Yeom et al. 2018, "Privacy Risk in Machine Learning". An AUC of 0.5 tells nothing; the
higher, the more the model remembers its training examples.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from handler.protocol import JSON
from scripts.evaluation.answering import Asker
from scripts.evaluation.judging import JudgedExample, judge
from scripts.evaluation.statistics import auroc
from scripts.evaluation.tasks.base import EvaluationTask, Located
from scripts.training.data_report import PERSONAL_DATA

MAX_MEMBERS = 2000  # training examples that are asked


def membership(
    asker: Asker,
    task: EvaluationTask[Any],
    judged: Sequence[JudgedExample],
    training: Sequence[Located[Any]],
    seed: int,
) -> dict[str, JSON] | None:
    """Return the AUC of "a low loss means a training example"; None where the task has no loss."""
    if not judged or judged[0].outcome.loss is None:
        return None
    members = list(training)
    if len(members) > MAX_MEMBERS:
        members = random.Random(seed).sample(members, MAX_MEMBERS)  # noqa: S311 - a sample, not a secret
    asked, _ = judge(asker, task, members, "training examples")
    inside = [item.outcome for item in asked]
    outside = [item.outcome for item in judged]
    losses = [-float(outcome.loss or 0) for outcome in [*inside, *outside]]
    area = auroc(losses, [True] * len(inside) + [False] * len(outside))
    if area is None:
        return None
    return {
        "auc": area.to_json(),
        "members": len(inside),
        "others": len(outside),
        "score_members": sum(outcome.score for outcome in inside) / len(inside),
        "score_others": sum(outcome.score for outcome in outside) / len(outside),
    }


def personal_data(texts: Sequence[tuple[str, ...]]) -> dict[str, int]:
    """Return how many examples seem to hold personal data of each kind."""
    counts = {kind: sum(any(map(has, parts)) for parts in texts) for kind, has in PERSONAL_DATA.items()}
    return {kind: count for kind, count in counts.items() if count}
