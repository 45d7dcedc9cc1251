"""Contenders run in turn, so that a machine that becomes busy or hot harms all of them alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from scripts.benchmark.arithmetic import Sample

Run = Callable[[], object]


def timed(run: Run, device: torch.device) -> float:
    """Return the seconds of one run, all of it: on a GPU the work that was only queued as well."""
    finish(device)
    began = time.perf_counter()
    run()
    finish(device)
    return time.perf_counter() - began


def finish(device: torch.device) -> None:
    """Wait until a device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleave(
    contenders: Mapping[str, Run], device: torch.device, seconds: float = 10.0, least: int = 5
) -> dict[str, Sample]:
    """Run contenders in rounds, each round beginning with another one, until `seconds` are over; `least` rounds at
    least. One run of each before does not count.
    """
    names = list(contenders)
    for name in names:
        contenders[name]()
    times: dict[str, list[float]] = {name: [] for name in names}
    began = time.perf_counter()
    rounds = 0
    while rounds < least or (time.perf_counter() - began < seconds and rounds < 200):
        turn = rounds % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(timed(contenders[name], device))
        rounds += 1
    return {name: Sample(tuple(its)) for name, its in times.items()}


class Memory:
    """The most memory that was in use, beyond what was in use before, in bytes."""

    peak = 0


@contextmanager
def memory(device: torch.device) -> Iterator[Memory]:
    """Watch memory: the GPU's allocator keeps count itself, on a CPU a thread looks every 5 ms."""
    found = Memory()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found.peak = torch.cuda.max_memory_allocated(device) - before
        return
    import psutil  # type: ignore[import-untyped]  # of no use to a GPU, on whose machine it may be missing

    process, over = psutil.Process(), threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not over.wait(0.005):
            found.peak = max(found.peak, process.memory_info().rss - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()
