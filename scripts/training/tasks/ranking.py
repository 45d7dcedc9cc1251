"""How relevant a text is to a query: a cross-encoder, which reads both at once and answers with one number.

The model has one label and learns by binary cross-entropy, so that its sigmoid is the probability of being relevant;
`multi_label_classification` says just that to transformers, for the loss and for the score.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from scripts.cli.console import ScriptError
from scripts.readers.tables import Columns, Record, Table
from scripts.training.tasks.base import Examples, Stratum
from scripts.training.tasks.classification import Classification, Labelled, number

if TYPE_CHECKING:
    pass

RELEVANT = 0.5  # a grade from which on a text is one that should be found
CUTOFF = 10


class Ranking(Classification[list[float]]):
    """A query, a text, and a grade from 0 to 1."""

    problem_type = "multi_label_classification"
    metrics: ClassVar = {"ndcg": f"NDCG@{CUTOFF}", "mrr": f"MRR@{CUTOFF}", "average_precision": "average precision"}
    best = "ndcg"
    epochs = (3, 20)
    noun = "pairs"
    text_columns = ("query", "question")
    pair_columns = ("text", "passage", "document")
    label_columns = ("label", "relevance", "score")

    @classmethod
    def learn(cls, table: Table, columns: Columns) -> Ranking:  # noqa: ARG003 there is only one label
        return cls(("relevance",), columns)

    def target(self, table: Table, row: int, record: Record) -> list[float]:
        (column,) = self.columns.labels
        value = number(table.label(row, record, column))
        if value is None or not 0 <= value <= 1:
            raise table.error(row, column, "the relevance must be a number from 0 to 1")
        return [value]

    def check(self, examples: Examples[Labelled[list[float]]]) -> None:
        relevant = sum(row.target[0] >= RELEVANT for row in examples.rows)
        if not 0 < relevant < len(examples):
            raise ScriptError(
                f"{examples.name}: {relevant} of {len(examples)} texts are relevant; some must be, not all"
            )

    def counts(self, examples: Examples[Labelled[list[float]]]) -> dict[str, int]:
        relevant = sum(row.target[0] >= RELEVANT for row in examples.rows)
        return {"queries": len({row.text for row in examples.rows}), "relevant": relevant}

    def group(self, example: Labelled[list[float]]) -> Hashable:
        return example.text

    def stratum(self, example: Labelled[list[float]]) -> Stratum:
        return 0.0

    def measure(self, rows: Sequence[Labelled[list[float]]], logits: np.ndarray) -> dict[str, float]:
        return measure([row.text for row in rows], [row.target[0] for row in rows], logits)


def measure(queries: Sequence[str], grades: Sequence[float], logits: np.ndarray) -> dict[str, float]:
    """Return the metrics of scores (pairs, 1).

    The means are over the queries that have a relevant text; the average precision is over all pairs. Among equal
    scores the least relevant text counts as the first, so that equal scores earn nothing.
    """
    from sklearn.metrics import average_precision_score

    scores = logits.reshape(-1)
    candidates: dict[str, list[tuple[float, float]]] = {}
    for query, grade, score in zip(queries, grades, scores, strict=True):
        candidates.setdefault(query, []).append((-float(score), grade))
    ranked = [[grade for _, grade in sorted(found)] for found in candidates.values()]
    ranked = [found for found in ranked if max(found) >= RELEVANT]
    return {
        "ndcg": sum(gain(found) / gain(sorted(found, reverse=True)) for found in ranked) / len(ranked),
        "mrr": sum(reciprocal_rank(found) for found in ranked) / len(ranked),
        "average_precision": float(average_precision_score([grade >= RELEVANT for grade in grades], scores)),
    }


def gain(grades: Sequence[float]) -> float:
    """Return the discounted cumulative gain of grades in the order of a ranking.

    >>> gain([1, 0, 1])
    1.5
    """
    return sum(grade / math.log2(place + 1) for place, grade in enumerate(grades[:CUTOFF], start=1))


def reciprocal_rank(grades: Sequence[float]) -> float:
    """Return 1 / the place of the first relevant text, 0 if it comes too late.

    >>> reciprocal_rank([0, 0.2, 1])
    0.3333333333333333
    """
    return next((1 / place for place, grade in enumerate(grades[:CUTOFF], start=1) if grade >= RELEVANT), 0.0)
