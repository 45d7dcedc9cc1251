"""The compiled kernels as operators on tensors; where there are none, the operators of PyTorch compute the same."""

from __future__ import annotations

import ctypes
import math
from ctypes import c_float, c_int64, c_void_p
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from handler.engine.batch import VarlenMetadata
from handler.engine.kernels import KINDS, Kind, LayerNormArguments, Norm, library

DTYPES = {torch.float32: KINDS["fp32"], torch.bfloat16: KINDS["bf16"], torch.uint8: KINDS["uint8"]}
SINGLE_THREAD_MAX_ELEMENTS = 1 << 15  # PyTorch's own grain size: waking threads up costs more than this work


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("query", "key", "value", "output", "cu_seqlens", "key_lens", "scratch")),
        *((name, c_int64) for name in ("q_stride", "kv_stride", "output_stride")),
        *((name, c_int64) for name in ("n_sequences", "n_heads", "head_width")),
        *((name, c_int64) for name in ("one_query", "scratch_size", "dtype", "output_dtype")),
        *(("scale", c_float), ("zero_point", c_float), ("next", c_int64), ("thread", c_int64)),
    )


class _Rotation(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("x", "cos", "sin")),
        *((name, c_int64) for name in ("stride", "rows", "n_heads", "half", "dtype", "next")),
    )


class AttentionKernel:
    """Attention within the sequences of one packed row, for every layer of one forward pass."""

    def __init__(self, varlen: VarlenMetadata, n_heads: int, head_width: int) -> None:
        """Allocate the scratch memory of each thread."""
        functions = library()
        if functions is None:
            raise RuntimeError("there is no compiled kernel for this processor")
        self._library, self._varlen = functions, varlen  # whose tensors must live as long as their addresses
        self._tokens = sum(varlen.seq_lens)
        is_small = self._tokens * n_heads * head_width <= SINGLE_THREAD_MAX_ELEMENTS
        self._threads = 1 if is_small else torch.get_num_threads()
        scratch_size = functions.attention_scratch(head_width, varlen.max_seqlen)
        self._scratch = torch.empty(self._threads, scratch_size)
        self._args = _Attention(
            cu_seqlens=varlen.cu_seqlens.data_ptr(),
            key_lens=None if varlen.keys is None else varlen.keys.lens.data_ptr(),
            scratch=self._scratch.data_ptr(),
            scratch_size=scratch_size,
            n_sequences=len(varlen.seq_lens),
            n_heads=n_heads,
            head_width=head_width,
            scale=head_width**-0.5 * math.log2(math.e),
        )

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, *, one_query: bool, zero_point: float | None = None
    ) -> Tensor:
        """Attend within each sequence.

        Args:
            query: (tokens, n_heads * head_width) in fp32 or bf16; if `one_query`, (sequences, ...).
            key: (tokens, n_heads * head_width), as is `value`: views of one tensor.
            zero_point: added to the output, which is then clamped to 0..255 and truncated.

        Returns:
            As `query`, contiguous; uint8 with a `zero_point`.
        """
        args = self._args
        output = torch.empty(query.shape, dtype=query.dtype if zero_point is None else torch.uint8)
        output[args.n_sequences if one_query else self._tokens :] = 0  # padding rows
        args.query, args.key, args.value, args.output = (x.data_ptr() for x in (query, key, value, output))
        args.q_stride, args.kv_stride, args.output_stride = query.stride(0), key.stride(0), output.stride(0)
        args.one_query, args.dtype, args.output_dtype = one_query, DTYPES[query.dtype], DTYPES[output.dtype]
        args.zero_point = zero_point or 0.0
        self._library.attend(ctypes.addressof(args), self._threads)
        return output


def layer_norm_quantize(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, multiplier: Tensor, zero_point: float, *, is_rms: bool = False
) -> tuple[Tensor, Tensor]:
    """Normalize the rows of (rows, width) in fp32, and quantize them.

    Args:
        multiplier: (width,) requantization multipliers: 1 / scale of each channel.
        zero_point: plus 0.5, so that truncation rounds to the nearest.
        is_rms: whether to normalize by the root of the mean square; the bias is zeros then.

    Returns:
        y = layer_norm(x) in fp32, and clamp(y * multiplier + zero_point, 0, 255) in uint8.
    """
    functions = library()
    if functions is None:
        shape = x.shape[-1:]
        y = functional.rms_norm(x, shape, weight, eps) if is_rms else functional.layer_norm(x, shape, weight, bias, eps)
        return y, saturate_u8(torch.addcmul(torch.tensor(zero_point), y, multiplier))
    output, quantized = torch.empty(x.shape), torch.empty(x.shape, dtype=torch.uint8)
    norm = Norm(weight.data_ptr(), bias.data_ptr(), multiplier.data_ptr(), eps, zero_point, is_rms)
    args = LayerNormArguments(norm, x.data_ptr(), output.data_ptr(), quantized.data_ptr(), *x.shape)
    threads = torch.get_num_threads() if x.numel() > SINGLE_THREAD_MAX_ELEMENTS else 1
    functions.layer_norm_quantize(ctypes.addressof(args), threads)
    return output, quantized


def rotate(x: Tensor, n_heads: int, cos: Tensor, sin: Tensor) -> bool:
    """Rotate the first heads of the first rows of (rows, columns) in fp32 or bf16, in place.

    Args:
        cos: (rotated rows, head width / 2), as is `sin`, in fp32 and contiguous.

    Returns:
        False: there is no compiled kernel for this processor, and nothing was done.
    """
    functions = library()
    if functions is None:
        return False
    rows, half = cos.shape
    args = _Rotation(x.data_ptr(), cos.data_ptr(), sin.data_ptr(), x.stride(0), rows, n_heads, half, DTYPES[x.dtype])
    threads = torch.get_num_threads() if rows * n_heads * half > SINGLE_THREAD_MAX_ELEMENTS else 1
    functions.rotate(ctypes.addressof(args), threads)
    return True


def kind_of(dtype: torch.dtype) -> Kind | None:
    """Return what the compiled kernels call numbers of a dtype; None: they compute no such numbers."""
    kinds: dict[torch.dtype, Kind] = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.uint8: "uint8"}
    return kinds.get(dtype)


def to_array(tensor: Tensor) -> NDArray[Any]:
    """Return the numbers of a tensor on the CPU in the same memory, those of bf16 as uint16."""
    tensor = tensor.detach()
    return (tensor.view(torch.int16).numpy().view(np.uint16)) if tensor.dtype == torch.bfloat16 else tensor.numpy()


def to_tensor(array: NDArray[Any]) -> Tensor:
    """Return the numbers of an array, in the same memory unless that is for reading alone; those of uint16 as bf16."""
    array = array if array.flags.writeable else array.copy()
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def saturate_u8(x: Tensor) -> Tensor:
    """Clamp to 0..255 and truncate."""
    return x.clamp(0, 255).to(torch.uint8)
