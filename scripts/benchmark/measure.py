"""Interleaved runs: a machine that becomes busy or hot slows all of them alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from scripts.benchmark.statistics import Timings

Run = Callable[[], object]


def timed(run: Run, device: torch.device) -> float:
    """Return the seconds of one run; on a GPU with the work that it has queued."""
    synchronize(device)
    began = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - began


def synchronize(device: torch.device) -> None:
    """Wait until a device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleave(
    runs: Mapping[str, Run], device: torch.device, seconds: float = 10.0, min_rounds: int = 5
) -> dict[str, Timings]:
    """Run everything in rounds, each round beginning with another run, until `seconds` are over and at least
    `min_rounds` are done. One run of each before is a warm-up that does not count.
    """
    names = list(runs)
    for name in names:
        runs[name]()
    times: dict[str, list[float]] = {name: [] for name in names}
    began = time.perf_counter()
    rounds = 0
    while rounds < min_rounds or (time.perf_counter() - began < seconds and rounds < 200):
        turn = rounds % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(timed(runs[name], device))
        rounds += 1
    return {name: Timings(tuple(seconds)) for name, seconds in times.items()}


class PeakMemory:
    """The peak of the memory in use beyond what was in use before, in bytes."""

    peak = 0


@contextmanager
def peak_memory(device: torch.device) -> Iterator[PeakMemory]:
    """Measure peak memory: the GPU's allocator counts it; on a CPU a thread samples it every 5 ms."""
    used = PeakMemory()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield used
        used.peak = torch.cuda.max_memory_allocated(device) - before
        return
    import psutil  # type: ignore[import-untyped]  # not needed on a GPU, where it may be missing

    process, over = psutil.Process(), threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not over.wait(0.005):
            used.peak = max(used.peak, process.memory_info().rss - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield used
    finally:
        over.set()
        watcher.join()
