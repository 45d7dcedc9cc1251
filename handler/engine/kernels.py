"""Operators of our own for x86 CPUs, compiled from kernels.c when the project is set up (scripts/compile_kernels.py).

An archive carries them, so a server needs no compiler. Where they are missing, or the processor or the file system
does not take them, `library` is None and PyTorch's operators do the same work, slower.
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
LEVELS = {  # of x86-64, best first: what each needs of a processor
    "x86_64_v4+avx512bf16": ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_bf16"),
    "x86_64_v4": ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl"),
    "x86_64_v3": ("avx2", "fma3", "f16c", "bmi2"),
}
LANES, ROWS = 16, 4  # as in kernels.c
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.uint8: 2}
FEW = 1 << 15  # numbers that one thread has done before others have woken up, as PyTorch reckons


class Library(NamedTuple):
    """The compiled functions; each takes the address of its arguments and a number of threads."""

    attend: Callable[[int, int], None]
    normalise: Callable[[int, int], None]


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("query", "key", "value", "answer", "offsets", "scratch")),
        *((name, c_int64) for name in ("query_stride", "stride", "answer_stride", "sequences", "heads", "width")),
        *((name, c_int64) for name in ("alone", "scratch_size", "kind", "answer_kind")),
        *(("scale", c_float), ("zero", c_float), ("next", c_int64), ("thread", c_int64)),
    )


class _Norm(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("x", "weight", "bias", "answer", "integers", "units")),
        *(("rows", c_int64), ("width", c_int64), ("eps", c_float), ("zero", c_float), ("next", c_int64)),
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
        its, run = ctypes.CDLL(str(path)), _openmp()
    except OSError as error:  # a file system without execution, another kind of system
        logger.warning("%s cannot be loaded, attention on the CPU is slower: %s", path.name, error)
        return None
    for function in (its.attend, its.normalise):
        function.argtypes, function.restype = (c_void_p, c_void_p, c_int64), None
    return Library(
        attend=lambda given, threads: its.attend(given, run, threads),
        normalise=lambda given, threads: its.normalise(given, run, threads),
    )


def path_of(level: str) -> Path:
    """Return where the functions for a level lie, compiled from the source beside this file and no other."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:8]
    return SOURCE.with_name(f"kernels-{digest}-{level}.so")


def _openmp() -> int:
    """Return the address of GOMP_parallel in the OpenMP that PyTorch has loaded, so that all share its threads."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    found = re.search(r"/\S*lib(?:gomp|iomp5|omp)\b\S*\.so\S*", maps)
    if found is None:
        raise OSError("PyTorch has loaded no OpenMP")
    function = getattr(ctypes.CDLL(found.group()), "GOMP_parallel", None)
    if function is None:
        raise OSError(f"{found.group()} has no GOMP_parallel")
    return ctypes.cast(function, c_void_p).value or 0


class AttentionKernel:
    """Attention within the sequences of one packed row, for every layer of one forward pass."""

    def __init__(self, varlen: VarlenMetadata, heads: int, width: int) -> None:
        """Reserve what each thread works in; `width` is that of one head."""
        its = library()
        if its is None:
            raise RuntimeError("there is no compiled kernel for this processor")
        self._library, self._offsets = its, varlen.offsets  # which must live as long as their addresses
        wide, keys = _up(width), _up(varlen.max_length)
        self._tokens = sum(varlen.lengths)
        self._threads = torch.get_num_threads() if self._tokens * heads * width > FEW else 1
        self._scratch = torch.empty(self._threads, 2 * wide * keys + ROWS * (wide + keys))
        self._given = _Attention(
            offsets=self._offsets.data_ptr(),
            scratch=self._scratch.data_ptr(),
            scratch_size=self._scratch.shape[1],
            sequences=len(varlen.lengths),
            heads=heads,
            width=width,
            scale=width**-0.5 * math.log2(math.e),
        )

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, *, alone: bool, zero: float | None = None) -> Tensor:
        """Attend.

        Args:
            query: (tokens, heads * width) in fp32 or bf16; if `alone`, of one token of each sequence.
            key: (tokens, heads * width), as is `value`: parts of one tensor.
            zero: added to the answer, which is then cut to integers of 0..255.

        Returns:
            As `query`, contiguous.
        """
        its = self._given
        answer = torch.empty(query.shape, dtype=query.dtype if zero is None else torch.uint8)
        answer[its.sequences if alone else self._tokens :] = 0  # rows of no sequence
        its.query, its.key, its.value, its.answer = (x.data_ptr() for x in (query, key, value, answer))
        its.query_stride, its.stride, its.answer_stride = query.stride(0), key.stride(0), answer.stride(0)
        its.alone, its.kind, its.answer_kind = alone, KINDS[query.dtype], KINDS[answer.dtype]
        its.zero = zero or 0.0
        self._library.attend(ctypes.addressof(its), self._threads)
        return answer


def normalise(x: Tensor, weight: Tensor, bias: Tensor, eps: float, units: Tensor, zero: float) -> tuple[Tensor, Tensor]:
    """Normalise the rows of (rows, width) in fp32.

    Returns:
        The norm y, times `weight`, plus `bias`; and y, times `units`, plus `zero`, cut to integers of 0..255.
    """
    its = library()
    if its is None:
        y = torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, eps)
        return y, integers(torch.addcmul(torch.tensor(zero), y, units))
    answer, rounded = torch.empty(x.shape), torch.empty(x.shape, dtype=torch.uint8)
    given = _Norm(*(part.data_ptr() for part in (x, weight, bias, answer, rounded, units)), *x.shape, eps, zero)
    its.normalise(ctypes.addressof(given), torch.get_num_threads() if x.numel() > FEW else 1)
    return answer, rounded


def integers(x: Tensor) -> Tensor:
    """Cut real numbers to integers of 0..255."""
    return x.clamp(0, 255).to(torch.uint8)


def _up(n: int) -> int:
    return -(-n // LANES) * LANES
