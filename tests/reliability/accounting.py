"""The ledger of a run: sent = right + refused + failed, and nothing lost, wrong, swapped or duplicated.

right       the answer that was known beforehand, under the id that was sent
refused     503 because the queue is full, which TorchServe says at once
failed      an error that says what it is: a worker died, the handler had no time
lost        no answer at all, or an error that says nothing
wrong       an answer that nobody should get
swapped     an answer that somebody else should have got
duplicated  bytes that came without a question
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.reliability.client import Answer
from tests.reliability.oracle import Exam

OK, UNAVAILABLE = 200, 503
QUEUE_FULL = "ServiceUnavailableException"  # how TorchServe names it
KINDS = ("right", "refused", "failed", "lost", "wrong", "swapped")


class Account:
    """Counts what became of every request. One thread alone writes."""

    def __init__(self, exam: Exam) -> None:
        self.exam = exam
        self.counts: Counter[str] = Counter()
        self.duplicated = 0
        self.served: Counter[str] = Counter()  # right answers of each version, by its hash
        self.reasons: Counter[str] = Counter()  # why requests failed or were lost

    def note(self, number: int, answer: Answer) -> str:
        """Put one answer where it belongs; return where."""
        kind = self._kind(number, answer)
        self.counts[kind] += 1
        if kind in ("failed", "lost"):
            self.reasons[answer.reason()] += 1
        if kind == "right":
            self.served[answer.headers["x-model-hash"]] += 1
        return kind

    @property
    def noted(self) -> int:
        """How many requests have come to an end."""
        return sum(self.counts.values())

    def clean(self, sent: int) -> dict[str, bool]:
        """Claim what every run claims."""
        return {
            f"{sent} sent, {self.noted} accounted for": sent == self.noted,
            **{f"{self.counts[name]} {name}": not self.counts[name] for name in ("lost", "wrong", "swapped")},
            f"{self.duplicated} duplicated": not self.duplicated,
        }

    def to_json(self, sent: int) -> dict[str, Any]:
        """Return the counts: the first three always, others where there are any."""
        rare = {name: self.counts[name] for name in KINDS[1:] if self.counts[name]}
        return {"sent": sent, "right": self.counts["right"], **rare, "lost": self.counts["lost"]}

    def _kind(self, number: int, answer: Answer) -> str:
        if answer.status != OK:
            told = answer.value
            if not isinstance(told, dict) or not told.get("message"):
                return "lost"
            is_full = answer.status == UNAVAILABLE and told.get("type") == QUEUE_FULL
            return "refused" if is_full else "failed"
        known = self.exam.versions.get(answer.headers.get("x-model-hash", ""))
        if known is None or not isinstance(answer.value, list) or len(answer.value) != 1:
            return "wrong"
        place, scores = self.exam.place(number), answer.value[0]
        if answer.headers.get("x-client-request-id") == str(number) and known.agrees(place, scores):
            return "right"
        others = (other for other in range(len(self.exam.texts)) if other != place)
        return "swapped" if any(known.agrees(other, scores) for other in others) else "wrong"
