"""fp8 (E4M3): a scale for each output of a weight, and one for each activation of a layer, computed from the weights.

The scales of activations are those of fp8_scales.py: nothing has to be calibrated, and the output for a text depends on
no other text. Whether a model keeps its accuracy is measured when it is packed (scripts/archives/fp8.py). The residual,
and everything but the linear layers, stays in bf16. On a CPU the same numbers are multiplied in fp32, slowly: for that
measurement, and for tests.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from handler.engine import fusion
from handler.engine.attention import Attention
from handler.engine.encoder import Layer, PackedEncoder
from handler.engine.families import encoder_of, replace_encoder
from handler.engine.fp8_scales import E4M3, E4M3_MAX, NormalizedRows, embedding_rows, scales_of
from handler.engine.fusion import Op
from handler.engine.linear import ACTIVATIONS, LayerNorm, Linear
from handler.errors import ModelMismatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

WIDTH_MULTIPLE = 16  # of every width, which the hardware requires
PROBE_SHAPES = ((32, 128), (256, 1024))  # rows and width of products that must work: of the tests, of bert-large
PRODUCT_RTOL = 0.01  # of the norm of a row; of one product, where Hopper keeps 14 bits of a sum: 0.002 (an H200)
# Of the norm of a row: one layer's products on the device against the same numbers in fp32. Sums that differ by 0.002
# round some numbers to the next one in eight bits: 0.035 in a fine-tuned model, 0.05 with random weights (simulated).
LAYER_RTOL = 0.15


class Fp8States(NamedTuple):
    """Hidden states between layers: in bf16 for the residual, and in eight bits for the next linear layer."""

    plain: Tensor  # (tokens, width)
    values: Tensor  # (tokens, width) in E4M3

    def index_select(self, dim: int, index: Tensor) -> Fp8States:
        """Choose tokens, as of a tensor."""
        values = self.values.view(torch.uint8).index_select(dim, index).view(E4M3)
        return Fp8States(self.plain.index_select(dim, index), values)

    def float(self) -> Tensor:
        """Return the states in fp32, as of a tensor."""
        return self.plain.float()


# --- operators between linear layers, see handler.engine.fusion ------------------------------------------------------


def quantize(x: Tensor, scale: Tensor) -> Tensor:
    """Divide by a scale and round to E4M3, without infinities."""
    return (x.float() / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3)


def activation_quantize(x: Tensor, scale: Tensor, activation: str) -> Tensor:
    """Apply an activation to (rows, width) and quantize."""
    return quantize(ACTIVATIONS[activation][2](x.float()), scale)


def add_norm_quantize(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Add a residual (rows, width) and normalize every row; return it plain and quantized."""
    states = fusion.add_norm(x, residual, weight, bias, eps)
    return states, quantize(states, scale)


class FusedOps(NamedTuple):
    """The operators between the linear layers of a model, plain or compiled."""

    quantize: Op = quantize
    activation_quantize: Op = activation_quantize
    add_norm_quantize: Op = add_norm_quantize


def compiled_ops(layer: Layer) -> FusedOps:
    """Return the operators of a prepacked layer, compiled; plain ones where that fails."""
    arguments, inner_width = fusion.example_of(layer, torch.bfloat16), len(layer.linears["intermediate"].dense()[1])
    scale = torch.tensor(0.1, device=layer.norms["output_norm"].weight.device)

    def narrow(rows: int) -> tuple[Any, ...]:
        return *arguments(rows)[:1], scale

    def wide(rows: int) -> tuple[Any, ...]:
        return arguments(rows)[0].new_empty(rows, inner_width).normal_(), scale, layer.activation

    def normed(rows: int) -> tuple[Any, ...]:
        *tensors, eps = arguments(rows)
        return *tensors, scale, eps

    ops = fusion.compile_ops([(quantize, narrow), (activation_quantize, wide), (add_norm_quantize, normed)])
    return FusedOps() if ops is None else FusedOps(*ops)


# --- layers ----------------------------------------------------------------------------------------------------------


