"""CPU kernels for x86, compiled from kernels.c when the project is set up (scripts/compile_kernels.py).

An archive carries the compiled files, so a server needs no compiler. Where they are missing, or the processor or the
file system refuses them, `library` returns None and PyTorch's operators compute the same, slower.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import math
import re
from collections.abc import Callable
from ctypes import c_float, c_int64, c_void_p
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from handler.batching import VarlenMetadata

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_suffix(".c")
LEVELS = {  # of x86-64, best first: the instruction sets that each needs
    "x86_64_v4+avx512bf16": ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_bf16"),
    "x86_64_v4": ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl"),
    "x86_64_v3": ("avx2", "fma3", "f16c", "bmi2"),
}
LANES, ROWS = 16, 4  # as in kernels.c
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.uint8: 2}  # values of `enum dtype` in kernels.c
SINGLE_THREAD_MAX_ELEMENTS = 1 << 15  # PyTorch's own grain size: waking threads up costs more than this work


class Library(NamedTuple):
    """The compiled functions; each takes the address of its arguments and a number of threads."""

    attend: Callable[[int, int], None]
    layer_norm_quantize: Callable[[int, int], None]


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("query", "key", "value", "output", "cu_seqlens", "scratch")),
        *((name, c_int64) for name in ("q_stride", "kv_stride", "output_stride")),
        *((name, c_int64) for name in ("n_sequences", "n_heads", "head_width")),
        *((name, c_int64) for name in ("one_query", "scratch_size", "dtype", "output_dtype")),
        *(("scale", c_float), ("zero_point", c_float), ("next", c_int64), ("thread", c_int64)),
    )


class _LayerNorm(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("x", "weight", "bias", "output", "quantized", "multiplier")),
        *(("rows", c_int64), ("width", c_int64), ("eps", c_float), ("zero_point", c_float), ("next", c_int64)),
    )


@functools.cache
def library() -> Library | None:
    """Return the functions for this processor; None where there are none."""
    flags = torch.cpu.get_capabilities()
    level = next((name for name, needs in LEVELS.items() if all(flags.get(flag) for flag in needs)), None)
    if level is None:
        return None
    path = path_of(level)
    if not path.is_file():
        logger.warning("no %s: attention on the CPU is slower; run scripts/setup.sh and pack again", path.name)
        return None
    try:
        shared, gomp_parallel = ctypes.CDLL(str(path)), _gomp_parallel()
    except OSError as error:  # a file system without execution, another kind of system
        logger.warning("%s cannot be loaded, attention on the CPU is slower: %s", path.name, error)
        return None
    for function in (shared.attend, shared.layer_norm_quantize):
        function.argtypes, function.restype = (c_void_p, c_void_p, c_int64), None
    return Library(
        attend=lambda args, threads: shared.attend(args, gomp_parallel, threads),
        layer_norm_quantize=lambda args, threads: shared.layer_norm_quantize(args, gomp_parallel, threads),
    )


def path_of(level: str) -> Path:
    """Return the path of the functions for a level, compiled from the source beside this file and no other."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:8]
    return SOURCE.with_name(f"kernels-{digest}-{level}.so")


def _gomp_parallel() -> int:
    """Return the address of GOMP_parallel in the OpenMP that PyTorch has loaded, so that both share its threads."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    openmp = re.search(r"/\S*lib(?:gomp|iomp5|omp)\b\S*\.so\S*", maps)
    if openmp is None:
        raise OSError("PyTorch has loaded no OpenMP")
    function = getattr(ctypes.CDLL(openmp.group()), "GOMP_parallel", None)
    if function is None:
        raise OSError(f"{openmp.group()} has no GOMP_parallel")
    return ctypes.cast(function, c_void_p).value or 0


class AttentionKernel:
    """Attention within the sequences of one packed row, for every layer of one forward pass."""

    def __init__(self, varlen: VarlenMetadata, n_heads: int, head_width: int) -> None:
        """Allocate the scratch memory of each thread."""
        functions = library()
        if functions is None:
            raise RuntimeError("there is no compiled kernel for this processor")
        self._library, self._cu_seqlens = functions, varlen.cu_seqlens  # which must live as long as their addresses
        padded_width, padded_length = _round_up(head_width), _round_up(varlen.max_seqlen)
        self._tokens = sum(varlen.seq_lens)
        is_small = self._tokens * n_heads * head_width <= SINGLE_THREAD_MAX_ELEMENTS
        self._threads = 1 if is_small else torch.get_num_threads()
        scratch_size = 2 * padded_width * padded_length + ROWS * (padded_width + padded_length)
        self._scratch = torch.empty(self._threads, scratch_size)
        self._args = _Attention(
            cu_seqlens=self._cu_seqlens.data_ptr(),
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
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, multiplier: Tensor, zero_point: float
) -> tuple[Tensor, Tensor]:
    """Normalize the rows of (rows, width) in fp32, and quantize them.

    Args:
        multiplier: (width,) requantization multipliers: 1 / scale of each channel.
        zero_point: plus 0.5, so that truncation rounds to the nearest.

    Returns:
        y = layer_norm(x) in fp32, and clamp(y * multiplier + zero_point, 0, 255) in uint8.
    """
    functions = library()
    if functions is None:
        y = torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, eps)
        return y, saturate_u8(torch.addcmul(torch.tensor(zero_point), y, multiplier))
    output, quantized = torch.empty(x.shape), torch.empty(x.shape, dtype=torch.uint8)
    tensors = (x, weight, bias, output, quantized, multiplier)
    args = _LayerNorm(*(tensor.data_ptr() for tensor in tensors), *x.shape, eps, zero_point)
    threads = torch.get_num_threads() if x.numel() > SINGLE_THREAD_MAX_ELEMENTS else 1
    functions.layer_norm_quantize(ctypes.addressof(args), threads)
    return output, quantized


def saturate_u8(x: Tensor) -> Tensor:
    """Clamp to 0..255 and truncate."""
    return x.clamp(0, 255).to(torch.uint8)


def _round_up(n: int) -> int:
    return -(-n // LANES) * LANES
