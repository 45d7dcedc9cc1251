"""Scales of activations in fp8, from the weights alone.

A layer of BERT reads rows that a norm has returned: affine functions of a row whose length is the root of its width. So
the largest magnitude that an activation can have is known when the model is loaded, and nothing is clipped. The bound
lies far above what activations reach, which costs little: eight bits in floating point are as precise at a hundredth
of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from handler.engine.encoder import Layer
from handler.engine.linear import LayerNorm

E4M3 = torch.float8_e4m3fn
E4M3_MAX = torch.finfo(E4M3).max  # 448
ACTIVATION_MIN_BOUND = 0.3  # more than the activations that ACTIVATIONS names ever go below zero


class NormalizedRows(NamedTuple):
    """Rows A n + a, where n is any row (width,) of mean 0 and variance 1: of a norm, or linear layers after it."""

    matrix: Tensor  # (out, width), or (width,): a diagonal
    offset: Tensor  # (out,)

    @classmethod
    def of(cls, norm: LayerNorm) -> NormalizedRows:
        """Return what a norm returns."""
        return cls(norm.weight.float(), norm.bias.float())

    def multiplied(self, weight: Tensor, bias: Tensor) -> NormalizedRows:
        """Return what a linear layer (out, in) returns of these rows."""
        matrix = weight.float() * self.matrix if self.matrix.dim() == 1 else weight.float() @ self.matrix
        return NormalizedRows(matrix, weight.float() @ self.offset + bias.float())

    def bound(self) -> Tensor:
        """Return the largest magnitude of a number of such a row, by the inequality of Cauchy and Schwarz."""
        lengths = self.matrix.abs() if self.matrix.dim() == 1 else self.matrix.norm(dim=1)
        bounds: Tensor = lengths * self.matrix.shape[-1] ** 0.5 + self.offset.abs()
        return bounds.max()


class LayerScales(NamedTuple):
    """What the numbers in eight bits of a layer's activations are multiplied by to be real numbers; 0-dim, in fp32."""

    input: Tensor
    context: Tensor
    attention_output: Tensor
    intermediate: Tensor
    output: Tensor


def scales_of(layer: Layer, rows: NormalizedRows) -> LayerScales:
    """Return the scales of a prepacked layer that reads `rows`.

    The context of a token is a mean of values, and no activation exceeds the largest magnitude of what it reads.
    """
    weight, bias = layer.linears["qkv"].dense()
    width = len(layer.norms["output_norm"].weight)
    values = rows.multiplied(weight[-width:], bias[-width:])
    expanded = NormalizedRows.of(layer.norms["attention_norm"])
    inner = expanded.multiplied(*layer.linears["intermediate"].dense())
    output = NormalizedRows.of(layer.norms["output_norm"])
    bounds = (
        rows.bound(),
        values.bound(),
        expanded.bound(),
        inner.bound().clamp(min=ACTIVATION_MIN_BOUND),
        output.bound(),
    )
    return LayerScales(*((bound / E4M3_MAX).clamp(min=1e-12) for bound in bounds))


def embedding_rows(base: Any) -> NormalizedRows | None:
    """Return what the first layer of a base model reads; None: no norm ends its embeddings."""
    norm, project = (
        getattr(getattr(base, "embeddings", None), "LayerNorm", None),
        getattr(base, "embeddings_project", None),
    )
    if not isinstance(norm, nn.LayerNorm):
        return None
    rows = NormalizedRows(norm.weight.detach(), norm.bias.detach())
    return rows if project is None else rows.multiplied(project.weight.detach(), project.bias.detach())
