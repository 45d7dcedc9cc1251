"""How many threads a forward pass by operators on a CPU uses: one for few tokens, done before others have woken up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch

CANDIDATES = (16, 32, 64, 128, 256)  # tokens of one pass
REPEATS = 5  # passes of each candidate with one thread and with all, in turn; the fastest counts


class Threads:
    """One thread for passes of up to `single_thread_max_tokens` tokens, for others all that PyTorch has."""

    def __init__(self) -> None:
        self.single_thread_max_tokens = 0

    @contextlib.contextmanager
    def limit(self, n_tokens: int) -> Iterator[None]:
        """Set the number of threads for one pass, and restore it."""
        threads = torch.get_num_threads()
        if n_tokens > self.single_thread_max_tokens or threads == 1:
            yield
            return
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def calibrate(self, run: Callable[[int], object]) -> None:
        """Measure up to how many tokens one thread is never slower; `run` makes a pass of a number of tokens."""
        self.single_thread_max_tokens = best = 0
        if torch.get_num_threads() == 1:
            return
        for n_tokens in CANDIDATES:
            seconds: dict[int, list[float]] = {0: [], n_tokens: []}
            for _ in range(REPEATS):
                for max_tokens, times in seconds.items():
                    self.single_thread_max_tokens = max_tokens
                    start = time.perf_counter()
                    run(n_tokens)
                    times.append(time.perf_counter() - start)
            if min(seconds[n_tokens]) > min(seconds[0]):
                break
            best = n_tokens
        self.single_thread_max_tokens = best
