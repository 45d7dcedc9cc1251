"""How many threads a forward pass on a CPU gets: one for few tokens, which is done before others have woken up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch

TRIED = (16, 32, 64, 128, 256)  # tokens of one pass
TIMES = 5  # that each is run with one thread and with all, in turn; the quickest counts


class Threads:
    """One thread for passes of up to `few` tokens, for others all that PyTorch has."""

    def __init__(self) -> None:
        self.few = 0

    @contextlib.contextmanager
    def of(self, n_tokens: int) -> Iterator[None]:
        """Set the threads of one pass, and back."""
        threads = torch.get_num_threads()
        if n_tokens > self.few or threads == 1:
            yield
            return
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def find(self, run: Callable[[int], object]) -> None:
        """Find `few`, the most tokens up to which one thread was never slower; `run` makes a pass of so many."""
        self.few = found = 0
        if torch.get_num_threads() == 1:
            return
        for n_tokens in TRIED:
            seconds: dict[int, list[float]] = {0: [], n_tokens: []}
            for _ in range(TIMES):
                for few, its in seconds.items():
                    self.few = few
                    began = time.perf_counter()
                    run(n_tokens)
                    its.append(time.perf_counter() - began)
            if min(seconds[n_tokens]) > min(seconds[0]):
                break
            found = n_tokens
        self.few = found
