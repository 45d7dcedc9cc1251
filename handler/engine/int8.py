"""int8: weights -127..127 with a scale for each output, activations 0..255 with a scale for each quantization point.

All scales are computed when the archive is built (scripts/archives/calibration.py) and never change, so the output for
a text depends on no other text. Residuals stay in fp32; a layer norm writes quantized values beside them, for the next
linear layer.

Two methods keep a few large values from taking the precision of all others. A channel with large values is divided by
a factor of its own before it is quantized, and its weights are multiplied by it (SmoothQuant: Xiao et al. 2023). After
the activation function all channels share one range; values above its top are moved to additional channels, which
have the same weights and start where the range ends: h = min(h, top) + min(max(h - top, 0), top) + ... (outlier channel
splitting).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from handler.engine.attention import Attention
from handler.engine.encoder import READS, PackedEncoder
from handler.engine.kernels import layer_norm_quantize, saturate_u8
from handler.engine.linear import ACTIVATIONS
from handler.engine.native_encoder import NativeEncoder, NativeLayer, NativeNorm, PackedLinear
from handler.engine.native_encoder import supports as native_supports

FILE = "int8.safetensors"  # in the model folder

MAX_DEQUANTIZED_ROWS = 1024  # of an embedding that is loaded in fp32: it is read faster, and takes little memory

POINTS = ("input", "context", "attention_output", "intermediate")  # activations that are quantized in a layer
SMOOTHED = POINTS[:3]


class QuantParams(NamedTuple):
    """Affine quantization of real numbers to 0..255: scale * (integer - zero_point)."""

    scale: float
    zero_point: int

    @classmethod
    def from_range(cls, low: float, high: float) -> QuantParams:
        """Return the parameters of the range from `low` to `high`, widened to hold 0.

        >>> QuantParams.from_range(-1.0, 4.1)
        QuantParams(scale=0.02, zero_point=50)
        """
        low, high = min(low, 0.0), max(high, 0.0)
        scale = round(max((high - low) / 255, 1e-8), 12)
        return cls(scale, round(-low / scale))


class LayerQuantParams(NamedTuple):
    """How the activations of one layer are quantized."""

    params: dict[str, QuantParams]  # of each of POINTS
    smoothing: dict[str, Tensor]  # (width,) by which the channels of each of SMOOTHED are divided first
    split_channels: Tensor  # (n,) int64: the intermediate channel that each additional channel continues
    split_starts: Tensor  # (n,) the value of its channel at which each additional channel starts


class StoredLinear(NamedTuple):
    """The quantized weights of a linear layer, as the file holds them."""

    weight: Tensor  # (out, in) int8
    scale: Tensor  # (out,)
    bias: Tensor  # (out,)


class StoredLayer(NamedTuple):
    """One layer, as the file holds it."""

    linears: dict[str, StoredLinear]  # by the keys of `READS`
    norms: dict[str, tuple[Tensor, Tensor]]  # weight and bias of "attention_norm" and "output_norm"
    params: dict[str, QuantParams]  # of each of POINTS
    smoothing: dict[str, Tensor]  # of each of SMOOTHED

    def output_units(self) -> dict[str, Tensor]:
        """Return what the outputs of a linear layer are divided by, where it is not 1.

        Values are divided by the scale of the context: attention weights add up to one, so the context is as well.
        """
        context_unit = self.smoothing["context"] * self.params["context"].scale
        n_keys = len(self.linears["qkv"].bias) - len(context_unit)
        return {"qkv": torch.cat([torch.ones(n_keys), context_unit])}


class Int8Linear:
    """x W^T + b of quantized activations (tokens, in), by oneDNN."""

    def __init__(self, stored: StoredLinear, input_params: QuantParams, output_unit: Tensor | None = None) -> None:
        """Prepack the weights.

        Args:
            output_unit: (out,) by which each output is divided; by default 1.
        """
        unit = torch.ones(len(stored.bias)) if output_unit is None else output_unit
        self._input_params = input_params
        self._weight = torch.ops.onednn.qlinear_prepack(stored.weight, None)
        self._scale = stored.scale / unit
        self._bias = stored.bias / unit
        self._zero_points = torch.zeros(len(self._scale), dtype=torch.int64)

    def __call__(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return (tokens, out) in floating point."""
        return self._run(x, QuantParams(1.0, 0), dtype, "none", "")

    def with_activation(self, x: Tensor, activation: str, output_params: QuantParams) -> Tensor:
        """Apply an activation, and return quantized values (tokens, out)."""
        name, algorithm = ACTIVATIONS[activation][:2]
        return self._run(x, output_params, torch.uint8, name, algorithm)

    def add_to(self, x: Tensor, residual: Tensor) -> Tensor:
        """Add to a residual (tokens, out) in fp32, in place."""
        return torch.ops.onednn.qlinear_pointwise.binary(  # type: ignore[no-any-return]
            x,
            *self._input_params,
            *(self._weight, self._scale, self._zero_points, residual, self._bias),
            *(1.0, 0, torch.float32, 1.0, 0, "sum", 1.0, "none", [], ""),
        )

    def _run(self, x: Tensor, output_params: QuantParams, dtype: torch.dtype, name: str, algorithm: str) -> Tensor:
        return torch.ops.onednn.qlinear_pointwise(  # type: ignore[no-any-return]
            x,
            *self._input_params,
            *(self._weight, self._scale, self._zero_points, self._bias),
            *(*output_params, dtype, name, [], algorithm),
        )


