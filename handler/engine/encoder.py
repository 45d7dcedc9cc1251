"""The stack of layers between embeddings and head, on packed rows: our own for the families it knows.

`transformers` runs a layer of BERT as three products for queries, keys and values, an attention, and three more
products with a pass over memory after each. Here one product makes queries, keys and values, oneDNN applies GELU and
adds the residual within a product, its weights lie as it wants them, and in the last layer only the tokens that are
read are computed to the end. A family that `layers_of` does not know keeps the modules of transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from handler.batching import VarlenMetadata
from handler.engine.attention import Attention

# Names in a config -> oneDNN's name and algorithm, and the function.
ACTIVATIONS: dict[str, tuple[str, str, Callable[[Tensor], Tensor]]] = {
    "gelu": ("gelu", "none", functional.gelu),
    "gelu_new": ("gelu", "tanh", lambda x: functional.gelu(x, approximate="tanh")),
    "gelu_pytorch_tanh": ("gelu", "tanh", lambda x: functional.gelu(x, approximate="tanh")),
    "relu": ("relu", "", functional.relu),
}


@dataclass(frozen=True)
class Parts:
    """The modules of one layer: attention, residual, norm, feed-forward, residual, norm."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear
    attention_norm: nn.LayerNorm
    up: nn.Linear
    down: nn.Linear
    norm: nn.LayerNorm


