"""The order in memory of a weight for native/product.h, and back.

A panel of columns holds the weights of `panel_width` outputs. Inputs lie in groups of 32 bits: one fp32 number, two of
bf16 (in arrays of uint16) or four of int8, which one instruction multiplies. A processor without one for four of int8
multiplies two pairs in 16 bits: the first is made of bytes 0 and 2 of a group, the second of bytes 1 and 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

TILE_GROUPS = 16  # as LANES in native/vectors.h
PAIRS = [0, 2, 1, 3]  # which input each byte of a group is of, where pairs are multiplied


def to_bf16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round numbers to bf16, to the nearest and ties to even; NaN is not expected.

    >>> to_bf16(np.array([1.0, 1.00390625, 1.01171875], np.float32)).tolist()  # ties: 0x3f80.8000 and 0x3f81.8000
    [16256, 16256, 16258]
    """
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded: NDArray[np.uint16] = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return rounded


def pack(weight: NDArray[Any], panel_width: int, *, in_pairs: bool = False) -> NDArray[Any]:
    """Return a weight (out, in) as (panels, groups, panel_width, group size), filled up with zeros.

    Groups fill whole tiles of native/tiles.h.

    Args:
        in_pairs: whether groups of four are multiplied as two pairs.

    >>> pack(np.arange(6, dtype=np.float32).reshape(3, 2), 2)[:, :2].tolist()
    [[[[0.0], [2.0]], [[1.0], [3.0]]], [[[4.0], [0.0]], [[5.0], [0.0]]]]
    """
    size = 4 // weight.itemsize
    n_out, n_in = weight.shape
    padded = np.pad(weight, ((0, -n_out % panel_width), (0, -n_in % (size * TILE_GROUPS))))
    groups = padded.reshape(-1, panel_width, padded.shape[1] // size, size).swapaxes(1, 2)
    return np.ascontiguousarray(groups[..., PAIRS] if in_pairs else groups)


def unpack(packed: NDArray[Any], n_out: int, n_in: int) -> NDArray[Any]:
    """Return the weight (out, in) that was packed."""
    panels, groups, panel_width, size = packed.shape
    flat = packed.swapaxes(1, 2).reshape(panels * panel_width, groups * size)
    return np.ascontiguousarray(flat[:n_out, :n_in])
