"""int8 by operators of PyTorch: what the native encoder computes, where it cannot; and what packing quantizes.

How numbers are quantized stands in `int8_weights`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from handler.engine import cpu
from handler.engine.attention import Attention
from handler.engine.encoder import PackedEncoder
from handler.engine.int8_weights import (
    Quantize,
    QuantParams,
    StoredEncoder,
    StoredLayer,
    StoredLinear,
    native_encoder,
    norms_of,
)
from handler.engine.kernel_operators import kind_of, layer_norm_quantize, saturate_u8, to_tensor
from handler.engine.layer_attention import LayerAttention
from handler.engine.linear import ACTIVATIONS
from handler.engine.native_encoder import READS, NativeNorm
from handler.engine.relative import DisentangledBias

MAX_DEQUANTIZED_ROWS = 1024  # of an embedding that is loaded in fp32: it is read faster, and takes little memory
ONE = np.ones(1, np.float32)  # a smoothing factor that changes nothing


class LayerQuantParams(NamedTuple):
    """How the activations of one layer are quantized."""

    params: dict[str, QuantParams]  # of each of POINTS
    smoothing: dict[str, Tensor]  # (channels,) by which the channels of some points are divided first
    split_channels: Tensor  # (n,) int64: the intermediate channel that each additional channel continues
    split_starts: Tensor  # (n,) the value of its channel at which each additional channel starts


def quantize(x: Tensor, how: Quantize) -> Tensor:
    """Return integers (tokens, width) of real numbers."""
    return saturate_u8(torch.addcmul(torch.tensor(how.zero_point), x, to_tensor(how.multiplier)))


class Int8Linear:
    """x W^T + b of quantized activations (tokens, in), by oneDNN."""

    def __init__(self, stored: StoredLinear, input_params: QuantParams, output_unit: Tensor | None = None) -> None:
        """Prepack the weights.

        Args:
            output_unit: (out,) by which each output is divided; by default 1.
        """
        unit = torch.ones(len(stored.bias)) if output_unit is None else output_unit
        self._input_params = input_params
        self._weight = self._prepack(to_tensor(stored.weight))
        self._scale, self._bias = to_tensor(stored.scale) / unit, to_tensor(stored.bias) / unit
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
        return quantize(y, Quantize.of(output_params, ONE)) if dtype == torch.uint8 else y.to(dtype)


class NormQuantize:
    """A norm in fp32 that returns its output, and the same quantized for the next linear layer."""

    def __init__(self, norm: NativeNorm) -> None:
        if norm.multiplier is None:
            raise ValueError("a norm that does not quantize")
        self._weight, self._bias = to_tensor(norm.weight), to_tensor(norm.bias)
        self._multiplier, self._norm = to_tensor(norm.multiplier), norm

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        norm = self._norm
        quantize = self._multiplier, norm.zero_point
        return layer_norm_quantize(x, self._weight, self._bias, norm.eps, *quantize, is_rms=norm.is_rms)


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
            name: linear_type(linear, params[READS[name]], to_tensor(units[name]) if name in units else None)
            for name, linear in stored.linears.items()
        }
        self._norms, self._activation, self._attention, self._is_last = norms, activation, attention, is_last
        self._context_zero_point = params["context"].zero_point + 0.5
        self._quantize_input = Quantize.of(params["input"], stored.smoothing["input"])
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
        return quantize(states, Quantize.of(self._intermediate_params, ONE))


class Int8PreNormLayer(Int8Layer):
    """A layer whose attention and feed-forward read the norm of what they add to. Its states are the residual."""

    def __call__(self, x: Any, attention: Attention) -> Any:
        """Compute as `Int8Layer`."""
        norm = self._norms.get("attention_norm")
        quantized = quantize(x, self._quantize_input) if norm is None else norm(x)[1]
        context, residual = self._attend(quantized, x, attention)
        residual = self._linears["attention_output"].add_to(context, residual)
        _, quantized = self._norms["output_norm"](residual)
        return self._linears["output"].add_to(self._expand(quantized), residual)


class Int8Encoder(PackedEncoder):
    """Layers in int8."""

    def __init__(self, layers: Sequence[Int8Layer], how: Quantize | None, n_heads: int, dtype: torch.dtype) -> None:
        """Compose an encoder.

        Args:
            how: quantizes the embeddings; None: the layers quantize what they read.
            dtype: of queries, keys and values.
        """
        super().__init__(layers, n_heads, dtype)
        self._quantize = how

    def enter(self, states: Tensor) -> Any:
        residual = states.clone()  # which is added to in place
        return residual if self._quantize is None else (residual, quantize(states, self._quantize))

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
    """Build the encoder from its stored layers and what the attention of each has beside them.

    Args:
        dtype: of queries, keys and values.
    """
    if not all("attention_norm" in layer.norms for layer in stored.layers[1:]):
        raise ValueError("a layer after the first one has no norm before its attention")
    first = stored.layers[0]
    how = None if stored.pre_norm else Quantize.of(first.params["input"], first.smoothing["input"])
    encoder = Int8Encoder([], how, n_heads, dtype)
    kind = kind_of(dtype)
    if kind and all(attention.can_be_native for attention in attentions):
        native = [attention.native() for attention in attentions]
        encoder.native = native_encoder(stored, native, activation, n_heads, kind)
        if encoder.native is not None:
            return encoder
    layer_type, last = Int8PreNormLayer if stored.pre_norm else Int8Layer, len(attentions) - 1
    parts = zip(stored.layers, norms_of(stored), attentions, strict=True)
    for index, (layer, norms, attention) in enumerate(parts):
        attention.prepack(dtype, torch.device("cpu"))
        named = {name: NormQuantize(norm) for name, norm in norms.items()}
        encoder.layers.append(layer_type(layer, named, activation, attention, is_last=index == last))
    return encoder


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


def onednn_is_exact() -> bool:
    """Tell whether oneDNN keeps sums of products of eight-bit integers in 32 bits; without VNNI or AMX in 16."""
    has_onednn: Any = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(has_onednn) and any(map(cpu.has, ("avx512_vnni", "avx_vnni", "amx_int8")))
