"""Hand measurements to TorchServe a few times a second, after the answers, instead of with each batch.

TorchServe's worker writes a line of its log for each value, and its frontend reads it: a dozen lines a batch, on the
cores that compute and before the answer is sent. Here counters are added up and the last value of a gauge counts; each
value of a histogram is a line of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from handler.telemetry import Measurement

INTERVAL_S = 0.25


class MetricsQueue:
    """Measurements that wait to be written."""

    def __init__(self, write: Callable[[Measurement], None], interval_s: float = INTERVAL_S) -> None:
        """Write by `write`, in a thread of its own, at most `interval_s` seconds after a measurement."""
        self._write, self._interval_s = write, interval_s
        self._lock = threading.Lock()
        self._sums: dict[tuple[str, tuple[str, ...]], Measurement] = {}  # by name and labels
        self._values: list[Measurement] = []  # of histograms
        self._timer: threading.Timer | None = None

    def add(self, measurements: Iterable[Measurement]) -> None:
        """Keep measurements for the next time."""
        with self._lock:
            for measurement in measurements:
                if measurement.kind == "histogram":
                    self._values.append(measurement)
                    continue
                key = (measurement.name, measurement.labels)
                before = self._sums.get(key)
                if before is not None and measurement.kind == "counter":
                    measurement = measurement._replace(value=before.value + measurement.value)
                self._sums[key] = measurement
            if self._timer is None:
                self._timer = threading.Timer(self._interval_s, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Write what waits, now."""
        with self._lock:
            waiting = [*self._sums.values(), *self._values]
            self._sums, self._values, self._timer = {}, [], None
        for measurement in waiting:
            self._write(measurement)
