"""Ranking: the texts of a query in the order of a cross-encoder, or of the similarity of embeddings.

NDCG with ties is that of McSherry, Najork 2008: the mean over every order of equal scores, as scikit-learn computes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from handler.protocol import JSON
from scripts.evaluation.statistics import Columns
from scripts.evaluation.tasks.base import EvaluationTask, ModelQuestion, Outcome, TextEdit, answer_error
from scripts.training.tasks.classification import LabelledText
from scripts.training.tasks.ranking import CUTOFF, RELEVANT


@dataclass(frozen=True)
class RankedQuery:
    """A query, the texts that may answer it, and how relevant each is, 0 to 1."""

    query: str
    texts: tuple[str, ...]
    grades: tuple[float, ...]


def by_query(pairs: Sequence[tuple[int, LabelledText[list[float]]]]) -> list[tuple[int, RankedQuery]]:
    """Return one example for each query that has a relevant text, with the row of its first pair."""
    groups: dict[str, list[tuple[int, str, float]]] = {}
    for row, pair in pairs:
        groups.setdefault(pair.text, []).append((row, pair.pair or "", pair.target[0]))
    return [
        (group[0][0], RankedQuery(query, tuple(text for _, text, _ in group), tuple(grade for _, _, grade in group)))
        for query, group in groups.items()
        if max(grade for _, _, grade in group) >= RELEVANT
    ]


class RankingEvaluation(EvaluationTask[RankedQuery]):
    """The order of texts for a query, by `rerank`."""

    title = "Ranking"
    unit_name = "queries"
    served_as = "rerank"
    metric_titles: ClassVar = {"ndcg": f"NDCG@{CUTOFF}", "mrr": f"MRR@{CUTOFF}", "first": "relevant text first"}
    main_metric = "ndcg"
    score_title = f"NDCG@{CUTOFF}"

    def questions(self, example: RankedQuery) -> list[ModelQuestion]:
        return [ModelQuestion({"query": example.query, "texts": list(example.texts)}, {"top_k": None})]

    def texts(self, example: RankedQuery) -> tuple[str, ...]:
        return (example.query, *example.texts)

    def edited(self, example: RankedQuery, edit: TextEdit) -> RankedQuery | None:
        return replace(example, query=edit(example.query))

    def scores(self, example: RankedQuery, answer: JSON) -> NDArray[np.float64]:
        """Return the score of each text, in the order of the example."""
        if not (isinstance(answer, list) and all(isinstance(item, dict) and "index" in item for item in answer)):
            raise answer_error(answer, "scores of texts")
        return np.array([item["score"] for item in sorted(answer, key=lambda item: item["index"])])

    def outcome(self, example: RankedQuery, answers: Sequence[JSON]) -> Outcome:
        scores, grades = self.scores(example, answers[0]), np.array(example.grades)
        relevant = grades >= RELEVANT
        best = int(scores.argmax())
        ndcg = ndcg_with_ties(grades, scores)
        return Outcome(
            ndcg,
            {
                "ndcg": ndcg,
                "mrr": expected_reciprocal_rank(relevant, scores),
                "first": float(relevant[scores == scores.max()].mean()),
            },
            f"text {int(grades.argmax()) + 1}",
            f"text {best + 1}",
            [float(scores[best])] if self.has_probabilities else (),
            [float(relevant[best])] if self.has_probabilities else (),
        )

    has_probabilities = True

    def measure(self, columns: Columns) -> dict[str, float]:
        return {name: float(columns[name].mean()) for name in self.metric_titles}


class RetrievalEvaluation(RankingEvaluation):
    """The order of texts for a query, by the similarity of embeddings."""

    title = "Retrieval"
    served_as = "sentence-similarity"
    has_probabilities = False

    def questions(self, example: RankedQuery) -> list[ModelQuestion]:
        return [ModelQuestion({"source_sentence": example.query, "sentences": list(example.texts)}, {})]

    def scores(self, example: RankedQuery, answer: JSON) -> NDArray[np.float64]:
        if not (isinstance(answer, list) and len(answer) == len(example.texts)):
            raise answer_error(answer, "a similarity for each text")
        return np.array(answer, dtype=float)


def ndcg_with_ties(grades: NDArray[np.float64], scores: NDArray[np.float64], cutoff: int = CUTOFF) -> float:
    """Return NDCG at a cutoff, where equal scores share the discounts of their places.

    >>> ndcg_with_ties(np.array([1.0, 0.0]), np.array([0.5, 0.5])).__round__(4)
    0.8155
    """
    discounts = 1 / np.log2(np.arange(2, len(grades) + 2))
    discounts[cutoff:] = 0
    order = np.argsort(-scores, kind="stable")
    _, inverse, counts = np.unique(-scores[order], return_inverse=True, return_counts=True)
    shared = np.bincount(inverse, weights=discounts) / counts
    gain = float((grades[order] * shared[inverse]).sum())
    ideal = float((np.sort(grades)[::-1] * discounts).sum())
    return gain / ideal if ideal else 0.0


def expected_reciprocal_rank(relevant: NDArray[np.bool_], scores: NDArray[np.float64], cutoff: int = CUTOFF) -> float:
    """Return the mean of 1 / rank of the first relevant text over every order of equal scores; 0 beyond the cutoff.

    >>> expected_reciprocal_rank(np.array([True, False]), np.array([0.5, 0.5]))
    0.75
    """
    best = scores[relevant].max()
    above, n_tied, n_relevant = int((scores > best).sum()), int((scores == best).sum()), 0
    n_relevant = int(relevant[scores == best].sum())
    total, unseen = 0.0, 1.0
    for step in range(n_tied - n_relevant + 1):
        rank = above + step + 1
        chance = n_relevant / (n_tied - step)
        if rank <= cutoff:
            total += unseen * chance / rank
        unseen *= 1 - chance
    return total
