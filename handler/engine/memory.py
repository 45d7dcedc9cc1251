"""How many tokens one forward pass takes on a GPU: as many as fit into the memory, and no more than make it faster."""

from __future__ import annotations

from collections.abc import Mapping

BUDGETS = (2048, 4096, 8192, 16384, 32768, 65536)  # tokens
MEMORY_SHARE = 0.4  # of the free memory: other workers may start, and explanations need more for a token
NEAR_BEST = 0.97  # of the best speed: a smaller budget leaves memory, and answers earlier


def fitting(free_bytes: int, bytes_per_token: float) -> list[int]:
    """Return the budgets that fit; at least the smallest, whose batches are halved where even they do not.

    >>> fitting(2**30, 50_000)
    [2048, 4096, 8192]
    >>> fitting(0, 50_000)
    [2048]
    """
    available = MEMORY_SHARE * free_bytes
    return [budget for budget in BUDGETS if budget * bytes_per_token <= available] or [BUDGETS[0]]


def smallest_near_best(speeds: Mapping[int, float]) -> int:
    """Choose a budget, given the tokens per second measured with each.

    >>> smallest_near_best({2048: 1e6, 4096: 1.95e6, 8192: 2e6})
    4096
    """
    best = max(speeds.values())
    return min(budget for budget, speed in speeds.items() if speed >= NEAR_BEST * best)
