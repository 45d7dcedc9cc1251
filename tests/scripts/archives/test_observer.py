"""Ranges of activations: cut where that loses least, whole or continued where a few are giants."""

from __future__ import annotations

import torch

from handler.engine.int8 import Range
from scripts.archives.observer import Histogram


def test_a_rare_giant_is_cut_off() -> None:
    """One number far out must not cost all others their digits; a range without giants is kept whole."""
    generator = torch.Generator().manual_seed(0)
    usual = torch.randn(3_000_000, generator=generator)
    for numbers, low, high in ((usual, 3.0, 6.0), (torch.cat([usual, torch.tensor([40.0])]), 3.0, 20.0)):
        histogram = Histogram()
        histogram.widen(numbers[:, None])
        histogram.settle()
        histogram.count(numbers[:, None])
        scale, zero = histogram.range()
        assert low < scale * (255 - zero) < high


def test_a_giant_channel_is_continued() -> None:
    """What lies beyond the top of the range is held by channels that begin where the one before them ends."""
    states = torch.rand(5000, 64, generator=torch.Generator().manual_seed(0)) * 4.5 - 0.17
    states[:, 3] *= 5  # up to 22
    states[::7, 9] *= 2
    histogram = Histogram()
    histogram.widen(states)
    histogram.settle(16)
    its = histogram.range()
    top = its.scale * (255 - its.zero)
    assert 4 < top < 4.6
    channels, starts = histogram.continuation(its)
    assert channels.tolist() == [3, 3, 3, 3, 9]
    added = states[:, channels] - starts
    whole = torch.cat([states, added.clamp(min=0)], 1).clamp(max=top)
    found = whole[:, :64].index_add(1, channels, whole[:, 64:])
    torch.testing.assert_close(found, states, atol=4 * its.scale, rtol=0)


def test_a_small_range_is_not_continued() -> None:
    """Below 4 an activation bends, and a channel that begins there would not be what is missing."""
    histogram = Histogram()
    histogram.widen(torch.tensor([[-0.1, 0.2], [3.9, 0.3]]))
    histogram.settle(16)
    assert not histogram.continued
    assert len(histogram.continuation(Range.over(-0.1, 1.0))[0]) == 0
