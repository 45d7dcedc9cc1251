"""What attention knows of relative positions: rotated queries and keys, or a bias on the logits for each distance."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from handler.engine import kernel_operators


class Rotary:
    """Rotary positions: each pair of channels of a head is rotated by an angle that grows with the position."""

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        """Keep the table of all positions.

        Args:
            cos: (positions, head width / 2) in fp32; channel i of a head is paired with i + head width / 2.
            sin: as `cos`.
        """
        self._cos, self._sin = cos, sin

    @property
    def table(self) -> tuple[Tensor, Tensor]:
        """Cos and sin (positions, head width / 2) of all positions."""
        return self._cos, self._sin

    def angles(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin (tokens, head width / 2) of positions (tokens,)."""
        if self._cos.device != position_ids.device:
            self._cos, self._sin = self._cos.to(position_ids.device), self._sin.to(position_ids.device)
        return self._cos[position_ids], self._sin[position_ids]


def rotate(x: Tensor, n_heads: int, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the first heads of the first rows of (rows, columns); in place where no gradients are needed.

    Args:
        n_heads: how many heads; the columns after them stay.
        angles: cos and sin (rotated rows, head width / 2).
    """
    needs_gradients = torch.is_grad_enabled() and x.requires_grad
    if not needs_gradients and not x.is_cuda and kernel_operators.rotate(x, n_heads, *angles):
        return x
    cos, sin = (angle.unsqueeze(1) for angle in angles)
    if needs_gradients:
        x = x.clone()
    half = cos.shape[-1]
    heads = x[: len(cos), : n_heads * 2 * half].view(-1, n_heads, 2, half)
    first, second = heads.float().unbind(2)  # a copy, unless they are in fp32
    rotated = torch.stack((first * cos - second * sin, second * cos + first * sin), 2)
    heads.copy_(rotated)
    return x


class Bias(Protocol):
    """A bias on the logits of the attention within sequences of equal length."""

    scaling: float | None  # factor on the logits without the bias; None: 1 / sqrt(head width)

    def prepack(self, dtype: torch.dtype, device: torch.device) -> None:
        """Convert to `dtype` on `device`; once."""

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        """Return the bias (n or 1, heads, length, length) of `query` and `key` (n, heads, length, head width)."""


class DistanceBias:
    """A bias for each head and distance (MPNet)."""

    scaling: float | None = None

    def __init__(self, table: Tensor) -> None:
        """Keep the biases (heads, 2 * longest - 1): of keys from longest - 1 before a query to longest - 1 after it."""
        self.table = self._table = table  # in fp32, and as it is added

    def prepack(self, dtype: torch.dtype, device: torch.device) -> None:
        self._table = self.table.to(dtype=dtype, device=device)

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        length = query.shape[2]
        rows = near(self._table, length).unsqueeze(1).expand(-1, length, -1)  # (heads, length, 2 * length - 1)
        return diagonals(rows.unsqueeze(0))


class DisentangledBias:
    """Products of queries with keys of distances, and of keys with queries of distances (DeBERTa)."""

    def __init__(self, key: Tensor | None, query: Tensor | None, indices: Tensor) -> None:
        """Keep embeddings of distances.

        Args:
            key: (heads, embeddings, head width) that queries are multiplied with (content to position); None: no such
                term.
            query: as `key`, that keys are multiplied with (position to content).
            indices: (2 * longest - 1,) the embedding of each distance, from that of a query longest - 1 before its key
                to that of a query longest - 1 after it.
        """
        self._key, self._query, self._indices = key, query, indices
        head_width = next(x.shape[-1] for x in (key, query) if x is not None)
        self.scaling: float | None = (head_width * (1 + (key is not None) + (query is not None))) ** -0.5

    def prepack(self, dtype: torch.dtype, device: torch.device) -> None:
        self._key, self._query = (
            None if x is None else x.to(dtype=dtype, device=device) for x in (self._key, self._query)
        )
        self._indices = self._indices.to(device)

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        length, terms = query.shape[2], []
        indices = near(self._indices, length)
        if self._key is not None:
            keys = self._key.index_select(1, indices.flip(0))  # along a row of logits the key moves on
            terms.append(diagonals(query @ keys.transpose(1, 2)))
        if self._query is not None:
            queries = self._query.index_select(1, indices)
            terms.append(diagonals(key @ queries.transpose(1, 2)).transpose(2, 3))
        bias: Tensor = sum(terms[1:], terms[0])
        return bias * (self.scaling or 1.0)


def near(table: Tensor, length: int) -> Tensor:
    """Return the entries of a table (..., 2 * longest - 1) of distances for sequences of a length: a view.

    >>> near(torch.arange(-3, 4), 2).tolist()
    [-1, 0, 1]
    """
    longest = (table.shape[-1] + 1) // 2
    return table[..., longest - length : longest + length - 1]


def diagonals(x: Tensor) -> Tensor:
    """Return y (n, heads, length, length) of x (n, heads, length, 2 * length - 1): y[i, j] = x[i, j - i + length - 1].

    >>> diagonals(torch.arange(6.0).view(1, 1, 2, 3)).tolist()
    [[[[1.0, 2.0], [3.0, 4.0]]]]
    """
    n, heads, length, width = x.shape
    strides = (heads * length * width, length * width, width - 1, 1)
    return x.contiguous().as_strided((n, heads, length, length), strides, length - 1)
