"""Medians, quartiles and quantiles of measured times."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Timings:
    """Times of one thing measured several times, in seconds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median time."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile.

        >>> Timings((1.0, 2.0, 3.0, 4.0, 90.0)).quartiles
        (2.0, 4.0)
        """
        return quantile(self.seconds, 0.25), quantile(self.seconds, 0.75)

    def to_json(self) -> dict[str, Any]:
        """Return every time, the median and the quartiles."""
        return {"seconds": list(self.seconds), "median": self.median, "spread": list(self.quartiles)}


def quantile(values: Sequence[float], q: float) -> float:
    """Return the quantile `q` (0 to 1) by linear interpolation, as a Python number.

    >>> quantile([3.0, 1.0, 2.0], 0.5), quantile([0.0, 1.0], 0.99)
    (2.0, 0.99)
    """
    return float(np.quantile(np.asarray(values), q))
