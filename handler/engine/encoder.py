"""The encoder between embeddings and head, on packed rows: our own for the families that families.py knows.

`transformers` runs a layer of BERT as three linear layers for queries, keys and values, an attention, and three more
linear layers with a pass over memory after each. Here one linear layer computes queries, keys and values; oneDNN
applies GELU and adds the residual within a linear layer; its weights are stored in oneDNN's order; and the last layer
computes only the tokens that are read. Other families keep the modules of transformers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from handler.batching import VarlenMetadata
from handler.engine.attention import Attention
from handler.engine.families import LayerWeights, activation_of, layer_weights_of
from handler.engine.linear import LayerNorm, Linear, Order
from handler.engine.native_encoder import NativeEncoder, NativeLayer
from handler.engine.native_encoder import supports as native_supports

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# Linear layers of a layer -> the activation that each reads; these are the points that an observer sees.
READS = {
    "query": "input",
    "qkv": "input",
    "attention_output": "context",
    "intermediate": "attention_output",
    "output": "intermediate",
}
Observer = Callable[[int, str, Tensor], None]  # index of the layer, a value of READS, (tokens, channels)


def add_norm(linear: Linear, x: Tensor, residual: Tensor, norm: LayerNorm) -> Tensor:
    """Return the norm of a linear layer's output plus a residual (tokens, width)."""
    return norm(linear(x, residual=residual))


class Layer:
    """One layer in a floating-point precision, (tokens, width) -> (tokens, width)."""

    def __init__(
        self,
        linears: Mapping[str, Linear],
        norms: Mapping[str, LayerNorm],
        activation: str,
        add_norm: Callable[..., Any] = add_norm,
    ) -> None:
        """Compose a layer.

        Args:
            linears: by the keys of `READS`; only the last layer has "query", and then "qkv" is keys and values.
            norms: "attention_norm" and "output_norm".
            activation: a key of `ACTIVATIONS`.
            add_norm: computes the end of each half of the layer; other precisions and fused kernels have their own.
        """
        self.linears, self.norms, self.activation, self.add_norm = linears, norms, activation, add_norm

    @classmethod
    def from_weights(cls, weights: LayerWeights, activation: str, *, is_last: bool) -> Layer:
        """Make a layer that refers to the modules of transformers until it is prepacked."""
        qkv = (weights.key, weights.value) if is_last else (weights.query, weights.key, weights.value)
        linears = {
            "qkv": Linear(*qkv),
            "attention_output": Linear(weights.attention_output),
            "intermediate": Linear(weights.intermediate),
            "output": Linear(weights.output),
        }
        if is_last:
            linears = {"query": Linear(weights.query), **linears}
        norms = {"attention_norm": LayerNorm(weights.attention_norm), "output_norm": LayerNorm(weights.output_norm)}
        return cls(linears, norms, activation)

    def prepack(self, dtype: torch.dtype, *, order: Order) -> None:
        """Convert all weights; once."""
        for linear in self.linears.values():
            linear.prepack(dtype, order=order)
        for norm in self.norms.values():
            norm.prepack(dtype)

    def native(self) -> NativeLayer:
        """Return what the native encoder computes this layer from; it must have been prepacked in that order."""
        linears = {name: linear.packed for name, linear in self.linears.items() if linear.packed is not None}
        return NativeLayer(linears, self.norms["attention_norm"].native(), self.norms["output_norm"].native())

    def __call__(self, x: Any, attention: Attention, observe: Callable[[str, Tensor], None] | None = None) -> Any:
        """Compute all tokens; in the last layer those that are read, from the keys and values of all."""
        query = self.linears.get("query")
        read_positions = attention.read_positions if query is not None else None
        if observe is not None:
            observe("input", x)
        if query is None:
            context = attention(self.linears["qkv"](x))
        else:
            queried = x.index_select(0, read_positions) if read_positions is not None and attention.one_each else x
            context = attention(self.linears["qkv"](x), query(queried))
        if read_positions is not None:
            context = context if attention.one_each else context.index_select(0, read_positions)
            x = x.index_select(0, read_positions)
        if observe is not None:
            observe("context", context)
        x = self.add_norm(self.linears["attention_output"], context, x, self.norms["attention_norm"])
        if observe is not None:
            observe("attention_output", x)
        intermediate = self.linears["intermediate"](x, self.activation)
        if observe is not None:
            observe("intermediate", intermediate)
        return self.add_norm(self.linears["output"], intermediate, x, self.norms["output_norm"])


class PackedEncoder(nn.Module):
    """Layers over packed rows, in the place of the encoder of a model of transformers.

    Other precisions override `enter` and `leave`, which convert to and from what their layers work on.
    """

    def __init__(self, layers: Sequence[Callable[..., Any]], n_heads: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers: list[Any] = list(layers)
        self.n_heads, self.dtype = n_heads, dtype
        self.pad_rows = True  # to few different numbers of rows, on a CPU
        self.native: NativeEncoder | None = None  # computes all layers in one call, where it can
        self._observer: Observer | None = None

    def forward(self, hidden_states: Tensor, *_: Any, varlen: VarlenMetadata, **__: Any) -> Any:
        """Compute what `encode` does, as an output of transformers."""
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

        states = self.encode(hidden_states, varlen)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states)  # type: ignore[arg-type]

    def encode(self, hidden_states: Tensor, varlen: VarlenMetadata) -> Tensor:
        """Compute the hidden states of the tokens that are read.

        Args:
            hidden_states: (1, tokens, width), from the embeddings.

        Returns:
            The last hidden states in fp32: (1, tokens, width), or, if not all tokens are read, (tokens read, 1, width):
            a batch of sequences of one token.
        """
        needs_gradients = torch.is_grad_enabled() and hidden_states.requires_grad
        if self.native is not None and self._observer is None and not needs_gradients:
            return self.native(hidden_states[0], varlen).unsqueeze(0 if varlen.read_positions is None else 1)
        attention, states = Attention(varlen, self.n_heads, self.dtype), hidden_states[0]
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
        return self.leave(x)[:n_read].unsqueeze(0 if varlen.read_positions is None else 1)

    def enter(self, states: Tensor) -> Any:
        """Convert (tokens, width) in fp32 to what the layers work on."""
        return states.to(self.dtype)

    def leave(self, x: Any) -> Tensor:
        """Convert the output of the last layer to fp32."""
        return x.float()  # type: ignore[no-any-return]

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
        elif device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            order = "onednn"
        self.dtype = dtype
        for layer in dict.fromkeys(self.layers):
            layer.prepack(dtype, order=order)
        if order == "native":
            layers = [layer.native() for layer in self.layers]
            self.native = NativeEncoder(layers, self.n_heads, dtype, dtype, self.layers[0].activation)

    def _is_native(self, dtype: torch.dtype) -> bool:
        layer = self.layers[0]
        width = len(layer.norms["output_norm"].weight)
        return native_supports(dtype, layer.activation, width, self.n_heads)


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
        weights = list(layer_weights_of(model.base_model))
    except AttributeError:
        return None
    if not weights or activation is None or not all(layer.is_complete() for layer in weights):
        return None
    return packed_encoder_of(weights, model.config)


def packed_encoder_of(weights: Sequence[LayerWeights], config: PretrainedConfig) -> PackedEncoder:
    """Return our encoder over the weights of its layers, which are shared until it is prepacked."""
    last, activation = len(weights) - 1, activation_of(config) or ""
    layers = [Layer.from_weights(layer, activation, is_last=index == last) for index, layer in enumerate(weights)]
    return PackedEncoder(layers, config.num_attention_heads, torch.float32)
