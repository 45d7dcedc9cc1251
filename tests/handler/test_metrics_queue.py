"""Measurements of many batches are handed over at once: nothing is lost, counters are added up."""

from __future__ import annotations

import threading

from handler.metrics_queue import MetricsQueue
from handler.telemetry import Measurement


def test_counters_are_added_up_and_every_value_of_a_histogram_is_kept() -> None:
    """By name and labels; of a gauge the last value counts."""
    written: list[Measurement] = []
    queue = MetricsQueue(written.append, interval_s=3600)
    for value in (1.0, 2.0):
        queue.add(
            [
                Measurement("texts", "counter", value),
                Measurement("labels", "counter", value, ("a",)),
                Measurement("seconds", "histogram", value),
                Measurement("memory", "gauge", value),
            ]
        )
    queue.add([Measurement("labels", "counter", 5, ("b",))])
    assert not written
    queue.flush()
    assert sorted(written) == [
        Measurement("labels", "counter", 3, ("a",)),
        Measurement("labels", "counter", 5, ("b",)),
        Measurement("memory", "gauge", 2),
        Measurement("seconds", "histogram", 1),
        Measurement("seconds", "histogram", 2),
        Measurement("texts", "counter", 3),
    ]
    queue.flush()
    assert len(written) == 6


def test_they_are_written_without_another_batch() -> None:
    """The last batch before a pause is counted too."""
    written = threading.Event()
    queue = MetricsQueue(lambda _: written.set(), interval_s=0.01)
    for _ in range(2):
        written.clear()
        queue.add([Measurement("texts", "counter", 1)])
        assert written.wait(30)