class Fp8Linear(Linear):
    """x W^T + b in eight-bit floats, (tokens, in) -> (tokens, out) in bf16."""

    def __init__(self, linear: Linear, ops: FusedOps, input_scale: Tensor, output_scale: Tensor | None = None) -> None:
        """Quantize the weights of a prepacked linear layer.

        Args:
            input_scale: of the numbers that it reads.
            output_scale: of its outputs after an activation, which it then returns in eight bits. Its weights have one
                scale, for no hardware has products with more and outputs in eight bits.
        """
        super().__init__()
        weight, bias = linear.dense()
        largest = weight.float().abs().amax(1, keepdim=True)
        scale = ((largest if output_scale is None else largest.max().expand_as(largest)) / E4M3_MAX).clamp(min=1e-12)
        self.values = quantize(weight, scale).contiguous()  # (out, in)
        self.weight_scale = scale[0, 0].clone()  # of all outputs, where there is an `output_scale`
        self.scale = (scale * input_scale).t().contiguous()  # (1, out), of a product in eight bits
        self.bias, self._ops = bias.to(torch.bfloat16), ops
        self.input_scale, self.output_scale = input_scale, output_scale
        self.multiply: Callable[[Tensor, Fp8Linear], Tensor] = scaled_matmul
        self.activated: Callable[[Tensor], Tensor] | None = None  # multiplies, applies GELU and quantizes at once

    @classmethod
    def of(cls, weight: Tensor, input_scale: Tensor, output_scale: Tensor | None = None) -> Fp8Linear:
        """Quantize a weight (out, in), without a bias; scales as of the constructor."""
        module = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        module.weight = nn.Parameter(weight, requires_grad=False)
        linear = Linear(module)
        linear.prepack(torch.float32, order="rows")
        return cls(linear, FusedOps(), input_scale, output_scale)

    def __call__(
        self, x: Any, activation: str | None = None, residual: Tensor | None = None, factor: Tensor | None = None
    ) -> Any:
        """Multiply; with an activation, return (tokens, out) in E4M3.

        Args:
            x: Fp8States, or (tokens, in): in E4M3, or in bf16, which is quantized first.
            residual: never given; `AddNormQuantize` adds it.
            factor: never given, as no layer in fp8 has a gate.
        """
        values: Tensor = x.values if isinstance(x, Fp8States) else x
        if values.dtype != E4M3:
            values = self._ops.quantize(values, self.input_scale)
        if activation is not None and self.activated is not None:
            return self.activated(values)
        y = self.multiply(values, self)
        return y if activation is None else self._ops.activation_quantize(y, self.output_scale, activation)

    def fuse_gelu(self) -> None:
        """Let cuBLASLt apply GELU, in its tanh form, and quantize within the product.

        Raises:
            RuntimeError, ValueError: there is no such product here.
        """
        from handler.engine.cublaslt import GeluProduct  # of no use without a GPU

        if self.output_scale is None:
            raise ValueError("no scale of the output")
        product = GeluProduct(self.values, self.weight_scale, self.bias)
        inverse = 1 / self.output_scale
        self.activated = lambda values: product(values, self.input_scale, inverse)


class AddNormQuantize:
    """The end of each half of a layer in fp8, see `Layer`."""

    def __init__(self, ops: FusedOps, scales: Mapping[LayerNorm, Tensor]) -> None:
        self.ops, self._scales = ops, scales

    def __call__(self, linear: Linear, x: Any, residual: Fp8States, norm: LayerNorm) -> Fp8States:
        y: Any = linear(x)
        return Fp8States(
            *self.ops.add_norm_quantize(y, residual.plain, norm.weight, norm.bias, self._scales[norm], norm.eps)
        )


class Fp8Layer(Layer):
    """A layer that works on Fp8States."""

    context_inverse: float  # by which the context is multiplied before it is rounded

    @classmethod
    def of(cls, layer: Layer, ops: FusedOps, rows: NormalizedRows) -> Fp8Layer:
        """Quantize a prepacked layer that reads `rows`."""
        scales = scales_of(layer, rows)
        reads = {
            "attention_output": scales.context,
            "intermediate": scales.attention_output,
            "output": scales.intermediate,
        }
        writes = {"intermediate": scales.intermediate}
        linears = {
            name: Fp8Linear(linear, ops, reads.get(name, scales.input), writes.get(name))
            for name, linear in layer.linears.items()
        }
        quantized = cls(linears, layer.norms, layer.activation, layer.attention, is_last=layer.is_last)
        norms = layer.norms["attention_norm"], layer.norms["output_norm"]
        quantized.add_norm = AddNormQuantize(
            ops, dict(zip(norms, (scales.attention_output, scales.output), strict=True))
        )
        quantized.context_inverse = 1 / float(scales.context)
        return quantized

    def attend(self, x: Any, residual: Any, attention: Attention) -> tuple[Any, Any]:
        """Let the tile kernel, where there is one, write the context in eight bits."""
        if attention.tile_kernel is None or self.is_last:
            return super().attend(x, residual, attention)
        return attention.attend_tiles(self.linears["qkv"](x), self.context_inverse), residual


class Fp8Encoder(PackedEncoder):
    """Layers in eight-bit floats."""

    def __init__(self, encoder: PackedEncoder, ops: FusedOps, rows: NormalizedRows) -> None:
        """Quantize the layers of a prepacked encoder one by one; it loses its own, and so their memory.

        Args:
            rows: what the first layer reads.
        """
        super().__init__([], encoder.n_heads, torch.bfloat16)
        self.surroundings = encoder.surroundings
        self._ops, self._input_scale = ops, (rows.bound() / E4M3_MAX).clamp(min=1e-12)  # as `scales_of`: no 0 / 0
        while encoder.layers:
            layer = encoder.layers.pop(0)
            self.layers.append(Fp8Layer.of(layer, ops, rows))
            rows = NormalizedRows.of(layer.norms["output_norm"])

    def fuse_gelu(self) -> None:
        """Let cuBLASLt apply the activation where it is a GELU; log a warning where it cannot."""
        if not self.layers[0].activation.startswith("gelu"):
            return
        linears = [layer.linears["intermediate"] for layer in self.layers]
        example = torch.zeros(PROBE_SHAPES[0][0], linears[0].values.shape[1], device=linears[0].values.device)
        try:
            for linear in linears:
                linear.fuse_gelu()
            linears[0].activated(example.to(E4M3))
        except (RuntimeError, ValueError, OSError) as error:
            for linear in linears:
                linear.activated = None
            logger.warning("GELU in fp8 is not within the product, which is slower: %s", " ".join(str(error).split()))

    def enter(self, states: Tensor) -> Any:
        plain = states.to(self.dtype)
        return Fp8States(plain, self._ops.quantize(plain, self._input_scale))


