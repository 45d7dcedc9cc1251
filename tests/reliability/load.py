"""The benchmark's load generator against a scenario's server, with a ledger of its requests."""

from __future__ import annotations

import time

from scripts.benchmark.load import LoadGenerator
from scripts.benchmark.statistics import quantile
from tests.reliability.accounting import RequestLedger
from tests.reliability.server import Target


class ScenarioLoad(LoadGenerator):
    """Requests to one model, for as long as the `with` lasts.

    Args:
        rate: requests a second, at Poisson-distributed times.
        connections: connections that each send a request when the last one is answered.
        first: the number of the first request.
        key: of the gateway where the target is one; the server's own by default.
    """

    def __init__(
        self, target: Target, *, rate: float = 0.0, connections: int = 0, first: int = 0, key: str = ""
    ) -> None:
        self.ledger, key = RequestLedger(target.oracle), key or target.live.key
        requests: dict[int, tuple[bytes, bytes]] = {}  # by text: written once, so that the load takes less time

        def message(number: int) -> bytes:
            index = target.oracle.index(number)
            if index not in requests:
                requests[index] = target.request(index, key)
            before, after = requests[index]
            return before + str(number).encode() + after

        super().__init__(
            "127.0.0.1",
            target.live.ports["inference_address"],
            message,
            self.ledger.record,
            rate=rate,
            connections=connections,
            first=first,
        )

    def __enter__(self) -> ScenarioLoad:
        super().__enter__()
        return self

    def __exit__(self, *failure: object) -> None:
        super().__exit__(*failure)
        self.ledger.duplicated = self.surplus

    def times(self) -> dict[str, float]:
        """Return latencies of right answers and the client's own delay in milliseconds, and the cores that it took."""
        right_s = self.latency_s["right"]
        figures = {f"p{percent} ms": quantile(right_s, percent / 100) * 1e3 for percent in (50, 99) if right_s}
        if self.rate:
            figures["client late p99 ms"] = quantile(self.late_s, 0.99) * 1e3
            figures["client cores"] = self.cpu_s / self.seconds
        return figures


def capacity(target: Target, seconds: float, connections: int) -> float:
    """Measure C: right answers a second with more connections than one batch holds."""
    with ScenarioLoad(target, connections=connections) as load:
        time.sleep(seconds)
    return load.ledger.counts["right"] / max(load.finished_s["right"], default=float("inf"))
