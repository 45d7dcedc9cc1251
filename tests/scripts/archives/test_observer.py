"""Ranges of activations: clipped where that has the least error, split where a few channels are outliers."""

from __future__ import annotations

import torch

from handler.engine.int8_weights import QuantParams
from scripts.archives.observer import HistogramObserver


def test_a_rare_outlier_is_clipped() -> None:
    """One outlier must not take the precision of all others; a range without outliers is kept."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(3_000_000, generator=generator)
    for values, low, high in ((normal, 3.0, 6.0), (torch.cat([normal, torch.tensor([40.0])]), 3.0, 20.0)):
        observer = HistogramObserver()
        observer.observe_range(values[:, None])
        observer.set_bounds()
        observer.count(values[:, None])
        scale, zero_point = observer.calculate_qparams()
        assert low < scale * (255 - zero_point) < high


def test_an_outlier_channel_is_split() -> None:
    """Values beyond the top of the range go to additional channels, each of which starts where the previous ends."""
    states = torch.rand(5000, 64, generator=torch.Generator().manual_seed(0)) * 4.5 - 0.17
    states[:, 3] *= 5  # up to 22
    states[::7, 9] *= 2
    observer = HistogramObserver()
    observer.observe_range(states)
    observer.set_bounds(16)
    params = observer.calculate_qparams()
    top = params.scale * (255 - params.zero_point)
    assert 4 < top < 4.6
    channels, starts = observer.split_outliers(params)
    assert channels.tolist() == [3, 3, 3, 3, 9]
    additional = states[:, channels] - starts
    clipped = torch.cat([states, additional.clamp(min=0)], 1).clamp(max=top)
    restored = clipped[:, :64].index_add(1, channels, clipped[:, 64:])
    torch.testing.assert_close(restored, states, atol=4 * params.scale, rtol=0)


def test_a_small_range_is_not_split() -> None:
    """Below 4 an activation bends, and a channel that starts there would not hold what is missing."""
    observer = HistogramObserver()
    observer.observe_range(torch.tensor([[-0.1, 0.2], [3.9, 0.3]]))
    observer.set_bounds(16)
    assert not observer.splits_outliers
    assert len(observer.split_outliers(QuantParams.from_range(-0.1, 1.0))[0]) == 0
