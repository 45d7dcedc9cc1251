"""Every request of a load run: sent = right + refused + failed, and none wrong."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

OK, BUSY = 200, (413, 429, 503, 504)


class Ledger:
    """Counts texts by what became of them. Threads may share it."""

    def __init__(self, expected: Sequence[dict[str, float]], tolerance: float) -> None:
        """Take the score of every label of every text, computed beforehand, and how far an answer may differ."""
        self.expected = expected
        self.tolerance = tolerance
        self.sent = self.right = self.refused = self.failed = self.wrong = 0
        self._lock = threading.Lock()

    def record(self, indices: Sequence[int], status: int, answers: Any) -> None:
        """Note one reply to texts by number; an answer that is not the one known beforehand is wrong.

        >>> ledger = Ledger([{"yes": 0.9}, {"yes": 0.1}], tolerance=0.01)
        >>> ledger.record([0, 1], 200, [[{"label": "yes", "score": 0.9}], [{"label": "yes", "score": 0.9}]])
        >>> ledger.record([0], 503, None)
        >>> ledger.to_json()
        {'sent': 3, 'right': 1, 'refused': 1, 'failed': 0, 'wrong': 1}
        """
        right = wrong = refused = failed = 0
        if status in BUSY:
            refused = len(indices)
        elif status != OK or not isinstance(answers, list) or len(answers) != len(indices):
            failed = len(indices)
        else:
            right = sum(self.agrees(index, answer) for index, answer in zip(indices, answers, strict=True))
            wrong = len(indices) - right
        with self._lock:
            self.sent += len(indices)
            self.right += right
            self.wrong += wrong
            self.refused += refused
            self.failed += failed

    def agrees(self, index: int, answer: Any) -> bool:
        """Tell whether an answer has every label of the known one, each with its score."""
        if not isinstance(answer, list) or not all(isinstance(one, dict) for one in answer):
            return False
        found, known = {one.get("label"): one.get("score", -1) for one in answer}, self.expected[index]
        return found.keys() == known.keys() and all(
            abs(found[label] - score) <= self.tolerance for label, score in known.items()
        )

    def to_json(self) -> dict[str, int]:
        """Return the counts."""
        return {name: getattr(self, name) for name in ("sent", "right", "refused", "failed", "wrong")}


def scores_of(answer: Any) -> dict[str, float]:
    """Turn an answer of the handler into the score of each label."""
    return {one["label"]: one["score"] for one in answer}
