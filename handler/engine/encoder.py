"""The encoder between embeddings and head, on packed rows: our own for the families that families.py knows.

`transformers` runs a layer of BERT as three linear layers for queries, keys and values, an attention, and three more
linear layers with a pass over memory after each. Here one linear layer computes queries, keys and values; oneDNN
applies GELU and adds the residual within a linear layer; its weights are stored in oneDNN's order; and the last layer
computes only the tokens that are read. Other families keep the modules of transformers.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from handler.engine.attention import Attention, TileKernel
from handler.engine.batch import VarlenMetadata
from handler.engine.families import Surroundings, activation_of, modules_beside_layers, surroundings_of
from handler.engine.kernel_operators import kind_of, to_array, to_tensor
from handler.engine.layer_attention import LayerAttention
from handler.engine.layer_weights import LayerWeights, layer_weights_of
from handler.engine.linear import LayerNorm, Linear, Order, norm_of
from handler.engine.native_encoder import NativeEncoder, NativeLayer
from handler.engine.native_encoder import supports as native_supports
from handler.engine.relative import DisentangledBias
from handler.engine.varlen import current_varlen

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Observer = Callable[[int, str, Tensor], None]  # index of the layer, a value of READS, (tokens, channels)


def add_norm(linear: Linear, x: Tensor, residual: Tensor, norm: LayerNorm) -> Tensor:
    """Return the norm of a linear layer's output plus a residual (tokens, width)."""
    return norm(linear(x, residual=residual))


def ignore(point: str, x: Tensor) -> None:
    """Observe nothing."""


class Layer:
    """One layer in a floating-point precision, (tokens, width) -> (tokens, width), that ends each half with a norm."""

    def __init__(
        self,
        linears: Mapping[str, Linear],
        norms: Mapping[str, LayerNorm],
        activation: str,
        attention: LayerAttention | None = None,
        *,
        is_last: bool = False,
    ) -> None:
        """Compose a layer.

        Args:
            linears: by the keys of `READS`; only the last layer may have "query", and then "qkv" is keys and values.
                "gate" where the intermediate states are multiplied by a gate.
            norms: "attention_norm" and "output_norm".
            activation: a key of `ACTIVATIONS`.
            attention: what its attention has beside queries, keys and values.
            is_last: whether only tokens that are read are needed.
        """
        self.linears, self.norms, self.activation = linears, norms, activation
        self.attention, self.is_last = attention or LayerAttention(), is_last
        self.add_norm: Callable[..., Any] = add_norm

    @classmethod
    def from_weights(cls, weights: LayerWeights, activation: str, *, is_last: bool) -> Layer:
        """Make a layer that refers to the modules of transformers until it is prepacked."""
        reads_apart = is_last and not isinstance(weights.attention.bias, DisentangledBias)
        qkv = (weights.key, weights.value) if reads_apart else (weights.query, weights.key, weights.value)
        linears = {
            "qkv": Linear(*qkv),
            "attention_output": Linear(weights.attention_output),
            "intermediate": Linear(weights.intermediate),
            "output": Linear(weights.output),
        }
        if reads_apart:
            linears = {"query": Linear(weights.query), **linears}
        if weights.gate is not None:
            linears["gate"] = Linear(weights.gate)
        modules = {"attention_norm": weights.attention_norm, "output_norm": weights.output_norm}
        norms = {name: norm_of(module) for name, module in modules.items() if module is not None}
        kind = PreNormLayer if weights.pre_norm else Layer
        return kind(linears, norms, activation, weights.attention, is_last=is_last)

    def with_operators(self, add_norm: Callable[..., Any], linears: Mapping[str, Linear] | None = None) -> Layer:
        """Return this layer with another operator at the end of each half, and other linear layers."""
        layer = copy.copy(self)
        layer.linears, layer.add_norm = self.linears if linears is None else linears, add_norm
        return layer

    @property
    def ends_with_norm(self) -> bool:
        """Whether each half ends with `add_norm`."""
        return type(self) is Layer

    @property
    def is_like_bert(self) -> bool:
        """Whether it has nothing that the layers of BERT have not; fp8 and fused operators need that."""
        return type(self) is Layer and self.attention == LayerAttention() and "gate" not in self.linears

    def prepack(self, dtype: torch.dtype, device: torch.device, *, order: Order) -> None:
        """Convert all weights; once."""
        for linear in self.linears.values():
            linear.prepack(dtype, order=order)
        for norm in self.norms.values():
            norm.prepack(dtype)
        self.attention.prepack(dtype, device)

    @property
    def can_be_native(self) -> bool:
        """Whether the native encoder computes such a layer, before it is prepacked."""
        width = len(self.norms["output_norm"].weight)
        n_projected = self.linears["qkv"].n_out + (self.linears["query"].n_out if "query" in self.linears else 0)
        return n_projected == 3 * width and self.attention.can_be_native and ("query" in self.linears) == self.is_last

    def native(self) -> NativeLayer:
        """Return what the native encoder computes this layer from; it must have been prepacked in that order."""
        norms = {name: norm.native() for name, norm in self.norms.items()}
        return NativeLayer(
            {name: linear.packed for name, linear in self.linears.items() if linear.packed is not None},
            norms.get("attention_norm"),
            norms["output_norm"],
            **self.attention.native(),
        )

    def __call__(self, x: Any, attention: Attention, observe: Callable[[str, Tensor], None] = ignore) -> Any:
        """Compute all tokens; in the last layer those that are read, from the keys and values of all."""
        observe("input", x)
        context, x = self.attend(x, x, attention)
        observe("context", context)
        x = self.add_norm(self.linears["attention_output"], context, x, self.norms["attention_norm"])
        observe("attention_output", x)
        intermediate = self.expand(x)
        observe("intermediate", intermediate)
        return self.add_norm(self.linears["output"], intermediate, x, self.norms["output_norm"])

    def attend(self, x: Any, residual: Any, attention: Attention) -> tuple[Any, Any]:
        """Return the context of what the attention reads, and the residual, of the tokens that are computed further."""
        qkv, query = self.linears["qkv"], self.linears.get("query")
        return self.attention.attend(attention, x, residual, qkv, query, is_last=self.is_last)

    def expand(self, x: Any) -> Any:
        """Return the intermediate states of the feed-forward, (tokens, intermediate width)."""
        gate = self.linears.get("gate")
        if gate is None:
            return self.linears["intermediate"](x, self.activation)
        return self.linears["intermediate"](x, factor=gate(x, self.activation))