class Quantize:
    """Quantization of real numbers (tokens, width), with a scale for each channel."""

    def __init__(self, params: QuantParams, smoothing: Tensor) -> None:
        self.multiplier = 1 / (smoothing * params.scale)  # (width,)
        self.zero_point = params.zero_point + 0.5  # truncation then rounds to the nearest

    def __call__(self, x: Tensor) -> Tensor:
        return saturate_u8(torch.addcmul(torch.tensor(self.zero_point), x, self.multiplier))


class LayerNormQuantize:
    """A layer norm in fp32 that returns its output for the next residual, and quantized for the next linear layer."""

    def __init__(self, weight: Tensor, bias: Tensor, eps: float, quantize: Quantize) -> None:
        self._weight, self._bias, self._eps, self._quantize = weight, bias, eps, quantize

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        multiplier, zero_point = self._quantize.multiplier, self._quantize.zero_point
        return layer_norm_quantize(x, self._weight, self._bias, self._eps, multiplier, zero_point)


class Int8Layer:
    """One layer. Its states are a pair: (tokens, width) in fp32, and the same quantized."""

    def __init__(self, stored: StoredLayer, activation: str, eps: float, quantize_output: Quantize) -> None:
        """Prepack a stored layer; `quantize_output` quantizes its output for the layer that follows."""
        params, linears = stored.params, stored.linears
        self._activation = activation
        self._context_zero_point = params["context"].zero_point + 0.5
        self._intermediate_params = params["intermediate"]
        self._qkv = Int8Linear(linears["qkv"], params["input"], stored.output_units()["qkv"])
        self._query = Int8Linear(linears["query"], params["input"]) if "query" in linears else None
        self._attention_output = Int8Linear(linears["attention_output"], params["context"])
        self._intermediate = Int8Linear(linears["intermediate"], params["attention_output"])
        self._output = Int8Linear(linears["output"], params["intermediate"])
        quantize = Quantize(params["attention_output"], stored.smoothing["attention_output"])
        self._attention_norm = LayerNormQuantize(*stored.norms["attention_norm"], eps, quantize)
        self._output_norm = LayerNormQuantize(*stored.norms["output_norm"], eps, quantize_output)

    def __call__(self, x: tuple[Tensor, Tensor], attention: Attention) -> tuple[Tensor, Tensor]:
        """Compute all tokens; in the last layer those that are read, from the keys and values of all."""
        residual, quantized = x
        read_positions = attention.read_positions if self._query is not None else None
        qkv, query = self._qkv(quantized, attention.dtype), None
        if self._query is not None:
            if read_positions is not None and attention.one_each:
                queried = quantized.index_select(0, read_positions)
            else:
                queried = quantized
            query = self._query(queried, attention.dtype)
        context = attention(qkv, query, self._context_zero_point)
        if read_positions is not None:
            context = context if attention.one_each else context.index_select(0, read_positions)
            residual = residual.index_select(0, read_positions)
        residual, quantized = self._attention_norm(self._attention_output.add_to(context, residual))
        intermediate = self._intermediate.with_activation(quantized, self._activation, self._intermediate_params)
        return self._output_norm(self._output.add_to(intermediate, residual))


