"""Whether explanations name the words that a model uses: comprehensiveness and sufficiency.

Source: DeYoung et al. 2020, "ERASER": the score of the explained label falls by the comprehensiveness where the words
with the highest attributions are removed (high is good), and by the sufficiency where only they remain (low is good);
both are means over the shares of words in `SHARES`. The same number of random words, seeded, is what to compare with.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from handler.protocol import JSON
from scripts.cli.console import ScriptError, progress, say
from scripts.client.answers import is_error
from scripts.client.server import Refused, Unavailable
from scripts.evaluation.answering import Asker
from scripts.evaluation.judging import JudgedExample
from scripts.evaluation.statistics import mean_interval
from scripts.evaluation.tasks.base import EvaluationTask, ModelQuestion
from scripts.evaluation.tasks.classification import MultiLabelEvaluation, SingleLabelEvaluation, ZeroShotEvaluation

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)  # of the words, at least one


def faithfulness(
    asker: Asker, task: EvaluationTask[Any], judged: Sequence[JudgedExample], count: int, seed: int
) -> dict[str, JSON] | None:
    """Explain a sample of texts; return the two measures for attributions and for random words.

    None for tasks whose explanations are not about one label, and for models that have no explanations.
    """
    if not isinstance(task, (SingleLabelEvaluation, MultiLabelEvaluation)) or isinstance(task, ZeroShotEvaluation):
        return None
    if not asker.model.description.get("explained") or asker.model.parameters_for(task.served_as) or not count:
        return None
    generator = random.Random(seed)  # noqa: S311 - a sample, not a secret
    single = [item for item in judged if len(task.texts(item.located.example)) == 1]
    sample = generator.sample(single, min(count, len(single)))
    questions: list[ModelQuestion] = []
    plans: list[tuple[JSON, list[tuple[str, int | None]]]] = []
    failures: list[str] = []
    with progress() as bar:
        for item in bar.track(sample, description="explanations"):
            (question,) = task.questions(item.located.example)
            try:
                explanation = asker.explain(ModelQuestion(question.item, {}))
            except (Refused, Unavailable) as error:
                failures.append(str(error))
                continue
            if not isinstance(explanation, dict) or len(explanation.get("words", [])) < 2:
                continue
            plan: list[tuple[str, int | None]] = []
            for kind, texts in edits(question.item, explanation["words"], generator):
                for text in texts:
                    plan.append((kind, len(questions) if text.strip() else None))
                    if text.strip():
                        questions.append(ModelQuestion(text, question.parameters))
            plans.append((explanation, plan))
    if failures:
        say(f"{len(failures)} of {len(sample)} texts were not explained: {failures[0]}")
    if not plans:
        return None
    answers = asker.ask(questions, "explanations: words removed")
    drops: dict[str, list[float]] = {}
    for explanation, plan in plans:
        by_kind: dict[str, list[float]] = {}
        for kind, index in plan:
            score = explanation["baseline_score"] if index is None else score_of(answers[index], explanation["label"])
            by_kind.setdefault(kind, []).append(explanation["score"] - score)
        for kind, values in by_kind.items():
            drops.setdefault(kind, []).append(float(np.mean(values)))
    return {"texts": len(plans), **{kind: mean_interval(values).to_json() for kind, values in drops.items()}}


def edits(text: str, words: Sequence[JSON], generator: random.Random) -> list[tuple[str, list[str]]]:
    """Return, for each measure, the texts of every share of words: removed or kept, by attribution or at random."""
    by_attribution = sorted(range(len(words)), key=lambda index: -words[index]["attribution"])
    at_random = generator.sample(range(len(words)), len(words))
    counts = sorted({max(1, round(share * len(words))) for share in SHARES})
    made = []
    for suffix, order in (("", by_attribution), ("_random", at_random)):
        chosen = [set(order[:count]) for count in counts]
        made.append((f"comprehensiveness{suffix}", [without_words(text, words, indices) for indices in chosen]))
        made.append((f"sufficiency{suffix}", [only_words(text, words, indices) for indices in chosen]))
    return made


def without_words(text: str, words: Sequence[JSON], indices: set[int]) -> str:
    """Return a text without some of its words."""
    parts, at = [], 0
    for index, word in enumerate(words):
        if index in indices:
            parts.append(text[at : word["start"]])
            at = word["end"]
    return "".join([*parts, text[at:]])


def only_words(text: str, words: Sequence[JSON], indices: set[int]) -> str:
    """Return some words of a text, in their order."""
    return " ".join(text[word["start"] : word["end"]] for index, word in enumerate(words) if index in indices)


def score_of(answer: JSON, label: str) -> float:
    """Return the score of a label in an answer."""
    if is_error(answer):
        raise ScriptError(f"a text with words removed was refused: {answer['error'].get('type')}")
    return float(next(item["score"] for item in answer if item["label"] == label))
