"""Ranking by a cross-encoder: it reads a query and a text together and returns the relevance of the text.

The model has one label and is trained by binary cross-entropy, so that its sigmoid is the probability of being
relevant; `multi_label_classification` selects that loss and that score in transformers.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import ClassVar

import numpy as np

from scripts.cli.console import ScriptError
from scripts.readers.formats import Record
from scripts.readers.tables import ColumnMapping, Table
from scripts.training.tasks.base import Examples, Stratum
from scripts.training.tasks.classification import Classification, LabelledText, number

RELEVANT = 0.5  # the lowest grade of a relevant text
CUTOFF = 10


class Ranking(Classification[list[float]]):
    """A query, a text, and a grade from 0 to 1."""

    problem_type = "multi_label_classification"
    metrics: ClassVar = {"ndcg": f"NDCG@{CUTOFF}", "mrr": f"MRR@{CUTOFF}", "average_precision": "average precision"}
    best_metric = "ndcg"
    epochs = (3, 20)
    unit_name = "pairs"
    group_name = "queries"
    text_columns = ("query", "question")
    pair_columns = ("text", "passage", "document")
    label_columns = ("label", "relevance", "score")

    @classmethod
    def from_table(cls, table: Table, columns: ColumnMapping) -> Ranking:  # noqa: ARG003 there is one label only
        return cls(("relevance",), columns)

    def target(self, table: Table, row: int, record: Record) -> list[float]:
        (column,) = self.columns.labels
        value = number(table.label(row, record, column))
        if value is None or not 0 <= value <= 1:
            raise table.error(row, column, "the relevance must be a number from 0 to 1")
        return [value]

    def validate(self, examples: Examples[LabelledText[list[float]]]) -> None:
        relevant = sum(row.target[0] >= RELEVANT for row in examples.rows)
        if not 0 < relevant < len(examples):
            raise ScriptError(
                f"{examples.name}: {relevant} of {len(examples)} texts are relevant; some must be, not all"
            )

    def label_counts(self, examples: Examples[LabelledText[list[float]]]) -> dict[str, int]:
        relevant = sum(row.target[0] >= RELEVANT for row in examples.rows)
        return {"queries": len({row.text for row in examples.rows}), "relevant": relevant}

    def group(self, example: LabelledText[list[float]]) -> Hashable:
        return example.text

    def stratum(self, example: LabelledText[list[float]]) -> Stratum:
        return 0.0

    def compute_metrics(self, rows: Sequence[LabelledText[list[float]]], logits: np.ndarray) -> dict[str, float]:
        return ranking_metrics([row.text for row in rows], [row.target[0] for row in rows], logits)


def ranking_metrics(queries: Sequence[str], grades: Sequence[float], logits: np.ndarray) -> dict[str, float]:
    """Return the metrics of scores (pairs, 1).

    The means are over the queries that have a relevant text; the average precision is over all pairs. Among equal
    scores the least relevant text counts as the first, so that equal scores gain nothing.
    """
    from sklearn.metrics import average_precision_score

    scores = logits.reshape(-1)
    candidates: dict[str, list[tuple[float, float]]] = {}
    for query, grade, score in zip(queries, grades, scores, strict=True):
        candidates.setdefault(query, []).append((-float(score), grade))
    rankings = [[grade for _, grade in sorted(texts)] for texts in candidates.values()]
    rankings = [ranking for ranking in rankings if max(ranking) >= RELEVANT]
    return {
        "ndcg": sum(dcg(ranking) / dcg(sorted(ranking, reverse=True)) for ranking in rankings) / len(rankings),
        "mrr": sum(reciprocal_rank(ranking) for ranking in rankings) / len(rankings),
        "average_precision": float(average_precision_score([grade >= RELEVANT for grade in grades], scores)),
    }


def dcg(grades: Sequence[float]) -> float:
    """Return the discounted cumulative gain of grades in the order of a ranking.

    >>> dcg([1, 0, 1])
    1.5
    """
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades[:CUTOFF], start=1))


def reciprocal_rank(grades: Sequence[float]) -> float:
    """Return 1 / the rank of the first relevant text, 0 beyond the cutoff.

    >>> reciprocal_rank([0, 0.2, 1])
    0.3333333333333333
    """
    return next((1 / rank for rank, grade in enumerate(grades[:CUTOFF], start=1) if grade >= RELEVANT), 0.0)
