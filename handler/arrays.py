"""Numpy arrays and PyTorch's tensors in one expression: poolers and layers take whichever of them an engine computes.

PyTorch is imported by whoever makes the first tensor. What is computed of a sequence depends on no other one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Array: TypeAlias = Any  # NDArray[Any] or Tensor: of the union no operation would have a type


def namespace(array: Array) -> Any:
    """Return the module that computes with an array, numpy or torch: both have `stack`, `log1p`, `concatenate`, ..."""
    if isinstance(array, np.ndarray):
        return np
    import torch

    return torch


class Weight:
    """A weight of a layer in fp32, beside arrays and beside the tensors of any device."""

    def __init__(self, array: NDArray[np.float32]) -> None:
        self.array = array
        self.packed: Any = None  # kept by whoever multiplies arrays by it
        self._tensors: dict[torch.device, Tensor] = {}

    def beside(self, other: Array) -> Array:
        """Return the weight as what another array is, on the device where that lies."""
        if isinstance(other, np.ndarray):
            return self.array
        if other.device not in self._tensors:
            import torch

            with torch.inference_mode(False):  # or no gradients could be computed with it
                self._tensors[other.device] = torch.from_numpy(self.array).to(other.device)
        return self._tensors[other.device]


def _multiply_by_numpy(vectors: NDArray[np.float32], weight: Weight) -> NDArray[np.float32]:
    product: NDArray[np.float32] = vectors @ weight.array.T
    return product


Multiply: TypeAlias = Callable[[NDArray[np.float32], Weight], NDArray[np.float32]]
_multiply: Multiply = _multiply_by_numpy


def use_product(multiply: Multiply) -> None:
    """Multiply arrays by another function from now on: that of the compiled kernels has the same bits in any batch."""
    global _multiply
    _multiply = multiply


def linear(vectors: Array, weight: Weight, bias: Weight | None = None) -> Array:
    """Multiply vectors (n, width) by a weight (outputs, width) and add a bias (outputs,)."""
    if isinstance(vectors, np.ndarray):
        product = _multiply(vectors, weight)
        return product if bias is None else product + bias.array
    from torch.nn import functional

    return functional.linear(vectors, weight.beside(vectors), None if bias is None else bias.beside(vectors))


def largest(rows: Array, n: int) -> tuple[Array, Array]:
    """Return the largest numbers of each row (rows, n), in order, and their columns.

    >>> [part.tolist() for part in largest(np.array([[1.0, 3.0, 2.0]]), 2)]
    [[[3.0, 2.0]], [[1, 2]]]
    """
    if not isinstance(rows, np.ndarray):
        values, columns = rows.topk(n, dim=-1)
        return values, columns
    columns = np.argpartition(rows, -n, axis=-1)[:, -n:]
    order = np.argsort(-np.take_along_axis(rows, columns, -1), axis=-1, kind="stable")
    columns = np.take_along_axis(columns, order, -1)
    return np.take_along_axis(rows, columns, -1), columns


def logsumexp(rows: Array) -> Array:
    """Return the logarithm of the sum of the exponentials of each row, (rows, 1)."""
    if not isinstance(rows, np.ndarray):
        return rows.logsumexp(-1, keepdim=True)
    highest = rows.max(-1, keepdims=True)
    return highest + np.log(np.exp(rows - highest).sum(-1, keepdims=True))


def integers(numbers: Sequence[int], other: Array) -> Array:
    """Return integers as what another array is, on the device where that lies."""
    if isinstance(other, np.ndarray):
        return np.asarray(numbers)
    import torch

    return torch.tensor(numbers).to(other.device)


def split(rows: Array, counts: Sequence[int]) -> list[Array]:
    """Return the rows of each sequence, as views.

    >>> [part.tolist() for part in split(np.arange(3), (2, 1))]
    [[0, 1], [2]]
    """
    return [rows[end - count : end] for count, end in zip(counts, accumulate(counts), strict=True)]


class Segments(ABC):
    """The rows of an array, sequence by sequence, each of which has at least one."""

    @abstractmethod
    def first(self, rows: Array) -> Array:
        """Return the first row of each sequence: (sequences, width) of (rows, width)."""

    @abstractmethod
    def last(self, rows: Array) -> Array:
        """Return the last row of each sequence."""

    @abstractmethod
    def sum(self, rows: Array) -> Array:
        """Return the sum of the rows of each sequence, one added after the other."""

    @abstractmethod
    def max(self, rows: Array) -> Array:
        """Return the largest number of each column in the rows of each sequence."""

    @abstractmethod
    def sizes(self) -> Array:
        """Return the number of rows of each sequence: (sequences, 1)."""

    @abstractmethod
    def positions(self, lengths: Sequence[int]) -> Array:
        """Return the position of each row from 1: (rows, 1), where the last rows of each of these lengths are here."""


class ArraySegments(Segments):
    """Those of a numpy array."""

    def __init__(self, counts: Sequence[int]) -> None:
        self._counts = counts
        self._sizes = np.array(counts)
        self._ends = self._sizes.cumsum()

    def first(self, rows: Array) -> Array:
        return rows[self._ends - self._sizes]

    def last(self, rows: Array) -> Array:
        return rows[self._ends - 1]

    def sum(self, rows: Array) -> Array:
        return self._reduce(np.add.reduce, rows)

    def max(self, rows: Array) -> Array:
        return self._reduce(np.maximum.reduce, rows)

    def sizes(self) -> Array:
        return self._sizes[:, None].astype(np.float32)

    def positions(self, lengths: Sequence[int]) -> Array:
        starts = (self._ends - np.array(lengths)).repeat(self._sizes)
        return (np.arange(1, len(starts) + 1) - starts)[:, None].astype(np.float32)

    def _reduce(self, reduce: Callable[..., Array], rows: Array) -> Array:
        """Reduce neighbours that have as many rows in one call, as batches are sorted by length.

        32 texts of 8 to 24 tokens of width 768 take 50 microseconds, one by one 60, and by `reduceat` 270.
        """
        reduced = np.empty((len(self._counts), rows.shape[-1]), rows.dtype)
        start = first = 0
        for count, run in groupby(self._counts):
            n = len(list(run))
            end, last = start + n * count, first + n
            reduce(rows[start:end].reshape(n, count, -1), 1, None, reduced[first:last])
            start, first = end, last
        return reduced


class TensorSegments(Segments):
    """Those of a tensor; a GPU is never waited for."""

    def __init__(self, counts: Tensor, n_rows: int) -> None:
        """Divide `n_rows` rows by `counts` (sequences,), which lie on the device of the rows."""
        import torch

        self._counts, self._ends = counts, counts.cumsum(0)
        indices = torch.arange(len(counts), device=counts.device)
        self._rows = indices.repeat_interleave(counts, output_size=n_rows)  # of each row its sequence

    def first(self, rows: Array) -> Array:
        return rows[self._ends - self._counts]

    def last(self, rows: Array) -> Array:
        return rows[self._ends - 1]

    def sum(self, rows: Array) -> Array:
        return rows.new_zeros(len(self._counts), rows.shape[-1]).index_add_(0, self._rows, rows)

    def max(self, rows: Array) -> Array:
        lowest = rows.new_full((len(self._counts), rows.shape[-1]), -np.inf)
        return lowest.scatter_reduce_(0, self._rows.unsqueeze(-1).expand_as(rows), rows, "amax")

    def sizes(self) -> Array:
        return self._counts.unsqueeze(-1)

    def positions(self, lengths: Sequence[int]) -> Array:
        import torch

        device = self._rows.device
        starts = self._ends - torch.tensor(lengths).to(device)
        positions = torch.arange(1, len(self._rows) + 1, device=device) - starts[self._rows]
        return positions.float().unsqueeze(-1)
