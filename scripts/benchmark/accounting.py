"""Account of the requests of a load run: sent = right + refused + failed, and none wrong."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OK, BUSY = 200, (413, 429, 503, 504)
OUTCOMES = ("right", "refused", "failed", "wrong")


@dataclass(frozen=True)
class ExpectedScores:
    """The score of every label of every text, computed before the run, and how far an answer may differ."""

    scores: Sequence[dict[str, float]]
    tolerance: float

    def matches(self, index: int, answer: Any) -> bool:
        """Tell whether an answer to text `index` has every expected label with its score."""
        if not isinstance(answer, list) or not all(isinstance(entry, dict) for entry in answer):
            return False
        scores, expected = {entry.get("label"): entry.get("score", -1) for entry in answer}, self.scores[index]
        return scores.keys() == expected.keys() and all(
            abs(scores[label] - score) <= self.tolerance for label, score in expected.items()
        )

    def outcomes(self, indices: Sequence[int], status: int, answers: Any) -> Counter[str]:
        """Count the texts of one response by OUTCOMES; an answer that differs from the expected one is wrong.

        >>> expected = ExpectedScores([{"yes": 0.9}, {"yes": 0.1}], tolerance=0.01)
        >>> expected.outcomes([0, 1], 200, [[{"label": "yes", "score": 0.9}], [{"label": "yes", "score": 0.9}]])
        Counter({'right': 1, 'wrong': 1})
        >>> expected.outcomes([0], 503, None)
        Counter({'refused': 1})
        """
        if status in BUSY:
            return Counter(refused=len(indices))
        if status != OK or not isinstance(answers, list) or len(answers) != len(indices):
            return Counter(failed=len(indices))
        pairs = zip(indices, answers, strict=True)
        return Counter("right" if self.matches(index, answer) else "wrong" for index, answer in pairs)


class RequestAccounting:
    """Counts by outcome. Threads may share it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, outcomes: Mapping[str, int]) -> None:
        """Add the counts of one response."""
        with self._lock:
            self.counts.update(outcomes)

    @property
    def total(self) -> int:
        """Number of texts or requests that have come to an end."""
        return self.counts.total()

    def wait_for(self, outcome: str, count: int, timeout_s: float = 30) -> bool:
        """Wait until an outcome has been counted `count` times; return whether it was."""
        deadline = time.monotonic() + timeout_s
        while self.counts[outcome] < count and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.counts[outcome] >= count

    def to_json(self) -> dict[str, int]:
        """Return the counts.

        >>> accounting = RequestAccounting()
        >>> accounting.add({"right": 2, "refused": 1})
        >>> accounting.to_json()
        {'sent': 3, 'right': 2, 'refused': 1, 'failed': 0, 'wrong': 0}
        """
        return {"sent": self.total, **{outcome: self.counts[outcome] for outcome in OUTCOMES}}


def scores_of(answer: Any) -> dict[str, float]:
    """Return the score of each label of an answer of the handler."""
    return {entry["label"]: entry["score"] for entry in answer}
