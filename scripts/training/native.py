"""The functions of native/training.c: what training computes between the products of the layers, on an unpadded batch.

Tensors are contiguous. Those of the products are fp32 or bf16, everything else is fp32.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from ctypes import c_float, c_int64, c_uint32, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from handler.engine import cpu
from handler.engine.kernel_operators import DTYPES, SINGLE_THREAD_MAX_ELEMENTS
from handler.engine.kernels import X86_64_V4, OpenMP, openmp, path_of

SOURCE = Path(__file__).with_name("native") / "training.c"
LEVELS = {  # as in handler/engine/kernels.py
    "x86_64_v4+avx512bf16+amx_int8+amx_bf16": (*X86_64_V4, "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16"),
    "x86_64_v4+avx512bf16": (*X86_64_V4, "avx512_bf16"),
    "x86_64_v4": X86_64_V4,
    "x86_64_v3": ("avx2", "fma", "f16c", "bmi2"),
}
LANES = 16  # widths are multiples of it
CHUNKS = 8  # of rows, whose sums are added in this order
SIDE = 32  # sizes of products by tiles are multiples of it
FUNCTIONS = (
    *("norm", "norm_backward", "activation", "activation_backward", "attention", "attention_backward"),
    *("sum_columns", "pack", "product", "squares", "adamw"),
)
ORDERS = {"along_rows": 0, "along_columns": 1, "left": 2}  # values of `enum order` in products.h


class _Dropout(ctypes.Structure):
    _fields_ = (("keys", c_uint32 * 2), ("dropped", c_uint32), ("scale", c_float))


class _Norm(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("x", "linear_bias", "residual", "weight", "bias", "summed", "statistics")),
        *((name, c_void_p) for name in ("output", "rounded", "gradient", "further", "to_residual", "to_x")),
        *((name, c_void_p) for name in ("to_weight", "to_bias", "to_linear_bias")),
        *((name, c_int64) for name in ("rows", "width", "dtype")),
        *(("dropout", _Dropout), ("eps", c_float), ("next", c_int64)),
    )


class _Activation(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("x", "bias", "output", "gradient", "to_x", "to_bias")),
        *((name, c_int64) for name in ("rows", "width", "dtype", "activation", "next")),
    )


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("qkv", "bias", "context", "gradient", "to_qkv", "cu_seqlens", "scratch")),
        *((name, c_int64) for name in ("n_sequences", "n_heads", "head_width", "max_seqlen", "scratch_size", "dtype")),
        *(("one_query", c_int64), ("dropout", _Dropout), ("scale", c_float), ("next", c_int64), ("thread", c_int64)),
    )


class _Columns(ctypes.Structure):
    _fields_ = (("x", c_void_p), ("sums", c_void_p), *((name, c_int64) for name in ("rows", "width", "dtype", "next")))


class _Packing(ctypes.Structure):
    _fields_ = (
        ("from", c_void_p),
        ("to", c_void_p),
        *(
            (name, c_int64)
            for name in ("rows", "width", "dtype", "order", "steps", "first_block", "first_step", "next")
        ),
    )


class _Product(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("a", "b", "c")),
        *((name, c_int64) for name in ("rows", "blocks", "steps", "is_packed", "dtype", "next")),
    )


class TrainingLibrary(NamedTuple):
    """The compiled functions by name, and floats of scratch memory: (head width, longest sequence) -> of a thread."""

    functions: dict[str, Callable[[Any, Any, int], None]]
    attention_scratch: Callable[[int, int], int]
    openmp: OpenMP | None
    has_tiles: bool  # whether `pack` and `product` compute by the matrix unit

    def call(self, name: str, args: ctypes.Structure, size: int) -> None:
        """Call a function; one that computes few elements gets one thread."""
        threads = torch.get_num_threads() if size > SINGLE_THREAD_MAX_ELEMENTS else 1
        parallel = self.openmp
        self.functions[name](
            ctypes.addressof(args), parallel and ctypes.addressof(parallel), threads if parallel else 1
        )


@functools.cache
def library() -> TrainingLibrary | None:
    """Return the functions for this processor; None where there are none, or they cannot be loaded."""
    for level, needs in LEVELS.items():
        if cpu.has(*needs) and path_of(level, SOURCE).is_file():
            try:
                shared, parallel = ctypes.CDLL(str(path_of(level, SOURCE))), openmp()
            except OSError:  # a file system without execution, another kind of system
                return None
            if shared.prepare() == 0:  # else the system does not let this process use tiles
                return _load(shared, parallel)
    return None


def why_missing() -> str | None:
    """Return why `library` has no functions, and what to do; None where it has them, or the processor can have none."""
    levels = [level for level, needs in LEVELS.items() if cpu.has(*needs)]
    if library() is not None or not levels:
        return None
    if not any(path_of(level, SOURCE).is_file() for level in levels):
        return "they are not compiled: run scripts/compile_kernels.py (scripts/setup.sh does)"
    return f"{SOURCE.parent} has them, but they cannot be loaded: is its file system mounted with noexec?"


def _load(shared: ctypes.CDLL, parallel: OpenMP | None) -> TrainingLibrary:
    functions = {name: getattr(shared, name) for name in FUNCTIONS}
    for function in functions.values():
        function.argtypes, function.restype = (c_void_p, c_void_p, c_int64), None
    shared.attention_scratch.argtypes, shared.attention_scratch.restype = (c_int64, c_int64), c_int64
    return TrainingLibrary(functions, shared.attention_scratch, parallel, bool(shared.has_tiles()))


def call(name: str, args: ctypes.Structure, size: int) -> None:
    """Call a function with the address of its arguments; one that computes few elements gets one thread."""
    _library().call(name, args, size)


def _library() -> TrainingLibrary:
    functions = library()
    if functions is None:
        raise RuntimeError("there is no compiled kernel for this processor")
    return functions


class Dropout(NamedTuple):
    """Dropout at one place of a model, in one forward pass: the same numbers are dropped backwards."""

    probability: float
    key: int  # 64 bits

    def arguments(self) -> _Dropout:
        if self.probability == 0:
            return _Dropout()
        keys = (c_uint32 * 2)(self.key & 0xFFFFFFFF, self.key >> 32)
        return _Dropout(keys, round(self.probability * 0xFFFFFFFF), 1 / (1 - self.probability))


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def pack(x: Tensor, order: str, packed: Tensor, first_block: int = 0, first_step: int = 0) -> None:
    """Write x (rows, width) in the order of products.h, whole or as a part of several.

    Args:
        order: "along_rows" of fp32 or bf16, "along_columns" of fp32, or "left" of bf16; keys of ORDERS.
        packed: (columns / SIDE, depth / SIDE, SIDE * SIDE) in bf16: depth and columns are rows and width of x, for
            "along_columns" width and rows.
    """
    rows, width = x.shape
    args = _Packing(x.data_ptr(), packed.data_ptr(), rows, width, DTYPES[x.dtype], ORDERS[order], packed.shape[1])
    args.first_block, args.first_step = first_block, first_step
    _library().call("pack", args, x.numel())


def packed(x: Tensor, order: str) -> Tensor:
    """Return x (depth, columns) in bf16 in the order of products.h: "along_rows", or "left"."""
    rows, width = x.shape
    result = torch.empty(width // SIDE, rows // SIDE, SIDE * SIDE, dtype=torch.bfloat16)
    pack(x, order, result)
    return result


def product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a @ b in fp32 or bf16.

    Args:
        a: (rows, depth) in bf16, or its transpose packed as "left".
        b: packed, (columns / SIDE, depth / SIDE, SIDE * SIDE).
    """
    is_packed, (blocks, steps, _) = a.dim() == 3, b.shape
    c = torch.empty(len(a) * SIDE if is_packed else len(a), blocks * SIDE, dtype=dtype)
    args = _Product(a.data_ptr(), b.data_ptr(), c.data_ptr(), len(c), blocks, steps, is_packed, DTYPES[dtype])
    _library().call("product", args, c.numel() * steps)
    return c


