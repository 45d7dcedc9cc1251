"""fp8 (E4M3): weights with a scale for each output, activations with a scale for each token.

A token's scale is computed while it is quantized and depends on nothing else, so the output for a text depends on no
other text, and nothing has to be calibrated. Whether a model keeps its accuracy is measured when it is packed
(scripts/archives/fp8.py). The residual, and everything but the linear layers, stays in bf16. On a CPU the same numbers
are multiplied in fp32, slowly: for that measurement, and for tests.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from handler.engine import fusion
from handler.engine.attention import Attention
from handler.engine.encoder import Layer, PackedEncoder
from handler.engine.families import encoder_of, replace_encoder
from handler.engine.fusion import Op
from handler.engine.linear import ACTIVATIONS, LayerNorm, Linear
from handler.errors import ModelMismatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

E4M3 = torch.float8_e4m3fn
E4M3_MAX = torch.finfo(E4M3).max  # 448
GELU_MIN_MAGNITUDE = 0.18  # more than a GELU ever goes below zero
WIDTH_MULTIPLE = 16  # of every width, which the hardware requires
PROBE_SHAPES = ((32, 128), (256, 1024))  # rows and width of products that must work: of the tests, of bert-large
LAYER_RTOL = 0.03  # of the norm of a row: one layer's products on the device against the same numbers in fp32


class Float8Tensor(NamedTuple):
    """Rows in eight bits with a scale each."""

    values: Tensor  # (rows, width) in E4M3
    scale: Tensor  # (rows, 1) in fp32


class Fp8States(NamedTuple):
    """Hidden states between layers: in bf16 for the residual, and in eight bits for the next linear layer."""

    plain: Tensor  # (tokens, width)
    quantized: Float8Tensor

    def index_select(self, dim: int, index: Tensor) -> Fp8States:
        """Choose tokens, as of a tensor."""
        plain = self.plain.index_select(dim, index)
        return Fp8States(plain, Float8Tensor(*quantize(plain)))

    def float(self) -> Tensor:
        """Return the states in fp32, as of a tensor."""
        return self.plain.float()


# --- operators between linear layers, see handler.engine.fusion ------------------------------------------------------


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize every row to eight bits, and return its scale: its largest magnitude becomes E4M3_MAX."""
    x = x.float()
    scale = (x.abs().amax(-1, keepdim=True) / E4M3_MAX).clamp(min=1e-12)
    return (x / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3), scale


