"""The account of a run's requests: sent = right + refused + failed, and none lost, wrong, swapped or duplicated.

right       the expected answer, with the id that was sent
refused     503 because the queue is full, which TorchServe says at once, or 429 of the gateway
failed      an error with a reason: a worker died, the handler had no time
lost        no answer at all, or an error without a reason
wrong       an answer that no request should get
swapped     the answer of another request
duplicated  bytes that came without a request
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from scripts.benchmark.accounting import OK, RequestAccounting
from scripts.benchmark.http import LoadResponse
from tests.reliability.oracle import Oracle

UNAVAILABLE, TOO_MANY = 503, 429
QUEUE_FULL = "ServiceUnavailableException"  # TorchServe's type of error
LIMITED = "TooManyRequests"  # the gateway's
IDS = ("x-client-request-id", "x-request-id")  # of the request: the server's header, and the gateway's
OUTCOMES = ("right", "refused", "failed", "lost", "wrong", "swapped")


class RequestLedger(RequestAccounting):
    """The benchmark's account with one entry for each request, which also tells lost and swapped answers apart."""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self.oracle = oracle
        self.duplicated = 0
        self.served: Counter[str] = Counter()  # right answers of each version, by its hash
        self.reasons: Counter[str] = Counter()  # why requests failed or were lost

    def record(self, number: int, response: LoadResponse) -> str:
        """Count the response to one request; return its outcome."""
        outcome = self._outcome(number, response)
        self.add({outcome: 1})
        if outcome in ("failed", "lost"):
            self.reasons[response.error()] += 1
        if outcome == "right":
            self.served[response.headers["x-model-hash"]] += 1
        return outcome

    def invariants(self, sent: int) -> dict[str, bool]:
        """Return the invariants of every run."""
        return {
            f"{sent} sent, {self.total} accounted for": sent == self.total,
            **{f"{self.counts[name]} {name}": not self.counts[name] for name in ("lost", "wrong", "swapped")},
            f"{self.duplicated} duplicated": not self.duplicated,
        }

    def figures(self, sent: int) -> dict[str, Any]:
        """Return the counts: sent, right and lost always, others where there are any."""
        rare = {name: self.counts[name] for name in OUTCOMES[1:] if self.counts[name]}
        return {"sent": sent, "right": self.counts["right"], **rare, "lost": self.counts["lost"]}

    def _outcome(self, number: int, response: LoadResponse) -> str:
        if response.status != OK:
            error = response.value
            if not isinstance(error, dict) or not error.get("message"):
                return "lost"
            is_refused = (response.status, error.get("type")) in ((UNAVAILABLE, QUEUE_FULL), (TOO_MANY, LIMITED))
            return "refused" if is_refused else "failed"
        expected = self.oracle.versions.get(response.headers.get("x-model-hash", ""))
        if expected is None or not isinstance(response.value, list) or len(response.value) != 1:
            return "wrong"
        index, scores = self.oracle.index(number), response.value[0]
        if str(number) in map(response.headers.get, IDS) and expected.matches(index, scores):
            return "right"
        others = (other for other in range(len(self.oracle.texts)) if other != index)
        return "swapped" if any(expected.matches(other, scores) for other in others) else "wrong"
