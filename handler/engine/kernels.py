"""CPU kernels for x86, compiled from native/kernels.c when the project is set up (scripts/compile_kernels.py).

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
from torch.nn import functional

from handler.batching import VarlenMetadata

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("native") / "kernels.c"
X86_64_V4 = ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl")
LEVELS = {  # of x86-64, best first: the instruction sets that each needs
    "x86_64_v4+avx512vnni+avx512bf16+amx_int8+amx_bf16": (
        *(*X86_64_V4, "avx512_vnni", "avx512_bf16"),
        *("amx_tile", "amx_int8", "amx_bf16"),
    ),
    "x86_64_v4+avx512vnni+avx512bf16": (*X86_64_V4, "avx512_vnni", "avx512_bf16"),
    "x86_64_v4+avx512vnni": (*X86_64_V4, "avx512_vnni"),
    "x86_64_v4": X86_64_V4,
    "x86_64_v3": ("avx2", "fma3", "f16c", "bmi2"),
}
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.uint8: 2}  # values of `enum dtype` in kernels.c
SINGLE_THREAD_MAX_ELEMENTS = 1 << 15  # PyTorch's own grain size: waking threads up costs more than this work


class Library(NamedTuple):
    """The compiled functions; each takes the address of its arguments and a number of threads."""

    level: str  # a key of LEVELS
    panel_width: int  # columns of packed weights that are computed at once
    multiplies_pairs: bool  # whether weights in int8 are multiplied two by two; see packing.py
    attend: Callable[[int, int], None]
    attention_scratch: Callable[[int, int], int]  # of a head width and a sequence length -> floats of each thread
    layer_norm_quantize: Callable[[int, int], None]
    rotate: Callable[[int, int], None]
    encode: Callable[[int, int], None]
    encoder_scratch: Callable[[int, int], int]  # bytes


class OpenMP(ctypes.Structure):
    """Functions of OpenMP, as in native/encoder.h."""

    _fields_ = tuple((name, c_void_p) for name in ("parallel", "barrier", "thread", "threads"))


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("query", "key", "value", "output", "cu_seqlens", "key_lens", "scratch")),
        *((name, c_int64) for name in ("q_stride", "kv_stride", "output_stride")),
        *((name, c_int64) for name in ("n_sequences", "n_heads", "head_width")),
        *((name, c_int64) for name in ("one_query", "scratch_size", "dtype", "output_dtype")),
        *(("scale", c_float), ("zero_point", c_float), ("next", c_int64), ("thread", c_int64)),
    )


class Norm(ctypes.Structure):
    """A layer norm, as in native/norm.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("weight", "bias", "multiplier")),
        *(("eps", c_float), ("zero_point", c_float), ("is_rms", c_int64)),
    )


class _LayerNorm(ctypes.Structure):
    _fields_ = (
        ("norm", Norm),
        *((name, c_void_p) for name in ("x", "output", "quantized")),
        *((name, c_int64) for name in ("rows", "width", "next")),
    )


class _Rotation(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("x", "cos", "sin")),
        *((name, c_int64) for name in ("stride", "rows", "n_heads", "half", "dtype", "next")),
    )


@functools.cache
def library() -> Library | None:
    """Return the functions for this processor; None where there are none."""
    flags = torch.cpu.get_capabilities()
    for level, needs in LEVELS.items():
        if not all(flags.get(flag) for flag in needs):
            continue
        path = path_of(level)
        if not path.is_file():
            logger.warning("no %s: attention on the CPU is slower; run scripts/setup.sh and pack again", path.name)
            return None
        try:
            functions = _load(level, path)
        except OSError as error:  # a file system without execution, another kind of system
            logger.warning("%s cannot be loaded, attention on the CPU is slower: %s", path.name, error)
            return None
        if functions is not None:
            return functions
    return None


def _load(level: str, path: Path) -> Library | None:
    """Load compiled functions; None: the kernel of the system does not let this process use their instructions."""
    shared, parallel = ctypes.CDLL(str(path)), openmp()
    shared.prepare.restype = c_int64
    if shared.prepare():
        return None
    for function in (shared.attend_packed, shared.layer_norm_quantize, shared.rotate, shared.encode):
        function.argtypes, function.restype = (c_void_p, c_void_p, c_int64), None
    shared.encoder_scratch.argtypes, shared.encoder_scratch.restype = (c_void_p, c_int64), c_int64
    shared.attend_packed_scratch.argtypes, shared.attend_packed_scratch.restype = (c_int64, c_int64), c_int64
    shared.panel_width.restype, shared.multiplies_pairs.restype = c_int64, c_int64
    return Library(
        level=level,
        panel_width=shared.panel_width(),
        multiplies_pairs=bool(shared.multiplies_pairs()),
        attend=lambda args, threads: shared.attend_packed(args, ctypes.addressof(parallel), threads),
        attention_scratch=shared.attend_packed_scratch,
        layer_norm_quantize=lambda args, threads: shared.layer_norm_quantize(args, ctypes.addressof(parallel), threads),
        rotate=lambda args, threads: shared.rotate(args, ctypes.addressof(parallel), threads),
        encode=lambda args, threads: shared.encode(args, ctypes.addressof(parallel), threads),
        encoder_scratch=shared.encoder_scratch,
    )


def path_of(level: str, source: Path | None = None) -> Path:
    """Return the path of the functions for a level, compiled from the sources as they are now and no others.

    Args:
        source: another file in C, which may include the headers of the folder `native`.
    """
    digest = hashlib.sha256()
    for folder in dict.fromkeys([SOURCE.parent, (source or SOURCE).parent]):
        for file in sorted([*folder.glob("*.c"), *folder.glob("*.h")]):
            digest.update(file.read_bytes())
    return (source or SOURCE).with_name(f"kernels-{digest.hexdigest()[:8]}-{level}.so")


def openmp() -> OpenMP:
    """Return functions of the OpenMP that PyTorch has loaded, so that both share its threads."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    path = re.search(r"/\S*lib(?:gomp|iomp5|omp)\b\S*\.so\S*", maps)
    if path is None:
        raise OSError("PyTorch has loaded no OpenMP")
    names = ("GOMP_parallel", "GOMP_barrier", "omp_get_thread_num", "omp_get_num_threads")
    functions = [getattr(ctypes.CDLL(path.group()), name, None) for name in names]
    if None in functions:
        raise OSError(f"{path.group()} lacks one of {', '.join(names)}")
    return OpenMP(*(ctypes.cast(function, c_void_p).value for function in functions if function))


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
    args = _LayerNorm(norm, x.data_ptr(), output.data_ptr(), quantized.data_ptr(), *x.shape)
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


def saturate_u8(x: Tensor) -> Tensor:
    """Clamp to 0..255 and truncate."""
    return x.clamp(0, 255).to(torch.uint8)
