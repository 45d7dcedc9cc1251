"""What a forward pass must compute, and what a list of times says. Pure numbers, no model and no clock."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """An encoder in three numbers."""

    layers: int
    width: int
    inner: int  # of the feed-forward part

    @classmethod
    def of(cls, config: Any) -> Shape:
        """Read the shape from a config of transformers; DistilBERT has names of its own."""
        first = [getattr(config, name, None) for name in ("num_hidden_layers", "n_layers")]
        inner = [getattr(config, name, None) for name in ("intermediate_size", "hidden_dim")]
        return cls(next(filter(None, first)), config.hidden_size, next(filter(None, inner)))

    def flops(self, lengths: Iterable[int]) -> int:
        """Count the operations of sequences: F(L) = 2n(4h^2 + 2hf)L + 4nhL^2 of each.

        The nominal work: embeddings, head and whatever is left out of the last layer do not count.

        >>> Shape(12, 768, 3072).flops([1]) // 10**6
        169
        """
        linear = 2 * self.layers * (4 * self.width**2 + 2 * self.width * self.inner)
        square = 4 * self.layers * self.width
        return sum(linear * length + square * length**2 for length in lengths)

    def products(self) -> list[tuple[int, int, int]]:
        """Return (how many, K, N) of the matrix products of one layer: q, k, v and output; up; down."""
        return [(4, self.width, self.width), (1, self.width, self.inner), (1, self.inner, self.width)]

    def layer_flops(self, tokens: int) -> int:
        """Count the operations of the matrix products of one layer on `tokens` rows."""
        return sum(2 * count * tokens * k * n for count, k, n in self.products())


@dataclass(frozen=True)
class Sample:
    """Times of one thing measured several times, in seconds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles: half of the times lie between.

        >>> Sample((1.0, 2.0, 3.0, 4.0, 90.0)).spread
        (2.0, 4.0)
        """
        return quantile(self.seconds, 0.25), quantile(self.seconds, 0.75)

    def to_json(self) -> dict[str, Any]:
        """Return all of it: raw, median and quartiles."""
        return {"seconds": list(self.seconds), "median": self.median, "spread": list(self.spread)}


def quantile(values: Sequence[float], part: float) -> float:
    """Return a quantile, between two values by the straight line.

    >>> quantile([3.0, 1.0, 2.0], 0.5), quantile([0.0, 1.0], 0.99)
    (2.0, 0.99)
    """
    ordered = sorted(values)
    at = part * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def padded_tokens(lengths: Sequence[int], *, to: int | None = None, batch: int = 32, in_order: bool = False) -> int:
    """Count the tokens that are computed where rows are padded, in batches of `batch` rows.

    Args:
        to: a fixed length; None pads to the longest of each batch.
        in_order: whether rows are sorted by length before.

    >>> padded_tokens([2, 8, 2, 8], batch=2), padded_tokens([2, 8, 2, 8], batch=2, in_order=True)
    (32, 20)
    """
    rows = sorted(lengths) if in_order else list(lengths)
    groups = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    return sum(len(group) * (to or max(group)) for group in groups)
