"""How many tokens one forward pass takes on a GPU: as many as fit into the memory, and no more than make it faster."""

from __future__ import annotations

from collections.abc import Mapping

BUDGETS = (2048, 4096, 8192, 16384, 32768, 65536)  # tokens
SHARE = 0.4  # of the free memory: other workers may come, and explanations need more for a token
NEAR = 0.97  # of the best speed: what is nearly as fast and smaller leaves memory, and answers earlier


def fitting(free_bytes: int, bytes_per_token: float) -> list[int]:
    """Return the budgets that fit; at least the smallest, whose batches are halved where even they do not.

    >>> fitting(2**30, 50_000)
    [2048, 4096, 8192]
    >>> fitting(0, 50_000)
    [2048]
    """
    return [budget for budget in BUDGETS if budget * bytes_per_token <= SHARE * free_bytes] or [BUDGETS[0]]


def smallest_near_best(speeds: Mapping[int, float]) -> int:
    """Choose a budget, given the tokens a second that each was measured to do.

    >>> smallest_near_best({2048: 1e6, 4096: 1.95e6, 8192: 2e6})
    4096
    """
    best = max(speeds.values())
    return min(budget for budget, speed in speeds.items() if speed >= NEAR * best)
