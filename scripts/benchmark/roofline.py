"""Roofline: the speed of matrix products of the model's own shapes on this machine, at one precision.

It repeats the products of one layer on as many rows as a forward pass has tokens: no attention, normalisation,
activation or allocation. An engine's fraction of it is the share of its time that goes into matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from handler.engine import fp8, int8
from handler.engine.precision import Precision, supported
from scripts.benchmark.flops import EncoderShape
from scripts.benchmark.measure import Run


def roofline(shape: EncoderShape, tokens: int, precision: str, device: torch.device) -> Run | None:
    """Return a run of the products of one layer; None where the machine does not support the precision."""
    make = product_maker(precision, device)
    if make is None:
        return None
    products = [(count, make(tokens, k, n)) for count, k, n in shape.products() if tokens]

    @torch.inference_mode()
    def run() -> None:
        for count, product in products:
            for _ in range(count):
                product()

    return run


def square(precision: str, device: torch.device, size: int = 8192) -> tuple[int, Run] | None:
    """Return the operations of a large square product, which is the fastest, and a run of it."""
    make = product_maker(precision, device)
    return None if make is None else (2 * size**3, torch.inference_mode()(make(size, size, size)))


def product_maker(precision: str, device: torch.device) -> Callable[[int, int, int], Callable[[], Tensor]] | None:
    """Return a factory of products of (tokens, K, N) at a precision; None where the machine does not support it."""
    if precision in supported(device):
        return partial(_product, dtype=Precision(precision, 0).dtype, device=device)
    if precision == "int8" and device.type == "cpu" and int8.onednn_is_exact():  # else it takes oneDNN seconds
        return _int8_product
    return partial(_fp8_product, device=device) if precision == "fp8" and fp8.supported(device) else None


def _product(tokens: int, k: int, n: int, dtype: torch.dtype, device: torch.device) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(tokens, k, generator=generator).to(device, dtype)
    weights = (torch.randn(n, k, generator=generator) / k**0.5).to(device, dtype)
    bias = torch.zeros(n, device=device, dtype=dtype)
    if device.type == "cpu":  # prepacked weights, the fastest way of oneDNN
        prepacked = torch.ops.mkldnn._reorder_linear_weight(weights, None)
        return lambda: torch.ops.mkldnn._linear_pointwise(rows, prepacked, bias, "none", [], "")
    return lambda: functional.linear(rows, weights, bias)


def _fp8_product(tokens: int, k: int, n: int, device: torch.device) -> Callable[[], Tensor]:
    """Return e4m3 x e4m3 -> bf16 with a scale for each tensor."""
    scale = torch.tensor(0.01, device=device)
    values, linear = (
        fp8.quantize(torch.randn(tokens, k, device=device), scale),
        fp8.Fp8Linear.of(torch.randn(n, k, device=device), scale),
    )
    return lambda: linear(values)


def _int8_product(tokens: int, k: int, n: int) -> Callable[[], Tensor]:
    """Return u8 x s8 -> bf16 with oneDNN and prepacked weights, as in statically quantized inference."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 255, (tokens, k), generator=generator, dtype=torch.uint8)
    weights = torch.randint(-127, 127, (n, k), generator=generator, dtype=torch.int8)
    onednn: Any = torch.ops.onednn
    packed = onednn.qlinear_prepack(weights, [tokens, k])
    scales, zeros = torch.full((n,), 0.01), torch.zeros(n, dtype=torch.int64)
    return lambda: onednn.qlinear_pointwise(
        rows, 0.02, 128, packed, scales, zeros, None, 1.0, 0, torch.bfloat16, "none", [], ""
    )
