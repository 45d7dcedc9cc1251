"""The fastest that this machine multiplies matrices of the model's own shapes, at one precision.

One layer's products on as many rows as a forward pass has tokens, again and again: no attention, no normalisation, no
activation, no memory to allocate. What an engine reaches of this is how much of its time goes into the work itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from scripts.benchmark.arithmetic import Shape
from scripts.benchmark.measure import Run

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def roofline(shape: Shape, tokens: int, precision: str, device: torch.device) -> Run | None:
    """Return a run of the products of one layer; None where this machine has none at this precision."""
    try:
        products = [(count, _product(tokens, k, n, precision, device)) for count, k, n in shape.products() if tokens]
        for _, product in products:
            product()
    except (RuntimeError, AttributeError, KeyError, NotImplementedError):
        return None

    @torch.inference_mode()
    def run() -> None:
        for count, product in products:
            for _ in range(count):
                product()

    return run


def _product(tokens: int, k: int, n: int, precision: str, device: torch.device) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(0)
    if precision == "int8":
        return _int8_product(tokens, k, n, device, generator)
    rows = torch.randn(tokens, k, generator=generator).to(device, DTYPES[precision])
    weights = (torch.randn(n, k, generator=generator) / k**0.5).to(device, DTYPES[precision])
    bias = torch.zeros(n, device=device, dtype=DTYPES[precision])
    return lambda: functional.linear(rows, weights, bias)


def _int8_product(
    tokens: int, k: int, n: int, device: torch.device, generator: torch.Generator
) -> Callable[[], Tensor]:
    """Return u8 x s8 -> bf16 with oneDNN, weights packed beforehand, as a static engine would have it."""
    if device.type != "cpu":
        raise NotImplementedError("int8 on a GPU")
    rows = torch.randint(0, 255, (tokens, k), generator=generator, dtype=torch.uint8)
    weights = torch.randint(-127, 127, (n, k), generator=generator, dtype=torch.int8)
    onednn: Any = torch.ops.onednn
    packed = onednn.qlinear_prepack(weights, [tokens, k])
    scales, zeros = torch.full((n,), 0.01), torch.zeros(n, dtype=torch.int64)
    return lambda: onednn.qlinear_pointwise(
        rows, 0.02, 128, packed, scales, zeros, None, 1.0, 0, torch.bfloat16, "none", [], ""
    )
