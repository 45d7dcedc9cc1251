"""On a GPU: products of handler.engine.cublaslt against the same numbers in fp64.

Selected by `pytest -m cuda`; tests/handler/engine/test_cublaslt.py checks the calls on a CPU.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from handler.engine.cublaslt import E4M3, Fp8Product
from handler.engine.fp8 import E4M3_MAX, quantize

pytestmark = pytest.mark.cuda

GPU = torch.device("cuda", 0)
BF16 = torch.bfloat16
MAX_ERROR = {BF16: 5e-3, E4M3: 4e-2}  # of the Frobenius norm; rounding alone is 1.7e-3 and 2.6e-2
SUPPORTED: dict[str, dict[str, Any]] = {
    "tensor scales, bias, to bf16": {"out_dtype": BF16},
    "tensor scales, bias and GELU, to bf16": {"out_dtype": BF16, "gelu": True},
    "tensor scales, bias and GELU, to fp8": {"out_dtype": E4M3, "gelu": True},
    "row scales, bias, to bf16": {"out_dtype": BF16, "row_scales": True},
}
SHAPES = [(rows, width, out) for width, out in ((128, 256), (1024, 4096)) for rows in (1, 17, 333, 4096)]


def quantized(x: Tensor, row_scales: bool) -> tuple[Tensor, Tensor]:
    """Return a matrix in E4M3, and a scale for each row or one."""
    largest = x.abs().amax(-1, keepdim=True) if row_scales else x.abs().amax()
    return quantize(x, largest / E4M3_MAX), largest / E4M3_MAX


class Example:
    """A product, an input, and the exact output."""

    def __init__(self, rows: int, width: int, out: int, options: dict[str, Any]) -> None:
        torch.manual_seed(0)
        row_scales, self.out_dtype = options.get("row_scales", False), options["out_dtype"]
        weight, w_scale = quantized(torch.randn(out, width, device=GPU) / width**0.5, row_scales)
        self.x, self.x_scale = quantized(torch.randn(rows, width, device=GPU), row_scales)
        bias = torch.randn(out, device=GPU).to(BF16)
        self.multiply = Fp8Product(weight, w_scale, bias, **options)
        rows_exact = self.x.float().double() * self.x_scale.double()
        exact = rows_exact @ (weight.float().double() * w_scale.double()).t() + bias.double()
        self.exact = functional.gelu(exact, approximate="tanh") if options.get("gelu") else exact
        eight = self.out_dtype is E4M3
        self.out_scale = (448 / self.exact.abs().amax() / 2).float() if eight else None

    def run(self, algorithm: int = 0) -> Tensor:
        """Multiply."""
        return self.multiply(self.x, self.x_scale, self.out_scale, algorithm)

    def error(self, y: Tensor) -> float:
        """Return the relative error of an output."""
        assert y.dtype is self.out_dtype
        values = y.float().double() / (1 if self.out_scale is None else self.out_scale.double())
        return float((values - self.exact).norm() / self.exact.norm())


@pytest.mark.parametrize(("rows", "width", "out"), SHAPES)
@pytest.mark.parametrize("name", SUPPORTED)
def test_every_algorithm_equals_fp64(name: str, rows: int, width: int, out: int) -> None:
    """A combination that cuBLASLt does not have fails with the text of its CublasError."""
    example = Example(rows, width, out, SUPPORTED[name])
    errors = [example.error(example.run(index)) for index in range(example.multiply.algorithms(rows))]
    assert errors
    assert all(error <= MAX_ERROR[example.out_dtype] for error in errors), errors


def test_an_output_scale_multiplies() -> None:
    """Half the scale gives half the numbers; none is 1."""
    example = Example(64, 128, 256, SUPPORTED["tensor scales, bias and GELU, to fp8"])
    for scale in (torch.tensor(0.5, device=GPU), torch.tensor(32.0, device=GPU)):
        y = example.multiply(example.x, example.x_scale, scale).float().double() / scale.double()
        assert (y - example.exact).norm() <= 4e-2 * example.exact.norm()
    y = example.multiply(example.x, example.x_scale).float().double()
    assert (y - example.exact).norm() <= 4e-2 * example.exact.norm()


@pytest.mark.parametrize("name", SUPPORTED)
def test_a_recorded_product_reads_new_inputs(name: str) -> None:
    """A CUDA graph after a first call on its stream, as handler.engine.cuda_graphs records it."""
    example, stream = Example(64, 128, 256, SUPPORTED[name]), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    expected, inputs = example.run(), example.x.clone()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        example.run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        y = example.run()
    example.x.copy_(torch.zeros_like(inputs))
    graph.replay()
    assert not torch.equal(y.float(), expected.float())
    example.x.copy_(inputs)
    graph.replay()
    assert torch.equal(y.float(), expected.float())