class PreNormLayer(Layer):
    """A layer whose attention and feed-forward read the norm of what they add to."""

    def __call__(self, x: Any, attention: Attention, observe: Callable[[str, Tensor], None] = ignore) -> Any:
        """Compute as `Layer`."""
        norm = self.norms.get("attention_norm")
        normed = x if norm is None else norm(x)
        observe("input", normed)
        context, x = self.attend(normed, x, attention)
        observe("context", context)
        x = self.linears["attention_output"](context, residual=x)
        normed = self.norms["output_norm"](x)
        observe("attention_output", normed)
        intermediate = self.expand(normed)
        observe("intermediate", intermediate)
        return self.linears["output"](intermediate, residual=x)


class PackedEncoder(nn.Module):
    """Layers over packed rows, in the place of the encoder of a model of transformers.

    Other precisions override `enter` and `leave`, which convert to and from what their layers work on.
    """

    def __init__(self, layers: Sequence[Callable[..., Any]], n_heads: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers: list[Any] = list(layers)
        self.n_heads, self.dtype = n_heads, dtype
        self.surroundings = Surroundings()
        self.shares_layers = False  # whether a layer is computed several times
        self.pad_rows = True  # to few different numbers of rows, on a CPU
        self.tile_kernel: TileKernel | None = None  # of the attention, on a GPU
        self.native: NativeEncoder | None = None  # computes all layers in one call, where it can
        self._observer: Observer | None = None

    def forward(self, hidden_states: Tensor, *_: Any, output_hidden_states: bool | None = None, **__: Any) -> Any:
        """Compute what `encode` does, of the batch that runs, as an output of transformers.

        Args:
            output_hidden_states: whether the last hidden states are returned under that name, too (DeBERTa).
        """
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

        states: Any = self.encode(hidden_states, current_varlen())
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=states, hidden_states=(states,) if output_hidden_states else None
        )

    def encode(self, hidden_states: Tensor, varlen: VarlenMetadata) -> Tensor:
        """Compute the hidden states of the tokens that are read.

        Args:
            hidden_states: (1, tokens, width), from the embeddings.

        Returns:
            The last hidden states in fp32: (1, tokens, width), or, if not all tokens are read, (tokens read, 1, width):
            a batch of sequences of one token.
        """
        before, after = self.surroundings
        states = hidden_states[0] if before is None else before(hidden_states[0])
        needs_gradients = torch.is_grad_enabled() and hidden_states.requires_grad
        if self.native is not None and self._observer is None and not needs_gradients:
            computed = to_tensor(self.native(to_array(states), varlen.layout()))
            computed = computed if after is None else after(computed)
            return computed.unsqueeze(0 if varlen.read_positions is None else 1)
        attention = Attention(varlen, self.n_heads, self.dtype, self.tile_kernel)
        n_read = len(states) if varlen.read_positions is None else len(varlen.read_positions)
        if self.pad_rows and self._observer is None and not states.is_cuda:
            states = functional.pad(states, (0, 0, 0, padded_row_count(len(states)) - len(states)))
            if attention.read_positions is not None:
                n_padding = padded_row_count(n_read) - n_read
                attention.read_positions = functional.pad(attention.read_positions, (0, n_padding))
        x: Any = self.enter(states)
        for index, layer in enumerate(self.layers):
            observe = () if self._observer is None else (partial(self._observer, index),)
            x = layer(x, attention, *observe)
        states = self.leave(x)[:n_read]
        states = states if after is None else after(states)
        return states.unsqueeze(0 if varlen.read_positions is None else 1)

    def enter(self, states: Tensor) -> Any:
        """Convert (tokens, width) in fp32 to what the layers work on."""
        return states.to(self.dtype)

    def leave(self, x: Any) -> Tensor:
        """Convert the output of the last layer to fp32."""
        return x.float()  # type: ignore[no-any-return]

    def surround(self, base: Any) -> None:
        """Take over what the encoder of a base model has beside its layers, under the same names."""
        self.surroundings = surroundings_of(base)
        for name, module in modules_beside_layers(base).items():
            self.add_module(name, module)

    @property
    def is_pre_norm(self) -> bool:
        """Whether norms are computed of what the halves of a layer read, not of what they return."""
        return isinstance(self.layers[0], PreNormLayer)

    @property
    def is_like_bert(self) -> bool:
        """Whether it has nothing that the encoder of BERT has not: fp8 needs that."""
        return self.surroundings == Surroundings() and all(layer.is_like_bert for layer in self.layers)

    @contextlib.contextmanager
    def observed_by(self, observer: Observer) -> Iterator[None]:
        """Show an observer what the linear layers read, without padding rows; for layers in floating point."""
        self._observer = observer
        self._keep_dense(True)
        try:
            yield
        finally:
            self._observer = None
            self._keep_dense(False)

    def _keep_dense(self, keep: bool) -> None:
        for layer in self.layers:
            for linear in layer.linears.values():
                linear.keep_dense(keep)

    def prepack(self, dtype: torch.dtype, device: torch.device) -> None:
        """Convert all weights to `dtype`, and on a CPU to the order of who computes there; once."""
        order: Order = "rows"
        if device.type == "cpu" and self._is_native(dtype):
            order = "native"
        elif device.type == "cpu" and _onednn_computes(dtype):
            order = "onednn"
        self.dtype = dtype
        for layer in dict.fromkeys(self.layers):
            layer.prepack(dtype, device, order=order)
        if order == "native" and (kind := kind_of(dtype)):
            layers = [layer.native() for layer in self.layers]
            activation, pre_norm = self.layers[0].activation, self.is_pre_norm
            self.native = NativeEncoder(layers, self.n_heads, kind, kind, activation, pre_norm=pre_norm)

    def _is_native(self, dtype: torch.dtype) -> bool:
        layer = self.layers[0]
        if not all(type(other) is type(layer) and other.can_be_native for other in self.layers):
            return False
        width = len(layer.norms["output_norm"].weight)
        return native_supports(kind_of(dtype), layer.activation, width, self.n_heads)


