"""The parts of a model before and behind its encoder, in fp32, by the compiled kernels on arrays of numpy.

The numbers of a row are computed in a fixed order, so they have the same bits in any batch.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handler.arrays import Weight
from handler.batching import PackedRow
from handler.engine import cpu
from handler.engine.kernels import LayerNormArguments, Norm, address, loaded_library
from handler.engine.native_encoder import ACTIVATIONS, SINGLE_THREAD_PRODUCTS, Floats, LinearArguments, PackedLinear
from handler.engine.stored_weights import Weights
from handler.engine.weight_names import Family

# Products of a linear layer and numbers of embeddings that one thread computes in 0.07 and 0.2 ms (AMD EPYC, AVX-512):
# less than it takes to get the interpreter's lock back.
HELD_PRODUCTS, HELD_NUMBERS = 8_000_000, 1 << 18
SINGLE_THREAD_NUMBERS = 1 << 15  # of norms: waking threads up costs more than this work


class _Embeddings(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("words", "word_scales", "types", "positions")),
        *((name, c_void_p) for name in ("ids", "type_ids", "position_ids")),
        *(("norm", Norm), ("output", c_void_p)),
        *((name, c_int64) for name in ("n_words", "n_types", "n_positions")),
        *((name, c_int64) for name in ("rows", "width", "next", "is_beyond")),
    )


class _Product(ctypes.Structure):
    _fields_ = (
        *(("linear", LinearArguments), ("input", c_void_p), ("output", c_void_p)),
        *((name, c_int64) for name in ("rows", "width", "activation", "next")),
    )


class _Decoder(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("words", "word_scales", "bias", "input", "output", "scratch")),
        *((name, c_int64) for name in ("rows", "width", "n_words", "next", "thread")),
    )


class NativeLinear:
    """A linear layer: (rows, in) -> (rows, out)."""

    def __init__(self, weight: Floats, bias: Floats | None = None) -> None:
        """Pack a weight (out, in); without a bias it is 0."""
        self._packed = PackedLinear.in_floats(weight, np.zeros(len(weight), np.float32) if bias is None else bias)
        self._arguments = self._packed.arguments()
        self.n_out, self.n_in = weight.shape

    def __call__(self, x: Floats, activation: str | None = None) -> Floats:
        """Multiply, and apply an activation: a key of `native_encoder.ACTIVATIONS`, or tanh."""
        x = _rows_of(x, self.n_in)
        output = np.empty((len(x), len(self._packed.start)), np.float32)
        native = 0 if activation in (None, "tanh") else ACTIVATIONS[str(activation)]
        args = _Product(self._arguments, address(x), address(output), *x.shape, native)
        n_products = len(x) * self._packed.weight.size
        threads = 1 if n_products <= SINGLE_THREAD_PRODUCTS else cpu.thread_count()
        threads = 0 if n_products <= HELD_PRODUCTS else threads
        loaded_library().multiply(ctypes.addressof(args), threads)
        y = np.ascontiguousarray(output[:, : self.n_out])
        return np.tanh(y, out=y) if activation == "tanh" else y


def multiply(vectors: Floats, weight: Weight) -> Floats:
    """Return the product of vectors (n, width) and a weight (outputs, width), which is packed once."""
    if weight.packed is None:
        weight.packed = NativeLinear(weight.array)
    product: Floats = weight.packed(vectors)
    return product


class NativeLayerNorm:
    """A layer norm: (rows, width) -> (rows, width)."""

    def __init__(self, weight: Floats, bias: Floats, eps: float) -> None:
        if weight.shape != bias.shape:
            raise ValueError(f"a norm with a weight of shape {weight.shape} and a bias of shape {bias.shape}")
        self._weight, self._bias, self._eps = weight, bias, eps
        (self.width,) = weight.shape

    def __call__(self, x: Floats) -> Floats:
        x = _rows_of(x, self.width)
        output = np.empty_like(x)
        norm = Norm(address(self._weight), address(self._bias), 0, self._eps, 0.0, 0)
        args = LayerNormArguments(norm, address(x), address(output), 0, *x.shape)
        threads = 1 if x.size <= SINGLE_THREAD_NUMBERS else cpu.thread_count()
        loaded_library().layer_norm_quantize(ctypes.addressof(args), threads)
        return output


class WordTable:
    """A row for each word of the vocabulary: in fp32, or in int8 with a scale of each row."""

    def __init__(self, weights: Weights, name: str) -> None:
        scales = weights.get(f"{name}.scale")
        self.scales: Floats | None = None if scales is None else np.asarray(scales, np.float32)
        self.rows: NDArray[Any] = weights.floats(f"{name}.weight") if scales is None else weights[f"{name}.weight"]

    def require_shape(self, n_words: int, width: int) -> None:
        """Raise ValueError for a table of another size: the kernels would read beyond it."""
        scales = None if self.scales is None else self.scales.shape
        if self.rows.shape != (n_words, width) or scales not in (None, (n_words,)):
            raise ValueError(f"word embeddings of shape {self.rows.shape}, {(n_words, width)} by config.json")


class NativeDecoder:
    """The logits of all words: (rows, width) -> (rows, words), whose weight is a table that embeds them."""

    def __init__(self, words: WordTable, bias: Floats | None = None) -> None:
        """Refer to a table; without a bias it is 0."""
        n_words, panel_width = len(words.rows), loaded_library().panel_width
        if bias is not None and bias.shape != (n_words,):
            raise ValueError(f"a bias of shape {bias.shape} for {n_words} words")
        self.words, self.n_in = words, words.rows.shape[1]
        self._bias = np.zeros(-(-n_words // panel_width) * panel_width, np.float32)
        self._bias[:n_words] = 0 if bias is None else bias

    def __call__(self, x: Floats) -> Floats:
        """Multiply; the rows of what is returned do not lie end to end."""
        n_words, width = self.words.rows.shape
        x = _rows_of(x, width)
        output = np.empty((len(x), len(self._bias)), np.float32)
        threads = 1 if max(len(x), 8) * self.words.rows.size <= SINGLE_THREAD_PRODUCTS else cpu.thread_count()
        scratch = np.empty((threads, loaded_library().decoder_scratch(width)), np.float32)
        arrays = (self.words.rows, self.words.scales, self._bias, x, output, scratch)
        args = _Decoder(*map(address, arrays), *x.shape, n_words)
        loaded_library().decode(ctypes.addressof(args), threads)
        return output[:, :n_words]


class NativeEmbeddings:
    """Word, type and position embeddings, added and normalized; ELECTRA's are projected to the width of its layers."""

    def __init__(self, weights: Weights, family: Family, words: WordTable, eps: float) -> None:
        self.words = words
        self._positions = None if family.positions is None else weights.floats(f"{family.positions}.weight")
        types = "embeddings.token_type_embeddings.weight"
        self._types = weights.floats(types) if types in weights else None
        self._norm = weights.pair(family.embedding_norm)
        self._eps = eps
        is_projected = "embeddings_project.weight" in weights
        self._project = NativeLinear(*weights.pair("embeddings_project")) if is_projected else None

    def require(self, n_words: int, n_positions: int, n_types: int, width: int) -> None:
        """Raise ValueError for tables of another size, or of widths that do not fit each other or those of the layers.

        The kernel would read beyond them, and a token without an embedding would fail with the text that has it.
        """
        own = self._norm[0].shape[-1]
        self.words.require_shape(n_words, own)
        tables = [
            ("position embeddings", self._positions, (n_positions, own)),
            ("type embeddings", self._types, (n_types, own)),
            *(("a norm of embeddings", array, (own,)) for array in self._norm),
        ]
        for name, table, shape in tables:
            if table is not None and table.shape != shape:
                raise ValueError(f"{name} of shape {table.shape}, {shape} by config.json")
        if width != (own if self._project is None else self._project.n_out):
            raise ValueError(f"embeddings of another width than {width} by config.json")

    def __call__(self, row: PackedRow) -> Floats:
        """Return the embeddings (tokens, width) of a row.

        Raises:
            IndexError: a token, type or position that the model has none of.
        """
        ids, type_ids, position_ids = row.input_ids, row.type_ids, row.position_ids
        output = np.empty((len(ids), self.words.rows.shape[1]), np.float32)
        arrays = (self.words.rows, self.words.scales, self._types, self._positions, ids, type_ids, position_ids)
        norm = Norm(*map(address, self._norm), 0, self._eps, 0.0, 0)
        sizes = (0 if table is None else len(table) for table in (self.words.rows, self._types, self._positions))
        args = _Embeddings(*map(address, arrays), norm, address(output), *sizes, *output.shape)
        threads = 0 if output.size <= HELD_NUMBERS else cpu.thread_count()
        loaded_library().embed(ctypes.addressof(args), threads)
        if args.is_beyond:
            raise IndexError("a token, type or position that the model has no embedding of")
        return output if self._project is None else self._project(output)


def _rows_of(x: Floats, width: int) -> Floats:
    x = np.ascontiguousarray(x, np.float32)
    if x.ndim != 2 or x.shape[1] != width:
        raise ValueError(f"rows of shape {x.shape} for a weight of width {width}")
    return x
