"""Where the time of a request goes: what a server's own counters and the clocks of its processes grew by under a load.

The mean time of a request under a closed loop is the connections over the rate (Little's law). The server counts its
queue, tokenizing and inference; the rest is the client, the sockets, TorchServe's frontend and its talk with the
worker.
"""

from __future__ import annotations

import re
import resource
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil  # type: ignore[import-untyped]

from handler.config import usable_cores

Row = dict[str, Any]
REPORTED_S = 0.4  # within which a worker has handed its metrics over
COUNTERS = {  # what is read of the server's metrics, over all models and workers
    "requests": "ts_inference_requests_total",
    "queue_us": "ts_queue_latency_microseconds",
    "batches": "bert_inference_seconds_count",
    "tokenize_s": "bert_tokenize_seconds_sum",
    "inference_s": "bert_inference_seconds_sum",
}


@dataclass
class RequestTime:
    """Sums over the loads of one server at one number of connections."""

    connections: int
    seconds: float = 0.0
    counters: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    cpu_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))  # of client, frontend, worker

    @contextmanager
    def observe(self, metrics_url: str, pid: int) -> Iterator[None]:
        """Add what grows within the `with`, in which nothing but the load runs."""
        before, cpu = read_counters(metrics_url), cpu_seconds(pid)
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began
        for name, seconds in cpu_seconds(pid).items():
            self.cpu_s[name] += seconds - cpu.get(name, 0.0)
        time.sleep(REPORTED_S)
        for name, value in read_counters(metrics_url).items():
            self.counters[name] += value - before[name]

    def row(self) -> Row:
        """Return the mean milliseconds of a request by where they go, CPU by process, and what cores were idle."""
        requests, batches = max(1.0, self.counters["requests"]), max(1.0, self.counters["batches"])
        parts = {
            "queue_ms": self.counters["queue_us"] / 1e3 / requests,
            "tokenize_ms": 1e3 * self.counters["tokenize_s"] / batches,
            "inference_ms": 1e3 * self.counters["inference_s"] / batches,
        }
        total = 1e3 * self.connections * self.seconds / requests
        used = sum(self.cpu_s.values()) / (self.seconds * usable_cores())
        return {
            "requests": requests,
            "requests_a_batch": requests / batches,
            "total_ms": total,
            **parts,
            "rest_ms": total - sum(parts.values()),
            "cpu_ms": {name: 1e3 * seconds / requests for name, seconds in sorted(self.cpu_s.items())},
            "idle": 1 - used,
        }


def read_counters(url: str) -> dict[str, float]:
    """Read the server's metrics, each summed over its labels; what has not been counted yet is 0."""
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - of the server that this script started
        text = response.read().decode()
    return {
        name: sum(float(value) for value in re.findall(rf"^{metric}(?:{{.*}})? (\S+)", text, re.MULTILINE))
        for name, metric in COUNTERS.items()
    }


def cpu_seconds(pid: int) -> dict[str, float]:
    """Return the CPU seconds of the processes of a server, and of the clients that this process has run."""
    seconds = {"client": _client_seconds(), "frontend": 0.0, "worker": 0.0}
    server = psutil.Process(pid)
    for process in (server, *server.children(recursive=True)):
        times = process.cpu_times()
        seconds["frontend" if process.name() == "java" else "worker"] += times.user + times.system
    return seconds


def _client_seconds() -> float:
    children, own = (resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF))
    return children.ru_utime + children.ru_stime + own.ru_utime + own.ru_stime
