"""On a GPU: the product of handler.engine.cublaslt against the same numbers in fp64.

Selected by `pytest -m cuda`; tests/handler/engine/test_cublaslt.py checks the calls on a CPU.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from handler.engine.cublaslt import E4M3, GeluProduct
from handler.engine.fp8 import quantize
from handler.engine.fp8_scales import E4M3_MAX

pytestmark = pytest.mark.cuda

GPU = torch.device("cuda", 0)
MAX_ERROR = 4e-2  # of the Frobenius norm; rounding alone is 2.6e-2
SHAPES = [(rows, width, out) for width, out in ((128, 256), (1024, 4096)) for rows in (1, 17, 333, 4096)]


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix in E4M3, and its scale."""
    scale = x.abs().amax() / E4M3_MAX
    return quantize(x, scale), scale


class Example:
    """A product, an input, and the exact output."""

    def __init__(self, rows: int, width: int, out: int) -> None:
        torch.manual_seed(0)
        weight, w_scale = quantized(torch.randn(out, width, device=GPU) / width**0.5)
        self.x, self.x_scale = quantized(torch.randn(rows, width, device=GPU))
        bias = torch.randn(out, device=GPU).to(torch.bfloat16)
        self.multiply = GeluProduct(weight, w_scale, bias)
        rows_exact = self.x.float().double() * self.x_scale.double()
        exact = rows_exact @ (weight.float().double() * w_scale.double()).t() + bias.double()
        self.exact = functional.gelu(exact, approximate="tanh")
        self.out_scale = (E4M3_MAX / self.exact.abs().amax() / 2).float()

    def run(self) -> Tensor:
        """Multiply."""
        return self.multiply(self.x, self.x_scale, self.out_scale)

    def error(self, y: Tensor, out_scale: Tensor) -> float:
        """Return the relative error of an output."""
        assert y.dtype is E4M3
        values = y.float().double() / out_scale.double()
        return float((values - self.exact).norm() / self.exact.norm())


@pytest.mark.parametrize(("rows", "width", "out"), SHAPES)
def test_a_product_equals_fp64(rows: int, width: int, out: int) -> None:
    """A shape that cuBLASLt does not have fails with the text of its CublasError."""
    example = Example(rows, width, out)
    assert example.error(example.run(), example.out_scale) <= MAX_ERROR


@pytest.mark.parametrize("scale", [0.5, 1.0, 32.0])
def test_an_output_scale_multiplies(scale: float) -> None:
    """Half the scale gives half the numbers."""
    example, out_scale = Example(64, 128, 256), torch.tensor(scale, device=GPU)
    assert example.error(example.multiply(example.x, example.x_scale, out_scale), out_scale) <= MAX_ERROR


def test_a_recorded_product_reads_new_inputs() -> None:
    """A CUDA graph after a first call on its stream, as handler.engine.cuda_graphs records it."""
    example, stream = Example(64, 128, 256), torch.cuda.Stream()  # type: ignore[no-untyped-call]
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