class ResidualNorm:
    """layer_norm(dropout(x + linear_bias) + residual), and its gradients."""

    def __init__(self, linear_bias: Tensor, weight: Tensor, bias: Tensor, eps: float, dropout: Dropout) -> None:
        """Keep the parameters, each (width,)."""
        self._parameters = (linear_bias, weight, bias)
        self._eps, self._dropout = eps, dropout

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output in fp32, and as the next linear layer reads it.

        Args:
            x: (rows, width), what a linear layer computes without its bias.
            residual: (rows, width) in fp32.
        """
        self._dtype, self._summed = x.dtype, torch.empty_like(residual)
        self._statistics, output = torch.empty(len(x), 2), torch.empty_like(residual)
        rounded = torch.empty_like(x) if x.dtype == torch.bfloat16 else None
        args = self._arguments()
        args.x, args.residual = x.data_ptr(), residual.data_ptr()
        args.output, args.rounded = output.data_ptr(), _address(rounded)
        _library().call("norm", args, x.numel())
        return output, output if rounded is None else rounded

    def backward(self, gradient: Tensor, further: Tensor | None) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the gradients of residual and of x, and those of linear_bias, weight and bias.

        Args:
            gradient: of the output in fp32.
            further: that of what the next linear layer read, which is added.
        """
        to_residual, to_x = torch.empty_like(self._summed), torch.empty_like(self._summed, dtype=self._dtype)
        sums = torch.zeros(3, CHUNKS, gradient.shape[1])
        args = self._arguments()
        args.gradient, args.further = gradient.data_ptr(), _address(further)
        args.to_residual, args.to_x = to_residual.data_ptr(), to_x.data_ptr()
        args.to_linear_bias, args.to_weight, args.to_bias = (part.data_ptr() for part in sums)
        _library().call("norm_backward", args, gradient.numel())
        return to_residual, to_x, list(sums.sum(1).unbind())

    def _arguments(self) -> _Norm:
        addresses = dict(zip(("linear_bias", "weight", "bias"), map(_address, self._parameters), strict=True))
        rows, width = self._summed.shape
        return _Norm(
            **addresses,
            summed=self._summed.data_ptr(),
            statistics=self._statistics.data_ptr(),
            rows=rows,
            width=width,
            dtype=DTYPES[self._dtype],
            dropout=self._dropout.arguments(),
            eps=self._eps,
        )