class Int8Encoder(PackedEncoder):
    """Layers in int8."""

    def __init__(self, layers: Sequence[Int8Layer], quantize: Quantize, n_heads: int, dtype: torch.dtype) -> None:
        """Compose an encoder; `quantize` quantizes the embeddings, `dtype` is that of queries, keys and values."""
        super().__init__(layers, n_heads, dtype)
        self._quantize = quantize

    def enter(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return states.clone(), self._quantize(states)  # residuals are added to in place

    def leave(self, x: tuple[Tensor, Tensor]) -> Tensor:
        return x[0]


class Int8Embedding(nn.Module):
    """An embedding table in int8 with a scale for each row."""

    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight[ids].float() * self.scale[ids][..., None]


def float_embedding(weight: Tensor) -> nn.Embedding:
    """Return an embedding table that does not copy its weight."""
    table: nn.Embedding = nn.Embedding.from_pretrained(weight)  # type: ignore[no-untyped-call]
    return table


def embedding(weight: Tensor, scale: Tensor) -> nn.Module:
    """Return an embedding table in int8, or in fp32 where it is small."""
    if len(scale) < MAX_DEQUANTIZED_ROWS:
        return float_embedding(weight.float() * scale[:, None])
    return Int8Embedding(weight, scale)


def int8_encoder(
    stored: Sequence[StoredLayer], activation: str, eps: float, n_heads: int, dtype: torch.dtype
) -> Int8Encoder:
    """Build the encoder from its stored layers."""
    quantizers = [Quantize(layer.params["input"], layer.smoothing["input"]) for layer in stored]
    output_quantizers = [*quantizers[1:], quantizers[0]]  # no linear layer reads the output of the last one
    pairs = list(zip(stored, output_quantizers, strict=True))
    encoder = Int8Encoder([], quantizers[0], n_heads, dtype)
    if native_supports(torch.uint8, activation, len(quantizers[0].multiplier), n_heads):
        layers = [native_layer(layer, eps, quantize_output) for layer, quantize_output in pairs]
        quantize = (quantizers[0].multiplier, quantizers[0].zero_point)
        encoder.native = NativeEncoder(layers, n_heads, torch.uint8, dtype, activation, *quantize)
    else:
        encoder.layers = [Int8Layer(layer, activation, eps, quantize_output) for layer, quantize_output in pairs]
    return encoder


def native_layer(stored: StoredLayer, eps: float, quantize_output: Quantize) -> NativeLayer:
    """Return a stored layer for the native encoder; see `Int8Layer`, which computes the same by operators."""
    params, units = stored.params, stored.output_units()
    linears = {}
    for name, linear in stored.linears.items():
        input_params, unit = params[READS[name]], units.get(name, torch.ones(()))
        scale, bias = linear.scale * input_params.scale / unit, linear.bias / unit
        linears[name] = PackedLinear.in_int8(linear.weight, scale, bias, input_params.zero_point)
    quantize = Quantize(params["attention_output"], stored.smoothing["attention_output"])

    def norm(name: str, quantize: Quantize) -> NativeNorm:
        return NativeNorm(*stored.norms[name], eps, quantize.multiplier, quantize.zero_point)

    return NativeLayer(
        linears,
        attention_norm=norm("attention_norm", quantize),
        output_norm=norm("output_norm", quantize_output),
        context_zero_point=params["context"].zero_point + 0.5,
        intermediate_inv_scale=1 / params["intermediate"].scale,
        intermediate_zero_point=params["intermediate"].zero_point + 0.5,
    )


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows of integers -127..127, and the scale of each row."""
    scale = (weight.abs().amax(1) / 127).clamp_(min=1e-12)
    return (weight / scale[:, None]).round_().to(torch.int8), scale


def supported(device: torch.device) -> bool:
    """Tell whether the device multiplies eight-bit integers in hardware, without overflow on the way (VNNI, AMX)."""
    flags = torch.cpu.get_capabilities()
    has_instructions = any(flags.get(flag) for flag in ("avx512_vnni", "avx_vnni", "amx_int8"))
    has_onednn: Any = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return device.type == "cpu" and has_instructions and bool(has_onednn)
