"""Masked words: the pseudo-perplexity of a text, from the probability of each of some words where it is masked.

Source: Salazar et al. 2020, "Masked Language Model Scoring". Words are those of the training tasks; at most
`MAX_WORDS` of a text are masked, chosen by its SHA-256, so that the same text is always asked in the same way. A word
of several tokens is scored by its first one, as `targets` of the pipeline does.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from handler.protocol import JSON
from scripts.evaluation.statistics import Columns
from scripts.evaluation.tasks.base import EvaluationTask, ModelQuestion, Outcome, answer_error
from scripts.training.tasks.conll import WORD

MAX_WORDS = 8  # of a text
SMALLEST = 1e-30  # probability
MAX_TARGET_CHARS = 100  # as the handler accepts


class MaskedWordEvaluation(EvaluationTask[str]):
    """Each of some words of a text, masked alone. The score of an example is the mean probability of its words."""

    title = "Masked words"
    served_as = "fill-mask"
    metric_titles: ClassVar = {"pseudo_perplexity": "pseudo-perplexity", "probability": "mean probability of a word"}
    main_metric = "pseudo_perplexity"
    lower_is_better = frozenset({"pseudo_perplexity"})
    score_title = "mean probability of a word"

    def __init__(self, mask: str) -> None:
        super().__init__(())
        self.mask = mask

    def questions(self, example: str) -> list[ModelQuestion]:
        return [
            ModelQuestion(f"{example[:start]}{self.mask}{example[end:]}", {"targets": [example[start:end]], "top_k": 1})
            for start, end in chosen_words(example)
        ]

    def texts(self, example: str) -> tuple[str, ...]:
        return (example,)

    def outcome(self, example: str, answers: Sequence[JSON]) -> Outcome:
        losses = []
        for answer in answers:
            if not (isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], dict)):
                raise answer_error(answer, "one token")
            losses.append(-math.log(max(answer[0]["score"], SMALLEST)))
        probability = float(np.mean(np.exp(-np.array(losses))))
        columns = {"loss": float(np.sum(losses)), "words": float(len(losses)), "probability": probability}
        return Outcome(probability, columns, loss=float(np.mean(losses)))

    def measure(self, columns: Columns) -> dict[str, float]:
        return {
            "pseudo_perplexity": math.exp(min(float(columns["loss"].sum() / columns["words"].sum()), 700)),
            "probability": float(columns["probability"].mean()),
        }


def chosen_words(text: str) -> list[tuple[int, int]]:
    """Return the characters of the words of a text that are masked, in their order."""
    words = [match.span() for match in WORD.finditer(text) if any(map(str.isalnum, match.group()))]
    words = [(start, end) for start, end in words if end - start <= MAX_TARGET_CHARS]
    seed = hashlib.sha256(text.encode()).digest()
    generator = random.Random(seed)  # noqa: S311 a choice of words, not a secret
    return sorted(generator.sample(words, min(MAX_WORDS, len(words))))