class BiasActivation:
    """activation(x + bias), and its gradients."""

    def __init__(self, bias: Tensor, activation: int) -> None:
        """Keep the bias (width,); `activation` is a value of native_encoder.ACTIVATIONS."""
        self._bias, self._activation = bias, activation

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for x (rows, width), what a linear layer computes without its bias."""
        self._x, output = x, torch.empty_like(x)
        args = self._arguments()
        args.output = output.data_ptr()
        _library().call("activation", args, x.numel())
        return output

    def backward(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of x and of the bias; that of x takes the memory of `gradient`."""
        sums = torch.zeros(CHUNKS, gradient.shape[1])
        args = self._arguments()
        args.gradient, args.to_x, args.to_bias = gradient.data_ptr(), gradient.data_ptr(), sums.data_ptr()
        _library().call("activation_backward", args, gradient.numel())
        return gradient, sums.sum(0)

    def _arguments(self) -> _Activation:
        dtype = DTYPES[self._x.dtype]
        return _Activation(
            x=self._x.data_ptr(),
            bias=self._bias.data_ptr(),
            rows=self._x.shape[0],
            width=self._x.shape[1],
            dtype=dtype,
            activation=self._activation,
        )


class SequenceAttention:
    """Attention within the sequences of one row, with dropout of its probabilities, and its gradients."""

    def __init__(
        self,
        bias: Tensor,
        n_heads: int,
        cu_seqlens: Tensor,
        max_seqlen: int,
        dropout: Dropout,
        one_query_rows: int | None = None,
    ) -> None:
        """Keep the biases (3 * width,) of queries, keys and values, and the boundaries (sequences + 1,) in int32.

        `one_query_rows`: only the first token of each sequence attends to the others, and the context has so many rows.
        """
        self._bias, self._n_heads, self._cu_seqlens = bias, n_heads, cu_seqlens
        self._max_seqlen, self._dropout, self._n_tokens = max_seqlen, dropout, int(cu_seqlens[-1])
        self._one_query_rows = one_query_rows

    def forward(self, qkv: Tensor) -> Tensor:
        """Return the context (rows, width) of queries, keys and values (rows, 3 * width) without their biases.

        Rows behind the last sequence are 0, as are their gradients.
        """
        n_rows, n_written = len(qkv), self._n_tokens
        if self._one_query_rows is not None:
            n_rows, n_written = self._one_query_rows, len(self._cu_seqlens) - 1
        self._qkv, context = qkv, torch.empty(n_rows, qkv.shape[1] // 3, dtype=qkv.dtype)
        context[n_written:] = 0
        args, scratch = self._arguments()
        args.context, args.scratch = context.data_ptr(), scratch.data_ptr()
        _library().call("attention", args, qkv.numel())
        return context

    def backward(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of qkv and of the biases, from that of the context."""
        to_qkv, sums = torch.empty_like(self._qkv), torch.zeros(CHUNKS, self._qkv.shape[1])
        to_qkv[self._n_tokens :] = 0
        args, scratch = self._arguments()
        args.gradient, args.to_qkv, args.scratch = gradient.data_ptr(), to_qkv.data_ptr(), scratch.data_ptr()
        _library().call("attention_backward", args, to_qkv.numel())
        rows, width = to_qkv.shape
        columns = _Columns(to_qkv.data_ptr(), sums.data_ptr(), rows, width, DTYPES[to_qkv.dtype])
        _library().call("sum_columns", columns, to_qkv.numel())
        return to_qkv, sums.sum(0)

    def _arguments(self) -> tuple[_Attention, Tensor]:
        head_width = self._qkv.shape[1] // 3 // self._n_heads
        size = _library().attention_scratch(head_width, self._max_seqlen)
        args = _Attention(
            qkv=self._qkv.data_ptr(),
            bias=self._bias.data_ptr(),
            cu_seqlens=self._cu_seqlens.data_ptr(),
            n_sequences=len(self._cu_seqlens) - 1,
            n_heads=self._n_heads,
            head_width=head_width,
            max_seqlen=self._max_seqlen,
            scratch_size=size,
            dtype=DTYPES[self._qkv.dtype],
            one_query=self._one_query_rows is not None,
            dropout=self._dropout.arguments(),
            scale=head_width**-0.5,
        )
        return args, torch.empty(torch.get_num_threads(), size)
