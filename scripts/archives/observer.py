"""How often which numbers stand at one place of a model, and by which range they are best rounded to eight bits."""

from __future__ import annotations

import torch
from torch import Tensor

from handler.engine.int8 import Range

BINS = 2048
SMOOTHING = 0.6  # how much of the size of a channel moves into its weights
LEAST_TOP = 4.0  # of a range that is continued: there an activation is its input, less would bend at the seam


class Histogram:
    """How often which numbers were seen."""

    def __init__(self) -> None:
        self.least = self.most = torch.zeros(1)  # of each channel
        self.divisor = torch.ones(1)
        self.low = self.high = 0.0
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.continued = False  # whether further channels hold what lies beyond the upper end

    def widen(self, x: Tensor) -> None:
        """Look for the least and the greatest number of each channel of (tokens, channels)."""
        low, high = x.aminmax(dim=0)
        self.least, self.most = torch.minimum(self.least, low), torch.maximum(self.most, high)

    def smooth(self, weight: Tensor) -> None:
        """Divide large channels, given the weights (out, channels) that are multiplied instead."""
        largest = torch.maximum(-self.least, self.most).clamp(min=1e-5)
        divisor = largest**SMOOTHING / weight.abs().amax(0).clamp(min=1e-5) ** (1 - SMOOTHING)
        self.divisor = divisor / divisor.mean()

    def settle(self, continued: int = 0) -> None:
        """Find the ends, after all were seen once; `continued` channels may hold what lies beyond the upper one."""
        self.low, self.high = float((self.least / self.divisor).min()), float((self.most / self.divisor).max())
        tops = (self.high * share / 400 for share in range(1, 400))
        enough = (top for top in tops if top >= LEAST_TOP and pieces(self.most, top).sum() <= continued)
        self.continued = bool(continued) and (top := next(enough, 0.0)) > 0
        if self.continued:
            self.high = top

    def count(self, x: Tensor) -> None:
        """Count the numbers, each channel divided as settled."""
        shares = (x / self.divisor).flatten().float()
        self.counts += torch.histc(shares, BINS, self.low, max(self.high, self.low + 1e-6)).double()

    def range(self) -> Range:
        """Return the range that loses least, as the mean square of what rounding and cutting off change."""
        low, high = self.low, self.high
        if self.continued:
            return Range.over(low, high)
        width = max(high - low, 1e-6) / BINS
        centres = low + width * (torch.arange(BINS, dtype=torch.float64) + 0.5)

        def loss(low: float, high: float) -> float:
            rounding = torch.tensor(((high - low) / 255) ** 2 / 12, dtype=torch.float64)
            cut = (centres - centres.clamp(low, high)) ** 2
            return float((self.counts * torch.where(cut > 0, cut, rounding)).sum())

        shares = [share / 50 for share in range(50, 9, -1)]
        for _ in range(2):  # either end in turn
            low = min((self.low * share for share in shares), key=lambda end: loss(end, high))
            high = min((self.high * share for share in shares), key=lambda end: loss(low, end))
        return Range.over(low, high)

    def continuation(self, its: Range) -> tuple[Tensor, Tensor]:
        """Choose the channels that continue those which reach beyond the top of a range.

        Returns:
            Of each channel that is added, which one it continues (n,) int64, and where it begins (n,).
        """
        top = its.scale * (255 - its.zero)
        missing = pieces(self.most, top) * self.continued
        channels = torch.arange(len(missing)).repeat_interleave(missing)
        before = missing.cumsum(0) - missing
        return channels, (torch.arange(len(channels)) - before[channels] + 1) * top


def pieces(most: Tensor, top: float) -> Tensor:
    """Return how many further channels (channels,) hold what lies beyond `top`."""
    return ((most / top - 0.01).ceil() - 1).clamp(min=0).long()
