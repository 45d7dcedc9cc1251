"""The fastest that this machine multiplies matrices of the model's own shapes, at one precision.

One layer's products on as many rows as a forward pass has tokens, again and again: no attention, no normalisation, no
activation, no memory to allocate. What an engine reaches of this is how much of its time goes into the work itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from handler.engine import int8
from handler.engine.precision import DTYPES, supported
from scripts.benchmark.arithmetic import Shape
from scripts.benchmark.measure import Run


def roofline(shape: Shape, tokens: int, precision: str, device: torch.device) -> Run | None:
    """Return a run of the products of one layer; None where this machine has none at this precision."""
    if precision not in supported(device) and not (precision == "int8" and int8.supported(device)):
        return None
    make = _int8_product if precision == "int8" else partial(_product, dtype=DTYPES[precision], device=device)
    products = [(count, make(tokens, k, n)) for count, k, n in shape.products() if tokens]

    @torch.inference_mode()
    def run() -> None:
        for count, product in products:
            for _ in range(count):
                product()

    return run


def _product(tokens: int, k: int, n: int, dtype: torch.dtype, device: torch.device) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(tokens, k, generator=generator).to(device, dtype)
    weights = (torch.randn(n, k, generator=generator) / k**0.5).to(device, dtype)
    bias = torch.zeros(n, device=device, dtype=dtype)
    if device.type == "cpu":  # as oneDNN multiplies fastest: with weights in an order of its own
        ordered = torch.ops.mkldnn._reorder_linear_weight(weights, None)
        return lambda: torch.ops.mkldnn._linear_pointwise(rows, ordered, bias, "none", [], "")
    return lambda: functional.linear(rows, weights, bias)


def _int8_product(tokens: int, k: int, n: int) -> Callable[[], Tensor]:
    """Return u8 x s8 -> bf16 with oneDNN, weights packed beforehand, as a static engine would have it."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 255, (tokens, k), generator=generator, dtype=torch.uint8)
    weights = torch.randint(-127, 127, (n, k), generator=generator, dtype=torch.int8)
    onednn: Any = torch.ops.onednn
    packed = onednn.qlinear_prepack(weights, [tokens, k])
    scales, zeros = torch.full((n,), 0.01), torch.zeros(n, dtype=torch.int64)
    return lambda: onednn.qlinear_pointwise(
        rows, 0.02, 128, packed, scales, zeros, None, 1.0, 0, torch.bfloat16, "none", [], ""
    )
