"""int8: weights -127..127 with a scale for each output, activations 0..255 with a scale for each quantization point.

All scales are computed when the archive is built (scripts/archives/calibration.py) and never change, so the output for
a text depends on no other text. Residuals stay in fp32; a norm writes quantized values beside them, for the next linear
layer.

Two methods keep a few large values from taking the precision of all others. A channel with large values is divided by
a factor of its own before it is quantized, and its weights are multiplied by it (SmoothQuant: Xiao et al. 2023). After
an activation function all channels share one range; values above its top are moved to additional channels, which
have the same weights and start where the range ends: h = min(h, top) + min(max(h - top, 0), top) + ... (outlier channel
splitting). With a gate the factors divide what the gate multiplies, and nothing is split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from handler.engine.attention import Attention
from handler.engine.encoder import READS, PackedEncoder
from handler.engine.kernels import layer_norm_quantize, library, saturate_u8
from handler.engine.layer_attention import LayerAttention
from handler.engine.linear import ACTIVATIONS
from handler.engine.native_encoder import NativeEncoder, NativeLayer, NativeNorm, PackedLinear
from handler.engine.native_encoder import supports as native_supports
from handler.engine.relative import DisentangledBias

FILE = "int8.safetensors"  # in the model folder

MAX_DEQUANTIZED_ROWS = 1024  # of an embedding that is loaded in fp32: it is read faster, and takes little memory

POINTS = ("input", "context", "attention_output", "intermediate")  # activations that are quantized in a layer
SMOOTHED = POINTS[:3]  # and the last one, in a layer with a gate


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
    smoothing: dict[str, Tensor]  # (channels,) by which the channels of some points are divided first
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
    norms: dict[str, tuple[Tensor, Tensor | None]]  # by the names of `Layer`: weight, and bias; None: an RMSNorm
    params: dict[str, QuantParams]  # of each of POINTS
    smoothing: dict[str, Tensor]  # as of LayerQuantParams

    def output_units(self) -> dict[str, Tensor]:
        """Return what the outputs of a linear layer are divided by, where it is not 1.

        Values are divided by the scale of the context: attention weights add up to one, so the context is as well.
        """
        context_unit = self.smoothing["context"] * self.params["context"].scale
        n_keys = len(self.linears["qkv"].bias) - len(context_unit)
        units = {"qkv": torch.cat([torch.ones(n_keys), context_unit])}
        return units | ({"intermediate": self.smoothing["intermediate"]} if "gate" in self.linears else {})


class StoredEncoder(NamedTuple):
    """All layers, as the file holds them."""

    layers: list[StoredLayer]
    eps: float  # of all norms
    pre_norm: bool  # whether norms are computed of what the halves of a layer read, not of what they return


class Quantize:
    """Quantization of real numbers (tokens, width), with a scale for each channel."""

    def __init__(self, params: QuantParams, smoothing: Tensor) -> None:
        self.multiplier = 1 / (smoothing * params.scale)  # (width,)
        self.zero_point = params.zero_point + 0.5  # truncation then rounds to the nearest

    def __call__(self, x: Tensor) -> Tensor:
        return saturate_u8(torch.addcmul(torch.tensor(self.zero_point), x, self.multiplier))


class Int8Linear:
    """x W^T + b of quantized activations (tokens, in), by oneDNN."""

    def __init__(self, stored: StoredLinear, input_params: QuantParams, output_unit: Tensor | None = None) -> None:
        """Prepack the weights.

        Args:
            output_unit: (out,) by which each output is divided; by default 1.
        """
        unit = torch.ones(len(stored.bias)) if output_unit is None else output_unit
        self._input_params = input_params
        self._weight = self._prepack(stored.weight)
        self._scale = stored.scale / unit
        self._bias = stored.bias / unit
        self._zero_points = torch.zeros(len(self._scale), dtype=torch.int64)

    def __call__(self, x: Tensor, dtype: torch.dtype, activation: str | None = None) -> Tensor:
        """Return (tokens, out) in floating point, after an activation if there is one."""
        return self._run(x, QuantParams(1.0, 0), dtype, activation)

    def with_activation(self, x: Tensor, activation: str, output_params: QuantParams) -> Tensor:
        """Apply an activation, and return quantized values (tokens, out)."""
        return self._run(x, output_params, torch.uint8, activation)

    def add_to(self, x: Tensor, residual: Tensor) -> Tensor:
        """Add to a residual (tokens, out) in fp32, in place."""
        return torch.ops.onednn.qlinear_pointwise.binary(  # type: ignore[no-any-return]
            x,
            *self._input_params,
            *(self._weight, self._scale, self._zero_points, residual, self._bias),
            *(1.0, 0, torch.float32, 1.0, 0, "sum", 1.0, "none", [], ""),
        )

    def _prepack(self, weight: Tensor) -> Tensor:
        return torch.ops.onednn.qlinear_prepack(weight, None)  # type: ignore[no-any-return]

    def _run(self, x: Tensor, output_params: QuantParams, dtype: torch.dtype, activation: str | None) -> Tensor:
        name, algorithm = ACTIVATIONS[activation][:2] if activation else ("none", "")
        return torch.ops.onednn.qlinear_pointwise(  # type: ignore[no-any-return]
            x,
            *self._input_params,
            *(self._weight, self._scale, self._zero_points, self._bias),
            *(*output_params, dtype, name, [], algorithm),
        )


class ExactInt8Linear(Int8Linear):
    """The same in fp64, slowly, for processors on which the sums of oneDNN overflow."""

    def add_to(self, x: Tensor, residual: Tensor) -> Tensor:
        """Add to a residual (tokens, out) in fp32, in place."""
        return residual.add_(self._run(x, QuantParams(1.0, 0), torch.float32, None))

    def _prepack(self, weight: Tensor) -> Tensor:
        return weight.double()

    def _run(self, x: Tensor, output_params: QuantParams, dtype: torch.dtype, activation: str | None) -> Tensor:
        scale, zero_point = self._input_params
        sums = functional.linear(x.double() - zero_point, self._weight).float()
        y = torch.addcmul(self._bias, sums, self._scale * scale)
        y = y if activation is None else ACTIVATIONS[activation][2](y)
        return Quantize(output_params, torch.ones(()))(y) if dtype == torch.uint8 else y.to(dtype)


class NormQuantize(NamedTuple):
    """A norm in fp32 that returns its output, and the same quantized for the next linear layer."""

    weight: Tensor
    bias: Tensor | None  # None: an RMSNorm
    eps: float
    quantize: Quantize

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        norm = self.native()
        weights = norm.weight, norm.bias, norm.eps
        return layer_norm_quantize(x, *weights, self.quantize.multiplier, norm.zero_point, is_rms=norm.is_rms)

    def native(self) -> NativeNorm:
        """Return it for the native encoder."""
        bias = torch.zeros_like(self.weight) if self.bias is None else self.bias
        multiplier, zero_point = self.quantize.multiplier, self.quantize.zero_point
        return NativeNorm(self.weight, bias, self.eps, multiplier, zero_point, is_rms=self.bias is None)


class Int8Layer:
    """One layer. Its states are a pair: (tokens, width) in fp32, and the same quantized."""

    def __init__(
        self,
        stored: StoredLayer,
        norms: Mapping[str, NormQuantize],
        activation: str,
        attention: LayerAttention,
        *,
        is_last: bool,
    ) -> None:
        """Prepack a stored layer; arguments as of `Layer`."""
        params, units = stored.params, stored.output_units()
        linear_type = Int8Linear if onednn_is_exact() else ExactInt8Linear
        self._linears = {
            name: linear_type(linear, params[READS[name]], units.get(name)) for name, linear in stored.linears.items()
        }
        self._norms, self._activation, self._attention, self._is_last = norms, activation, attention, is_last
        self._context_zero_point = params["context"].zero_point + 0.5
        self._quantize_input = Quantize(params["input"], stored.smoothing["input"])
        self._intermediate_params = params["intermediate"]

    def __call__(self, x: Any, attention: Attention) -> Any:
        """Compute all tokens; in the last layer those that are read, from the keys and values of all."""
        residual, quantized = x
        context, residual = self._attend(quantized, residual, attention)
        residual = self._linears["attention_output"].add_to(context, residual)
        residual, quantized = self._norms["attention_norm"](residual)
        return self._norms["output_norm"](self._linears["output"].add_to(self._expand(quantized), residual))

    def _attend(self, quantized: Tensor, residual: Tensor, attention: Attention) -> tuple[Tensor, Tensor]:
        """Return the quantized context, and the residual, of the tokens that are computed further."""
        linears = {name: partial(linear, dtype=attention.dtype) for name, linear in self._linears.items()}
        options: dict[str, Any] = {"is_last": self._is_last, "zero_point": self._context_zero_point}
        return self._attention.attend(attention, quantized, residual, linears["qkv"], linears.get("query"), **options)

    def _expand(self, quantized: Tensor) -> Tensor:
        """Return the quantized intermediate states of the feed-forward."""
        intermediate, gate = self._linears["intermediate"], self._linears.get("gate")
        if gate is None:
            return intermediate.with_activation(quantized, self._activation, self._intermediate_params)
        states = intermediate(quantized, torch.float32).mul_(gate(quantized, torch.float32, self._activation))
        return Quantize(self._intermediate_params, torch.ones(()))(states)


class Int8PreNormLayer(Int8Layer):
    """A layer whose attention and feed-forward read the norm of what they add to. Its states are the residual."""

    def __call__(self, x: Any, attention: Attention) -> Any:
        """Compute as `Int8Layer`."""
        norm = self._norms.get("attention_norm")
        quantized = self._quantize_input(x) if norm is None else norm(x)[1]
        context, residual = self._attend(quantized, x, attention)
        residual = self._linears["attention_output"].add_to(context, residual)
        _, quantized = self._norms["output_norm"](residual)
        return self._linears["output"].add_to(self._expand(quantized), residual)


class Int8Encoder(PackedEncoder):
    """Layers in int8."""

    def __init__(
        self, layers: Sequence[Int8Layer], quantize: Quantize | None, n_heads: int, dtype: torch.dtype
    ) -> None:
        """Compose an encoder.

        Args:
            quantize: quantizes the embeddings; None: the layers quantize what they read.
            dtype: of queries, keys and values.
        """
        super().__init__(layers, n_heads, dtype)
        self._quantize = quantize

    def enter(self, states: Tensor) -> Any:
        residual = states.clone()  # which is added to in place
        return residual if self._quantize is None else (residual, self._quantize(states))

    def leave(self, x: Any) -> Tensor:
        states: Tensor = x if self._quantize is None else x[0]
        return states


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
    stored: StoredEncoder, attentions: Sequence[LayerAttention], activation: str, n_heads: int, dtype: torch.dtype
) -> Int8Encoder:
    """Build the encoder from its stored layers and what the attention of each has beside them."""
    if not all("attention_norm" in layer.norms for layer in stored.layers[1:]):
        raise ValueError("a layer after the first one has no norm before its attention")
    quantize = Quantize(stored.layers[0].params["input"], stored.layers[0].smoothing["input"])
    norms = _norms_of(stored)
    encoder = Int8Encoder([], None if stored.pre_norm else quantize, n_heads, dtype)
    if _can_be_native(stored, attentions, activation, n_heads):
        layers = [native_layer(*parts) for parts in zip(stored.layers, norms, attentions, strict=True)]
        embeddings: Any = {"multiplier": quantize.multiplier, "zero_point": quantize.zero_point}
        options: Any = embeddings | {"pre_norm": stored.pre_norm}
        encoder.native = NativeEncoder(layers, n_heads, torch.uint8, dtype, activation, **options)
        return encoder
    kind, last = Int8PreNormLayer if stored.pre_norm else Int8Layer, len(attentions) - 1
    for index, (layer, layer_norms, attention) in enumerate(zip(stored.layers, norms, attentions, strict=True)):
        attention.prepack(dtype, torch.device("cpu"))
        encoder.layers.append(kind(layer, layer_norms, activation, attention, is_last=index == last))
    return encoder


def _norms_of(stored: StoredEncoder) -> list[dict[str, NormQuantize]]:
    """Return the norms of each layer, each of which quantizes for the linear layers that read it."""
    inputs = [Quantize(layer.params["input"], layer.smoothing["input"]) for layer in stored.layers]
    middles = [
        Quantize(layer.params["attention_output"], layer.smoothing["attention_output"]) for layer in stored.layers
    ]
    firsts, seconds = (inputs, middles) if stored.pre_norm else (middles, [*inputs[1:], inputs[0]])  # the last: nothing
    quantizers = {"attention_norm": firsts, "output_norm": seconds}
    return [
        {name: NormQuantize(*norm, stored.eps, quantizers[name][index]) for name, norm in layer.norms.items()}
        for index, layer in enumerate(stored.layers)
    ]


def _can_be_native(stored: StoredEncoder, attentions: Sequence[LayerAttention], activation: str, n_heads: int) -> bool:
    first = stored.layers[0]
    width = len(first.smoothing["input"])
    has_whole_heads = len(first.smoothing["context"]) == width
    is_plain = all(attention.can_be_native for attention in attentions)
    return has_whole_heads and is_plain and native_supports(torch.uint8, activation, width, n_heads)


def native_layer(stored: StoredLayer, norms: Mapping[str, NormQuantize], attention: LayerAttention) -> NativeLayer:
    """Return a stored layer for the native encoder; see `Int8Layer`, which computes the same by operators."""
    params, units = stored.params, stored.output_units()
    linears = {}
    for name, linear in stored.linears.items():
        input_params, unit = params[READS[name]], units.get(name, torch.ones(()))
        scale, bias = linear.scale * input_params.scale / unit, linear.bias / unit
        linears[name] = PackedLinear.in_int8(linear.weight, scale, bias, input_params.zero_point)
    return NativeLayer(
        linears,
        attention_norm=norms["attention_norm"].native() if "attention_norm" in norms else None,
        output_norm=norms["output_norm"].native(),
        context_zero_point=params["context"].zero_point + 0.5,
        intermediate_inv_scale=1 / params["intermediate"].scale,
        intermediate_zero_point=params["intermediate"].zero_point + 0.5,
        **attention.native(),
    )


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows of integers -127..127, and the scale of each row."""
    scale = (weight.abs().amax(1) / 127).clamp_(min=1e-12)
    return (weight / scale[:, None]).round_().to(torch.int8), scale


def unsupported_reason(encoder: nn.Module) -> str:
    """Return why a prepacked encoder cannot be quantized; an empty string where it can."""
    if not isinstance(encoder, PackedEncoder):
        return "its layers are none that this handler knows"
    if encoder.shares_layers:
        return "its layers share their weights, and each would need scales of its own"
    if encoder.surroundings.before is not None:
        return "its embeddings are projected to the width of its layers, whose int8 needs the same bits in any batch"
    if any(isinstance(layer.attention.bias, DisentangledBias) for layer in encoder.layers):
        return "its attention multiplies queries and keys with distances, which has no form in int8"
    return ""


def supported(device: torch.device) -> bool:
    """Tell whether the compiled kernels or oneDNN multiply eight-bit integers on the device without overflow."""
    return device.type == "cpu" and (library() is not None or onednn_is_exact())


def onednn_is_exact() -> bool:
    """Tell whether oneDNN keeps sums of products of eight-bit integers in 32 bits; without VNNI or AMX in 16."""
    flags = torch.cpu.get_capabilities()
    has_onednn: Any = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(has_onednn) and any(flags.get(flag) for flag in ("avx512_vnni", "avx_vnni", "amx_int8"))
