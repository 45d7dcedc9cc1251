"""The order in memory of a weight for native/product.h, and back.

A panel of columns holds the weights of `panel_width` outputs. Inputs lie in groups of 32 bits: one fp32 number, two of
bf16 or four of int8, which one instruction multiplies. A processor without one for four of int8 multiplies two pairs in
16 bits: the first is made of bytes 0 and 2 of a group, the second of bytes 1 and 3.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

TILE_GROUPS = 16  # as LANES in native/vectors.h
PAIRS = [0, 2, 1, 3]  # which input each byte of a group is of, where pairs are multiplied


def group_size(dtype: torch.dtype) -> int:
    """Return how many numbers are multiplied at once."""
    return 4 // dtype.itemsize


def pack(weight: Tensor, panel_width: int, *, in_pairs: bool = False) -> Tensor:
    """Return a weight (out, in) as (panels, groups, panel_width, group size), filled up with zeros.

    Groups fill whole tiles of native/tiles.h.

    Args:
        in_pairs: whether groups of four are multiplied as two pairs.

    >>> pack(torch.arange(6, dtype=torch.float32).reshape(3, 2), 2)[:, :2].tolist()
    [[[[0.0], [2.0]], [[1.0], [3.0]]], [[[4.0], [0.0]], [[5.0], [0.0]]]]
    """
    size = group_size(weight.dtype)
    n_out, n_in = weight.shape
    padded = functional.pad(weight, (0, -n_in % (size * TILE_GROUPS), 0, -n_out % panel_width))
    groups = padded.view(-1, panel_width, padded.shape[1] // size, size).transpose(1, 2)
    return (groups[..., PAIRS] if in_pairs else groups).contiguous()


def unpack(packed: Tensor, n_out: int, n_in: int) -> Tensor:
    """Return the weight (out, in) that was packed."""
    panels, groups, panel_width, size = packed.shape
    return packed.transpose(1, 2).reshape(panels * panel_width, groups * size)[:n_out, :n_in].contiguous()