def scaled_matmul(values: Tensor, linear: Fp8Linear, *, fast_sums: bool = True) -> Tensor:
    """Multiply rows (rows, in) in E4M3 by the weights of a linear layer, to bf16.

    Args:
        fast_sums: whether Hopper keeps about 14 bits of a sum, as its matrix units do.
    """
    if not values.is_cuda:
        return matmul_in_fp32(values, linear)
    weight = linear.values.t()  # each column contiguous, as the hardware reads it
    options: dict[str, Any] = {"bias": linear.bias, "out_dtype": torch.bfloat16, "use_fast_accum": fast_sums}
    return torch._scaled_mm(values, weight, ones(len(values), values.device), linear.scale, **options)


def ones(n: int, device: torch.device) -> Tensor:
    """Return ones (n, 1) in fp32: a scale for each row, which the hardware wants where each output has one."""
    return _ones(1 << max(16, (n - 1).bit_length()), device)[:n]


@functools.cache
def _ones(n: int, device: torch.device) -> Tensor:
    with torch.inference_mode():
        return torch.ones(n, 1, device=device)


def matmul_in_fp32(values: Tensor, linear: Fp8Linear) -> Tensor:
    """Multiply the numbers of `scaled_matmul` in fp32."""
    product = values.float() @ linear.values.t().float() * linear.scale
    return (product + linear.bias.float()).to(torch.bfloat16)


class CheckedLayer:
    """A layer in fp8 that compares its output with that of the same layer whose products are computed in fp32."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer

    def __call__(self, x: Fp8States, attention: Attention) -> Fp8States:
        states: Fp8States = self._layer(x, attention)
        linears: list[Any] = list(self._layer.linears.values())
        products = [(linear, linear.multiply, linear.activated) for linear in linears]
        for linear in linears:
            linear.multiply, linear.activated = matmul_in_fp32, None
        expected: Fp8States = self._layer(x, attention)
        for linear, multiply, activated in products:
            linear.multiply, linear.activated = multiply, activated
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
    encoder, rows = encoder_of(model.base_model), embedding_rows(model.base_model)
    if not isinstance(encoder, PackedEncoder) or rows is None:
        raise TypeError(f"{type(model).__name__} has no packed encoder after a norm")
    ops = compiled_ops(encoder.layers[0]) if fuse else FusedOps()
    quantized = Fp8Encoder(encoder, ops, rows)
    if fuse:
        quantized.fuse_gelu()
    replace_encoder(model.base_model, quantized)


def unsupported_reason(model: Any) -> str:
    """Return why a model with a prepacked encoder cannot be quantized; an empty string where it can."""
    encoder = encoder_of(model.base_model)
    if not isinstance(encoder, PackedEncoder):
        return "its layers are none that this handler knows"
    if not encoder.is_like_bert or embedding_rows(model.base_model) is None:
        return "its layers have more than those of BERT"
    widths = {width for linear in encoder.layers[0].linears.values() for width in linear.dense()[0].shape}
    invalid = sorted(width for width in widths if width % WIDTH_MULTIPLE)
    return f"a width of {invalid[0]} is no multiple of {WIDTH_MULTIPLE}" if invalid else ""


@functools.cache
def supported(device: torch.device) -> bool:
    """Tell whether the device multiplies eight-bit floats with a scale for each output, by doing it."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        return False
    return all(_multiplies(device, *shape) for shape in PROBE_SHAPES)


def _multiplies(device: torch.device, rows: int, width: int) -> bool:
    """Multiply random rows (rows, width) by a weight (width, width); log why it fails."""
    scale = torch.tensor(0.01, device=device)
    x, weight = (torch.randn(n, width, device=device) for n in (rows, width))
    linear = Fp8Linear.of(weight, scale)
    values = quantize(x, scale)
    try:
        same = fusion.rows_allclose(scaled_matmul(values, linear), matmul_in_fp32(values, linear), PRODUCT_RTOL)
        error = "" if same else "the product is wrong"
    except RuntimeError as failure:  # cuBLAS has no such kernel for some architectures (GeForce of Blackwell, 2026-08)
        error = " ".join(str(failure).split())[:200]
    if error:
        logger.warning("no fp8: %d rows of width %d cannot be multiplied: %s", rows, width, error)
    return not error
