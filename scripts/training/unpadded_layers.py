"""The layers of an encoder on one row of sequences, forwards and backwards, as one function of autograd.

PyTorch or the matrix unit computes the products (layer_products.py), native.py what lies between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scripts.training.layer_products import LINEARS, Products
from scripts.training.native import BiasActivation, Dropout, ResidualNorm, SequenceAttention

NORMS = ("attention_norm", "output_norm")  # of a layer
N_PARAMETERS = 2 * (len(LINEARS) + len(NORMS))  # of a layer


@dataclass(frozen=True)
class LayerStack:
    """What all layers of an encoder share, and the products of each."""

    products: list[Products]
    n_heads: int
    activation: int  # a value of native_encoder.ACTIVATIONS
    eps: float  # of all norms
    dtype: torch.dtype  # of what the products read: fp32 or bf16
    first_only: bool  # whether no other hidden states are read than those of first tokens


@dataclass
class UnpaddedRow:
    """The boundaries (sequences + 1,) of sequences in one row, and the dropout of one forward pass."""

    cu_seqlens: Tensor  # in int32
    max_seqlen: int
    probabilities: tuple[float, float, float]  # of attention, attention output and output
    seed: int
    n_drawn: int = 0  # how many were made

    @property
    def n_sequences(self) -> int:
        """How many sequences there are."""
        return len(self.cu_seqlens) - 1

    def dropouts(self) -> list[Dropout]:
        """Return the dropout of the next layer."""
        first = self.n_drawn
        self.n_drawn += len(self.probabilities)
        return [Dropout(p, mix(self.seed, index)) for index, p in enumerate(self.probabilities, first)]


def mix(seed: int, index: int) -> int:
    """Return a number of 64 bits for a dropout of the model, as splitmix64 does."""
    mask = (1 << 64) - 1
    x = (seed + (index + 1) * 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


class LayerPass:
    """One layer in one forward pass, and then backwards; of all tokens, or of the first of each sequence.

    The latter is for the last layer, where the head reads no others: they are keys and values there and nothing else.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        products: Products,
        stack: LayerStack,
        row: UnpaddedRow,
        *,
        first_only: bool,
    ) -> None:
        """Keep the parameters in the order of LINEARS and NORMS, weight and bias of each in turn."""
        self._first = row.cu_seqlens[:-1] if first_only else None
        first_rows = n_rows(row.n_sequences) if first_only else None
        biases = [bias.detach() for bias in parameters[1 : 2 * len(LINEARS) : 2]]
        attention_weight, attention_bias, output_weight, output_bias = parameters[-4:]
        eps, (attention, attention_output, output) = stack.eps, row.dropouts()
        self._products = products
        self._attention = SequenceAttention(
            torch.cat(biases[:3]), stack.n_heads, row.cu_seqlens, row.max_seqlen, attention, first_rows
        )
        self._attention_norm = ResidualNorm(biases[3], attention_weight, attention_bias, eps, attention_output)
        self._activation = BiasActivation(biases[4], stack.activation)
        self._output_norm = ResidualNorm(biases[5], output_weight, output_bias, eps, output)

    def forward(self, states: Tensor, rounded: Tensor) -> tuple[Tensor, Tensor]:
        """Return the hidden states (tokens or sequences, width) in fp32, and in the precision of the products."""
        products, self._input = self._products, rounded
        self._context = self._attention.forward(products.output(0, rounded))
        if self._first is not None:
            states = fill_up(states.index_select(0, self._first), len(self._context))
        states, self._middle = self._attention_norm.forward(products.output(1, self._context), states)
        self._activated = self._activation.forward(products.output(2, self._middle))
        return self._output_norm.forward(products.output(3, self._activated), states)

    def backward(self, gradient: Tensor, further: Tensor | None) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the gradients of the two inputs, from those of the two outputs, and of the parameters."""
        products = self._products
        gradient, to_output, (output_bias, *output_norm) = self._output_norm.backward(gradient, further)
        output_weight = products.to_weight(to_output, self._activated)
        to_intermediate, intermediate_bias = self._activation.backward(products.to_input(3, to_output))
        intermediate_weight = products.to_weight(to_intermediate, self._middle)
        gradient, to_attention, (attention_bias, *attention_norm) = self._attention_norm.backward(
            gradient, products.to_input(2, to_intermediate)
        )
        attention_weight = products.to_weight(to_attention, self._context)
        to_qkv, qkv_bias = self._attention.backward(products.to_input(1, to_attention))
        qkv_weight = products.to_weight(to_qkv, self._input)
        if self._first is not None:
            of_first = gradient[: len(self._first)]
            gradient = gradient.new_zeros(self._input.shape).index_copy_(0, self._first.long(), of_first)
        linears = [
            *zip(qkv_weight.chunk(3), qkv_bias.chunk(3), strict=True),
            (attention_weight, attention_bias),
            (intermediate_weight, intermediate_bias),
            (output_weight, output_bias),
        ]
        parameters = [gradient for linear in linears for gradient in linear]
        return gradient, products.to_input(0, to_qkv), [*parameters, *attention_norm, *output_norm]


class Layers(torch.autograd.Function):
    """All layers as one function: hidden states (tokens, width) in fp32 -> the same, or of the first tokens alone."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, stack: LayerStack, row: UnpaddedRow, *parameters: Tensor) -> Tensor:
        passes, rounded = [], states.to(stack.dtype)
        for index, products in enumerate(stack.products):
            own = [parameter.detach() for parameter in parameters[index * N_PARAMETERS : (index + 1) * N_PARAMETERS]]
            first_only = stack.first_only and index == len(stack.products) - 1
            layer = LayerPass(own, products, stack, row, first_only=first_only)
            states, rounded = layer.forward(states, rounded)
            if any(ctx.needs_input_grad):
                passes.append(layer)
        ctx.passes = passes
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gradient, further, of_layers = gradients[0].contiguous(), None, []
        while ctx.passes:  # each layer's activations are released behind it
            gradient, further, of_parameters = ctx.passes.pop().backward(gradient, further)
            of_layers.append(of_parameters)
        to_states = gradient if further is None else gradient + further
        return to_states, None, None, *(tensor for layer in reversed(of_layers) for tensor in layer)


def n_rows(n_tokens: int) -> int:
    """Return the rows for the tokens of a batch: few different numbers, because oneDNN compiles a product for each.

    >>> n_rows(5), n_rows(513), n_rows(1025)
    (32, 544, 1088)
    """
    step = max(32, (1 << n_tokens.bit_length()) // 32)
    return -(-n_tokens // step) * step


def fill_up(x: Tensor, rows: int) -> Tensor:
    """Return x (n, width) with rows of zeros behind it."""
    return torch.nn.functional.pad(x, (0, 0, 0, rows - len(x))) if len(x) < rows else x