class Product:
    """x W^T + b of one or several linear modules side by side, (tokens, in) -> (tokens, all their outs)."""

    def __init__(self, *linears: nn.Linear) -> None:
        self._linears = linears
        self.watch: Callable[[Tensor], None] | None = None  # sees what enters, when the archive is built
        self._weight = self._bias = torch.empty(0)

    def settle(self, dtype: torch.dtype, *, reorder: bool) -> None:
        """Put the weights together, in their precision and, for a CPU, in the order that oneDNN reads them in."""
        weights = torch.cat([linear.weight.detach() for linear in self._linears]).to(dtype)
        self._bias = torch.cat([linear.bias.detach() for linear in self._linears]).to(dtype)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weights, None) if reorder else weights
        self._linears = ()

    def __call__(self, x: Tensor, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
        """Compute, then apply an activation or add a residual (tokens, all outs)."""
        if self.watch is not None:
            self.watch(x)
        if not self._weight.is_mkldnn or (torch.is_grad_enabled() and x.requires_grad):
            y = self._plain(x)
            if activation is not None:
                y = ACTIVATIONS[activation][2](y)
            return y if residual is None else y + residual
        operator, weight, bias = torch.ops.mkldnn._linear_pointwise, self._weight, self._bias
        if residual is not None:
            return operator.binary(x, residual, weight, bias, "add")  # type: ignore[no-any-return]
        attribute, algorithm = ACTIVATIONS[activation][:2] if activation else ("none", "")
        return operator(x, weight, bias, attribute, [], algorithm)  # type: ignore[no-any-return]

    def plain(self) -> tuple[Tensor, Tensor]:
        """Return weight (all outs, in) and bias (all outs,) of a settled product."""
        return self._weight.to_dense() if self._weight.is_mkldnn else self._weight, self._bias

    def _plain(self, x: Tensor) -> Tensor:
        """Compute in the way that has gradients, and needs no weights of its own."""
        if self._linears:
            return torch.cat([linear(x) for linear in self._linears], -1)
        return functional.linear(x, *self.plain())


class Norm:
    """A layer norm over the last axis."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self._shape, self.eps = norm.normalized_shape, norm.eps
        self.weight, self.bias = norm.weight.detach(), norm.bias.detach()

    def settle(self, dtype: torch.dtype) -> None:
        self.weight, self.bias = self.weight.to(dtype), self.bias.to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self._shape, self.weight, self.bias, self.eps)


class Layer:
    """One layer in a floating-point precision, (tokens, width) -> (tokens, width)."""

    def __init__(self, parts: Parts, activation: str, *, last: bool) -> None:
        self._last, self._activation = last, activation
        self._query = Product(parts.query) if last else None
        self._states = Product(parts.key, parts.value) if last else Product(parts.query, parts.key, parts.value)
        self._output, self._up, self._down = Product(parts.output), Product(parts.up), Product(parts.down)
        self._attention_norm, self._norm = Norm(parts.attention_norm), Norm(parts.norm)

    def settle(self, dtype: torch.dtype, *, reorder: bool) -> None:
        """Bring the weights into their precision and order; once."""
        for product in self.products().values():
            product.settle(dtype, reorder=reorder)
        for norm in self.norms().values():
            norm.settle(dtype)

    def products(self) -> dict[str, Product]:
        """Return the products by name; only the last layer has queries apart from the other states."""
        named = {"states": self._states, "output": self._output, "up": self._up, "down": self._down}
        return named if self._query is None else {"query": self._query, **named}

    def norms(self) -> dict[str, Norm]:
        """Return the layer norms by name."""
        return {"attention_norm": self._attention_norm, "norm": self._norm}

    def __call__(self, x: Tensor, attention: Attention) -> Tensor:
        """Compute all tokens; in the last layer those that are read, but from the keys and values of all."""
        read = attention.read if self._last else None
        if self._query is None:
            attended = attention(self._states(x))
        else:
            asking = x.index_select(0, read) if read is not None and attention.one_each else x
            attended = attention(self._states(x), self._query(asking))
        if read is not None:
            attended = attended if attention.one_each else attended.index_select(0, read)
            x = x.index_select(0, read)
        x = self._join(self._output, attended, x, self._attention_norm)
        return self._join(self._down, self._up(x, self._activation), x, self._norm)

    def _join(self, product: Product, x: Tensor, residual: Tensor, norm: Norm) -> Tensor:
        """Return the norm of a product and a residual (tokens, width); what a GPU does in fewer steps."""
        return norm(product(x, residual=residual))


class PackedEncoder(nn.Module):
    """Layers over packed rows, in the place of the encoder of a model of transformers."""

    def __init__(self, layers: Sequence[Layer], heads: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers, self.heads, self.dtype = list(layers), heads, dtype
        self.fills = True  # up to few different numbers of rows, on a CPU

    def forward(self, hidden_states: Tensor, *_: Any, varlen: VarlenMetadata, **__: Any) -> Any:
        """Compute the states of the tokens that are read.

        Args:
            hidden_states: (1, tokens, width), from the embeddings.

        Returns:
            Of transformers, with the last states in fp32: (1, tokens, width), or, if not all tokens are read,
            (read tokens, 1, width): as many sequences of one token.
        """
        attention, states = Attention(varlen, self.heads, self.dtype), hidden_states[0]
        wanted = len(states) if varlen.read is None else len(varlen.read)
        if self.fills and not states.is_cuda:
            states = functional.pad(states, (0, 0, 0, rounded(len(states)) - len(states)))
            if attention.read is not None:
                attention.read = functional.pad(attention.read, (0, rounded(wanted) - wanted))
        x: Any = self.enter(states)
        for layer in self.layers:
            x = layer(x, attention)
        states = self.leave(x)[:wanted].unsqueeze(0 if varlen.read is None else 1)
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=states)  # type: ignore[arg-type]

    def enter(self, states: Tensor) -> Any:
        """Bring states (tokens, width) from fp32 to what the layers work on."""
        return states.to(self.dtype)

    def leave(self, x: Any) -> Tensor:
        """Bring states back to fp32."""
        return x.float()  # type: ignore[no-any-return]

    def settle(self, dtype: torch.dtype, device: torch.device) -> None:
        """Bring all weights into their precision, and into the order that the device reads them in; once."""
        reorder = device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        self.dtype = dtype
        for layer in dict.fromkeys(self.layers):
            layer.settle(dtype, reorder=reorder)


def rounded(n: int) -> int:
    """Round a number of rows up, to one of sixteen in each octave.

    oneDNN makes code for every shape it meets and keeps it: with as many numbers of rows as batches have tokens, a
    worker grew by 0.7 to 0.9 GB, and waited for that code in most batches (2026-11-25).

    >>> rounded(1), rounded(33), rounded(500), rounded(513)
    (16, 48, 512, 544)
    """
    step = max(16, 1 << max(0, (n - 1).bit_length() - 5))
    return -(-n // step) * step


def packed_encoder(model: PreTrainedModel) -> PackedEncoder | None:
    """Return a model's layers as ours, which share its weights until they are settled; None: not a known family."""
    config = model.config
    activation = activation_of(config)
    try:
        parts = list(parts_of(model.base_model))
    except AttributeError:
        return None
    if not parts or activation is None or any(one is None for part in parts for one in vars(part).values()):
        return None
    layers = [Layer(part, activation, last=index == len(parts) - 1) for index, part in enumerate(parts)]
    return PackedEncoder(layers, config.num_attention_heads, torch.float32)


def encoder_name(base: nn.Module) -> str | None:
    """Return under which name a model holds its layers; None where a family does not set them apart."""
    names = ("encoder", "transformer")
    return next((name for name in names if isinstance(getattr(base, name, None), nn.Module)), None)


def activation_of(config: PretrainedConfig) -> str | None:
    """Return the activation of a model by name; None where oneDNN has none like it."""
    name = getattr(config, "hidden_act", getattr(config, "activation", None))
    return name if isinstance(name, str) and name in ACTIVATIONS else None


def parts_of(base: Any) -> Iterator[Parts]:
    """Yield the parts of every layer of the families with layers like BERT's; raises AttributeError for others."""
    if hasattr(base, "transformer"):
        for layer in base.transformer.layer:  # DistilBERT
            its, ffn = layer.attention, layer.ffn
            norms = layer.sa_layer_norm, layer.output_layer_norm
            yield Parts(its.q_lin, its.k_lin, its.v_lin, its.out_lin, norms[0], ffn.lin1, ffn.lin2, norms[1])
        return
    for layer in base.encoder.layer:  # BERT, RoBERTa, XLM-RoBERTa, CamemBERT, ELECTRA
        its, out = layer.attention.self, layer.attention.output
        up, down = layer.intermediate.dense, layer.output
        yield Parts(its.query, its.key, its.value, out.dense, out.LayerNorm, up, down.dense, down.LayerNorm)