def activation_quantize(x: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """Apply an activation to (rows, width) and quantize; the scale is that of the activation of the largest input."""
    function, x = ACTIVATIONS[activation][2], x.float()
    scale = function(x.amax(-1, keepdim=True)).clamp(min=GELU_MIN_MAGNITUDE) / E4M3_MAX
    return (function(x) / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3), scale


def add_norm_quantize(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Add a residual (rows, width) and normalize every row; return it plain, quantized, and its scale."""
    states = fusion.add_norm(x, residual, weight, bias, eps)
    return states, *quantize(states)


class FusedOps(NamedTuple):
    """The operators between the linear layers of a model, plain or compiled."""

    quantize: Op = quantize
    activation_quantize: Op = activation_quantize
    add_norm_quantize: Op = add_norm_quantize


def compiled_ops(layer: Layer) -> FusedOps:
    """Return the operators of a prepacked layer, compiled; plain ones where that fails."""
    arguments, inner_width = fusion.example_of(layer, torch.bfloat16), len(layer.linears["intermediate"].dense()[1])

    def narrow(rows: int) -> tuple[Any, ...]:
        return arguments(rows)[:1]

    def wide(rows: int) -> tuple[Any, ...]:
        return arguments(rows)[0].new_empty(rows, inner_width).normal_(), layer.activation

    ops = fusion.compile_ops([(quantize, narrow), (activation_quantize, wide), (add_norm_quantize, arguments)])
    return FusedOps() if ops is None else FusedOps(*ops)


# --- layers ----------------------------------------------------------------------------------------------------------


class Fp8Linear(Linear):
    """x W^T + b in eight-bit floats, (tokens, in) -> (tokens, out) in bf16."""

    def __init__(self, linear: Linear, ops: FusedOps) -> None:
        """Quantize the weights of a prepacked linear layer."""
        super().__init__()
        weight, bias = linear.dense()
        values, scale = quantize(weight)
        self.values = values.contiguous().t()  # (in, out), each column contiguous, as the hardware reads it
        self.scale = scale.t().contiguous()  # (1, out)
        self.bias, self._ops = bias.to(torch.bfloat16), ops
        self.multiply: Callable[..., Tensor] = scaled_matmul

    def __call__(
        self, x: Any, activation: str | None = None, residual: Tensor | None = None, factor: Tensor | None = None
    ) -> Any:
        """Multiply; with an activation, return a Float8Tensor.

        Args:
            x: Fp8States, a Float8Tensor, or a tensor, which is quantized first.
            residual: never given; `AddNormQuantize` adds it.
            factor: never given, as no layer in fp8 has a gate.
        """
        if isinstance(x, Fp8States):
            x = x.quantized
        elif not isinstance(x, Float8Tensor):
            x = Float8Tensor(*self._ops.quantize(x))
        y = self.multiply(x, self.values, self.scale, self.bias)
        return y if activation is None else Float8Tensor(*self._ops.activation_quantize(y, activation))


class AddNormQuantize:
    """The end of each half of a layer in fp8, see `Layer`."""

    def __init__(self, ops: FusedOps) -> None:
        self.ops = ops

    def __call__(self, linear: Linear, x: Any, residual: Fp8States, norm: LayerNorm) -> Fp8States:
        y: Any = linear(x)
        plain, values, scale = self.ops.add_norm_quantize(y, residual.plain, norm.weight, norm.bias, norm.eps)
        return Fp8States(plain, Float8Tensor(values, scale))


def fp8_layer(layer: Layer, ops: FusedOps) -> Layer:
    """Quantize a prepacked layer; the result works on Fp8States."""
    linears = {name: Fp8Linear(linear, ops) for name, linear in layer.linears.items()}
    return layer.with_operators(AddNormQuantize(ops), linears)


class Fp8Encoder(PackedEncoder):
    """Layers in eight-bit floats."""

    def __init__(self, encoder: PackedEncoder, ops: FusedOps) -> None:
        """Quantize the layers of a prepacked encoder one by one; it loses its own, and so their memory."""
        super().__init__([], encoder.n_heads, torch.bfloat16)
        self.surroundings = encoder.surroundings
        self._ops = ops
        while encoder.layers:
            self.layers.append(fp8_layer(encoder.layers.pop(0), ops))

    def enter(self, states: Tensor) -> Any:
        plain = states.to(self.dtype)
        return Fp8States(plain, Float8Tensor(*self._ops.quantize(plain)))


def scaled_matmul(rows: Float8Tensor, weight: Tensor, scale: Tensor, bias: Tensor, *, fast_sums: bool = True) -> Tensor:
    """Multiply eight-bit rows (rows, in) by a weight (in, out) with a scale (1, out), to bf16.

    Args:
        fast_sums: whether Hopper keeps about 14 bits of a sum, as its matrix units do.
    """
    if rows.values.is_cuda:
        options: dict[str, Any] = {"bias": bias, "out_dtype": torch.bfloat16, "use_fast_accum": fast_sums}
        return torch._scaled_mm(rows.values, weight, rows.scale, scale, **options)
    return matmul_in_fp32(rows, weight, scale, bias)


def matmul_in_fp32(rows: Float8Tensor, weight: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Multiply the numbers of `scaled_matmul` in fp32."""
    return (rows.values.float() @ weight.float() * rows.scale * scale + bias.float()).to(torch.bfloat16)


class CheckedLayer:
    """A layer in fp8 that compares its output with that of the same layer whose products are computed in fp32."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer

    def __call__(self, x: Fp8States, attention: Attention) -> Fp8States:
        states: Fp8States = self._layer(x, attention)
        linears: list[Any] = list(self._layer.linears.values())
        for linear in linears:
            linear.multiply = matmul_in_fp32
        expected: Fp8States = self._layer(x, attention)
        for linear in linears:
            linear.multiply = scaled_matmul
        if not fusion.rows_allclose(states.plain, expected.plain, LAYER_RTOL):
            raise ModelMismatch("the products of a layer in fp8 are not those of the same numbers in fp32 here")
        return states


@contextlib.contextmanager
def checked(encoder: Fp8Encoder) -> Iterator[None]:
    """Compare every layer with its products in fp32; raises ModelMismatch in the forward pass where one differs."""
    layers, encoder.layers = encoder.layers, [CheckedLayer(layer) for layer in encoder.layers]
    try:
        yield
    finally:
        encoder.layers = layers


def install(model: PreTrainedModel, *, fuse: bool = False) -> None:
    """Quantize the prepacked encoder of a model, in its place."""
    encoder = encoder_of(model.base_model)
    if not isinstance(encoder, PackedEncoder):
        raise TypeError(f"{type(model).__name__} has no packed encoder")
    ops = compiled_ops(encoder.layers[0]) if fuse else FusedOps()
    replace_encoder(model.base_model, Fp8Encoder(encoder, ops))


def unsupported_reason(encoder: nn.Module) -> str:
    """Return why a prepacked encoder cannot be quantized; an empty string where it can."""
    if not isinstance(encoder, PackedEncoder):
        return "its layers are none that this handler knows"
    if not encoder.is_like_bert:
        return "its layers have more than those of BERT"
    widths = {width for linear in encoder.layers[0].linears.values() for width in linear.dense()[0].shape}
    invalid = sorted(width for width in widths if width % WIDTH_MULTIPLE)
    return f"a width of {invalid[0]} is no multiple of {WIDTH_MULTIPLE}" if invalid else ""


@functools.cache
def supported(device: torch.device) -> bool:
    """Tell whether the device multiplies eight-bit floats with a scale for each row and column, by doing it."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        return False
    return all(_multiplies(device, *shape) for shape in PROBE_SHAPES)


def _multiplies(device: torch.device, rows: int, width: int) -> bool:
    """Multiply ones (rows, width) by ones (width, width) and add ones; log why it fails."""
    ones, weight = (Float8Tensor(*quantize(torch.ones(n, width, device=device))) for n in (rows, width))
    bias = torch.ones(width, device=device, dtype=torch.bfloat16)
    try:
        product = scaled_matmul(ones, weight.values.t(), weight.scale.t().contiguous(), bias)
        error = "" if (product == bias + width).all() else "the product is wrong"
    except RuntimeError as failure:  # cuBLAS has no such kernel for some architectures (GeForce of Blackwell, 2026-08)
        error = " ".join(str(failure).split())[:200]
    if error:
        logger.warning("no fp8: %d rows of width %d cannot be multiplied: %s", rows, width, error)
    return not error
