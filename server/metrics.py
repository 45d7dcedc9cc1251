"""Metrics in the names of metrics.yaml, and their exposition in Prometheus' text format.

As with TorchServe, a metric that metrics.yaml does not list is dropped, and Hostname is a label of every one.
"""

from __future__ import annotations

import math
import socket
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import yaml

from handler.errors import ConfigError
from handler.telemetry import Measurement

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, math.inf)
KINDS = ("counter", "gauge", "histogram")
HOST_LABELS = ("hostname", "Hostname")
MAX_PENDING = 1_000  # records that wait; the next one adds all of them up
MB, GB = 1 << 20, 1 << 30


@dataclass
class Series:
    """The values of one metric, by the values of its labels."""

    name: str
    kind: str
    unit: str
    labels: tuple[str, ...]
    values: dict[tuple[str, ...], float] = field(default_factory=dict)
    buckets: dict[tuple[str, ...], list[int]] = field(default_factory=dict)

    def record(self, labels: tuple[str, ...], value: float) -> None:
        """Add to a counter or a histogram, or set a gauge."""
        if self.kind == "gauge":
            self.values[labels] = value
            return
        self.values[labels] = self.values.get(labels, 0.0) + value
        if self.kind == "histogram":
            counts = self.buckets.setdefault(labels, [0] * len(BUCKETS))
            counts[bisect_left(BUCKETS, value)] += 1

    def lines(self, hostname: str) -> list[str]:
        """Return the lines of the exposition."""
        lines = [f"# HELP {self.name} {self.kind} in {self.unit}", f"# TYPE {self.name} {self.kind}"]
        for labels, value in sorted(self.values.items()):
            pairs = [(name, given) for name, given in zip(self.labels, (*labels, hostname), strict=True)]
            text = ",".join(f'{name}="{_escape(given)}"' for name, given in pairs)
            if self.kind != "histogram":
                lines.append(f"{self.name}{{{text},}} {float(value)}")
                continue
            total = 0
            for bound, count in zip(BUCKETS, self.buckets[labels], strict=True):
                total += count
                le = "+Inf" if math.isinf(bound) else str(bound)
                lines.append(f'{self.name}_bucket{{{text},le="{le}",}} {float(total)}')
            lines += [f"{self.name}_count{{{text},}} {float(total)}", f"{self.name}_sum{{{text},}} {float(value)}"]
        return lines


class MetricsRegistry:
    """The metrics that one file declares. Threads may share it.

    An answer does not wait for its metrics: what is recorded is kept until `add_up`, which the server calls now and
    then, and which reading the metrics calls.
    """

    def __init__(self, config: Path | None = None) -> None:
        """Read the declarations; without a file there are no metrics.

        Raises:
            ConfigError: the file cannot be read as TorchServe's metrics configuration.
        """
        self.hostname = socket.gethostname()
        self._series: dict[str, Series] = {}
        self._lock = threading.Lock()
        self._pending: deque[Iterable[tuple[str, float, tuple[str, ...]]]] = deque()  # name, value, labels
        self._collectors: list[Callable[[], None]] = []
        if config is None:
            return
        try:
            sections = yaml.safe_load(config.read_text(encoding="utf-8"))
            for section in ("ts_metrics", "model_metrics"):
                self._declare(sections.get(section) or {})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
            raise ConfigError(f"{config} declares no metrics ({type(error).__name__})") from error

    def _declare(self, section: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        for kind in KINDS:
            for metric in section.get(kind) or []:
                labels = tuple(name for name in metric["dimensions"] if name not in HOST_LABELS)
                host = next((name for name in metric["dimensions"] if name in HOST_LABELS), "Hostname")
                name = str(metric["name"])
                self._series[name] = Series(name, kind, str(metric["unit"]), (*labels, host))

    def record(self, name: str, value: float, *labels: str) -> None:
        """Add to a counter or a histogram, or set a gauge; nothing where the metric is not declared."""
        self._keep(((name, value, labels),))

    def record_all(self, model: str, measurements: Iterable[Measurement]) -> None:
        """Record measurements of a model; they are read later, once."""
        self._keep((each.name, each.value, (model, *each.labels)) for each in measurements)

    def add_up(self) -> None:
        """Add what was recorded to the metrics; what is not declared is dropped."""
        with self._lock:
            for _ in range(len(self._pending)):
                for name, value, labels in self._pending.popleft():
                    if series := self._series.get(name):
                        series.record(labels, value)

    def _keep(self, records: Iterable[tuple[str, float, tuple[str, ...]]]) -> None:
        self._pending.append(records)
        if len(self._pending) > MAX_PENDING:
            self.add_up()

    def collect_with(self, collector: Callable[[], None]) -> None:
        """Let a function set gauges each time before the metrics are read."""
        self._collectors.append(collector)

    def exposition(self) -> str:
        """Return all metrics in Prometheus' text format."""
        for collector in self._collectors:
            collector()
        self.add_up()
        with self._lock:
            lines = [line for series in self._series.values() for line in series.lines(self.hostname)]
        return "\n".join([*lines, ""])


def record_machine(metrics: MetricsRegistry) -> None:
    """Set the gauges of the machine, in the names and units of TorchServe."""
    memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
    for name, value in {
        "CPUUtilization": psutil.cpu_percent(),
        "MemoryUsed": memory.used / MB,
        "MemoryAvailable": memory.available / MB,
        "MemoryUtilization": memory.percent,
        "DiskUsage": disk.used / GB,
        "DiskAvailable": disk.free / GB,
        "DiskUtilization": disk.percent,
    }.items():
        metrics.record(name, value, "Host")


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
