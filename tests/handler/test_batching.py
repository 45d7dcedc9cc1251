"""The plan: which rows share a batch."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from handler.batching import plan

LENGTHS = st.lists(st.integers(1, 600), max_size=60)


@settings(derandomize=True, deadline=None)
@given(LENGTHS, st.integers(1, 2000), st.booleans())
def test_every_row_is_planned_once_within_the_budget(lengths: list[int], budget: int, padded: bool) -> None:
    """No row is missing or planned twice; only a row longer than the budget exceeds it, in a batch of one."""
    batches = plan(lengths, budget, padded=padded)
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    for rows in batches:
        sizes = [lengths[row] for row in rows]
        cost = max(sizes) * len(sizes) if padded else sum(sizes)
        assert cost <= budget or len(rows) == 1


@settings(derandomize=True, deadline=None)
@given(LENGTHS, st.integers(600, 2000))
def test_batches_are_as_few_as_a_greedy_plan_allows(lengths: list[int], budget: int) -> None:
    """Two neighbouring batches never fit into one."""
    batches = plan(lengths, budget)
    totals = [sum(lengths[row] for row in rows) for rows in batches]
    for total, rows in zip(totals, batches[1:], strict=False):
        assert total + lengths[rows[0]] > budget


def test_longest_first() -> None:
    """Neighbours in a batch have similar lengths, which keeps padding and attention calls low."""
    assert plan([1, 9, 5, 9], 20) == [[1, 3], [2, 0]]