def padded_row_count(n: int) -> int:
    """Round a number of rows up, to one of sixteen in each octave.

    oneDNN compiles code for every shape it meets and keeps it: with as many numbers of rows as batches have tokens, a
    worker grew by 0.7 to 0.9 GB, and waited for compilation in most batches (2026-11-25).

    >>> padded_row_count(1), padded_row_count(33), padded_row_count(500), padded_row_count(513)
    (16, 48, 512, 544)
    """
    step = max(16, 1 << max(0, (n - 1).bit_length() - 5))
    return -(-n // step) * step


def packed_encoder(model: PreTrainedModel) -> PackedEncoder | None:
    """Return our encoder over a model's own weights, which are shared until it is prepacked; None: unknown family."""
    activation = activation_of(model.config)
    try:
        with torch.no_grad():
            weights = layer_weights_of(model.base_model)
    except AttributeError:
        return None
    if not weights or activation is None or not all(layer.is_complete() for layer in weights):
        return None
    encoder = packed_encoder_of(weights, model.config)
    encoder.surround(model.base_model)
    return encoder


def packed_encoder_of(weights: Sequence[LayerWeights], config: PretrainedConfig) -> PackedEncoder:
    """Return our encoder over the weights of its layers, which are shared until it is prepacked."""
    last, activation = len(weights) - 1, activation_of(config) or ""
    made: dict[tuple[int, bool], Layer] = {}  # layers that are computed several times are prepacked once (ALBERT)
    for index, layer in enumerate(weights):
        key = id(layer), index == last
        if key not in made:
            made[key] = Layer.from_weights(layer, activation, is_last=index == last)
    layers = [made[id(layer), index == last] for index, layer in enumerate(weights)]
    encoder = PackedEncoder(layers, config.num_attention_heads, torch.float32)
    encoder.shares_layers = len({id(layer) for layer in weights}) < len(weights)
    return encoder


def _onednn_computes(dtype: torch.dtype) -> bool:
    """Return whether this processor has oneDNN's products; those of bf16 need AVX-512 or AVX-NE-CONVERT."""
    has_onednn: Any = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(has_onednn) and (dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
