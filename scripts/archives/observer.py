"""Histograms of activations, and the range by which each is quantized to eight bits with the least error."""

from __future__ import annotations

import torch
from torch import Tensor

from handler.engine.int8_weights import QuantParams

BINS = 2048
SMOOTHING_ALPHA = 0.6  # how much of the magnitude of a channel moves into its weights (SmoothQuant)
MIN_SPLIT_TOP = 4.0  # of a range whose outliers are split: from there on a GELU returns its input, below it bends


class HistogramObserver:
    """The distribution of one activation, in two passes: `observe_range`, then `count`."""

    def __init__(self) -> None:
        self.channel_min = self.channel_max = torch.zeros(1)  # (channels,)
        self.divisor = torch.ones(1)  # (channels,) see `smooth`
        self.low = self.high = 0.0
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.splits_outliers = False  # whether additional channels hold what lies beyond the upper end

    def observe_range(self, x: Tensor) -> None:
        """Update the smallest and the largest value of each channel of (tokens, channels)."""
        low, high = x.aminmax(dim=0)
        self.channel_min, self.channel_max = torch.minimum(self.channel_min, low), torch.maximum(self.channel_max, high)

    def smooth(self, weight: Tensor) -> None:
        """Compute the factors that divide large channels, given the weights (out, channels) that are multiplied."""
        magnitude = torch.maximum(-self.channel_min, self.channel_max).clamp(min=1e-5)
        weight_magnitude = weight.abs().amax(0).clamp(min=1e-5)
        divisor = magnitude**SMOOTHING_ALPHA / weight_magnitude ** (1 - SMOOTHING_ALPHA)
        self.divisor = divisor / divisor.mean()

    def set_bounds(self, max_split_channels: int = 0) -> None:
        """Fix the ends of the histogram after the first pass.

        Args:
            max_split_channels: additional channels that may hold what lies beyond the upper end.
        """
        self.low = float((self.channel_min / self.divisor).min())
        self.high = float((self.channel_max / self.divisor).max())
        tops = (self.high * share / 400 for share in range(1, 400))
        fitting = (
            top
            for top in tops
            if top >= MIN_SPLIT_TOP and additional_channels(self.channel_max, top).sum() <= max_split_channels
        )
        self.splits_outliers = bool(max_split_channels) and (top := next(fitting, 0.0)) > 0
        if self.splits_outliers:
            self.high = top

    def count(self, x: Tensor) -> None:
        """Count values of (tokens, channels), each channel divided by its factor."""
        values = (x / self.divisor).flatten().float()
        self.counts += torch.histc(values, BINS, self.low, max(self.high, self.low + 1e-6)).double()

    def calculate_qparams(self) -> QuantParams:
        """Return the range with the least mean squared error of rounding and clipping."""
        low, high = self.low, self.high
        if self.splits_outliers:
            return QuantParams.from_range(low, high)
        width = max(high - low, 1e-6) / BINS
        centers = low + width * (torch.arange(BINS, dtype=torch.float64) + 0.5)

        def loss(low: float, high: float) -> float:
            rounding = torch.tensor(((high - low) / 255) ** 2 / 12, dtype=torch.float64)
            clipping = (centers - centers.clamp(low, high)) ** 2
            return float((self.counts * torch.where(clipping > 0, clipping, rounding)).sum())

        shares = [share / 50 for share in range(50, 9, -1)]
        for _ in range(2):  # either end in turn
            low = min((self.low * share for share in shares), key=lambda end: loss(end, high))
            high = min((self.high * share for share in shares), key=lambda end: loss(low, end))
        return QuantParams.from_range(low, high)

    def split_outliers(self, params: QuantParams) -> tuple[Tensor, Tensor]:
        """Choose the additional channels for those that reach beyond the top of a range.

        Returns:
            The channel that each additional one continues (n,) int64, and the value at which it starts (n,).
        """
        top = params.scale * (255 - params.zero_point)
        n_additional = additional_channels(self.channel_max, top) * self.splits_outliers
        channels = torch.arange(len(n_additional)).repeat_interleave(n_additional)
        before = n_additional.cumsum(0) - n_additional
        return channels, (torch.arange(len(channels)) - before[channels] + 1) * top


def additional_channels(channel_max: Tensor, top: float) -> Tensor:
    """Return how many additional channels (channels,) hold what lies beyond `top`."""
    return ((channel_max / top - 0.01).ceil() - 1).clamp(min=0).long()
