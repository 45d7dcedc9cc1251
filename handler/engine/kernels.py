"""CPU kernels for x86, compiled from native/kernels.c when the project is set up (scripts/compile_kernels.py).

An archive carries the compiled files, so a server needs no compiler. Where they are missing, or the processor or the
file system refuses them, `library` returns None and PyTorch's operators compute the same, slower. PyTorch itself is not
needed here.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import logging
import re
import sys
from collections.abc import Callable, Iterator
from ctypes import c_float, c_int64, c_void_p
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from numpy.typing import NDArray

from handler.engine import cpu

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("native") / "kernels.c"
X86_64_V4 = ("avx512f", "avx512bw", "avx512dq", "avx512vl")
LEVELS = {  # of x86-64, best first: the instruction sets that each needs, see `cpu.flags`
    "x86_64_v4+avx512vnni+avx512bf16+amx_int8+amx_bf16": (
        *(*X86_64_V4, "avx512_vnni", "avx512_bf16"),
        *("amx_tile", "amx_int8", "amx_bf16"),
    ),
    "x86_64_v4+avx512vnni+avx512bf16": (*X86_64_V4, "avx512_vnni", "avx512_bf16"),
    "x86_64_v4+avx512vnni": (*X86_64_V4, "avx512_vnni"),
    "x86_64_v4": X86_64_V4,
    "x86_64_v3": ("avx2", "fma", "f16c", "bmi2"),
}
Kind: TypeAlias = Literal["fp32", "bf16", "uint8"]  # of numbers; those of bf16 lie in arrays of uint16
KINDS: dict[Kind, int] = {"fp32": 0, "bf16": 1, "uint8": 2}  # values of `enum dtype` in native/vectors.h


class Library(NamedTuple):
    """The compiled functions; each takes the address of its arguments and a number of threads.

    0 threads: the one that calls, which keeps the interpreter's lock. To get it back takes half a millisecond where the
    event loop of a server is busy.
    """

    level: str  # a key of LEVELS
    panel_width: int  # columns of packed weights that are computed at once
    multiplies_pairs: bool  # whether weights in int8 are multiplied two by two; see packing.py
    attend: Callable[[int, int], None]
    attention_scratch: Callable[[int, int], int]  # of a head width and a sequence length -> floats of each thread
    layer_norm_quantize: Callable[[int, int], None]
    rotate: Callable[[int, int], None]
    embed: Callable[[int, int], None]
    multiply: Callable[[int, int], None]
    decode: Callable[[int, int], None]
    decoder_scratch: Callable[[int], int]  # of a width -> floats of each thread
    encode: Callable[[int, int], None]
    encoder_scratch: Callable[[int, int], int]  # bytes


class OpenMP(ctypes.Structure):
    """Functions of OpenMP, as in native/encoder.h."""

    _fields_ = tuple((name, c_void_p) for name in ("parallel", "barrier", "thread", "threads"))


class Norm(ctypes.Structure):
    """A layer norm, as in native/norm.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("weight", "bias", "multiplier")),
        *(("eps", c_float), ("zero_point", c_float), ("is_rms", c_int64)),
    )


class LayerNormArguments(ctypes.Structure):
    """Rows and the layer norm of them, as `LayerNorm` in native/kernels.c."""

    _fields_ = (
        ("norm", Norm),
        *((name, c_void_p) for name in ("x", "output", "quantized")),
        *((name, c_int64) for name in ("rows", "width", "next")),
    )


@functools.cache
def library() -> Library | None:
    """Return the functions for this processor; None where there are none."""
    for level, needs in LEVELS.items():
        if not cpu.has(*needs):
            continue
        path = path_of(level)
        if not path.is_file():
            logger.warning(
                "no %s: models are computed by operators of PyTorch, slower; run scripts/setup.sh and pack again",
                path.name,
            )
            return None
        try:
            functions = _load(level, path)
        except OSError as error:  # a file system without execution, another kind of system
            logger.warning("%s cannot be loaded, PyTorch computes, slower: %s", path.name, error)
            return None
        if functions is not None:
            return functions
    return None


def _load(level: str, path: Path) -> Library | None:
    """Load compiled functions; None: the kernel of the system does not let this process use their instructions."""
    shared, held, parallel = ctypes.CDLL(str(path)), ctypes.PyDLL(str(path)), openmp()
    shared.prepare.restype = c_int64
    if shared.prepare():
        return None
    held.encoder_scratch.argtypes, held.encoder_scratch.restype = (c_void_p, c_int64), c_int64
    shared.attend_packed_scratch.argtypes, shared.attend_packed_scratch.restype = (c_int64, c_int64), c_int64
    shared.decoder_scratch.argtypes, shared.decoder_scratch.restype = (c_int64,), c_int64
    shared.panel_width.restype, shared.multiplies_pairs.restype = c_int64, c_int64
    return Library(
        level=level,
        panel_width=shared.panel_width(),
        multiplies_pairs=bool(shared.multiplies_pairs()),
        attend=_with_threads(shared.attend_packed, held.attend_packed, parallel),
        attention_scratch=shared.attend_packed_scratch,
        layer_norm_quantize=_with_threads(shared.layer_norm_quantize, held.layer_norm_quantize, parallel),
        rotate=_with_threads(shared.rotate, held.rotate, parallel),
        embed=_with_threads(shared.embed, held.embed, parallel),
        multiply=_with_threads(shared.multiply, held.multiply, parallel),
        decode=_with_threads(shared.decode, held.decode, parallel),
        decoder_scratch=shared.decoder_scratch,
        encode=_with_threads(shared.encode, held.encode, parallel),
        encoder_scratch=held.encoder_scratch,
    )


def _with_threads(function: Any, held: Any, parallel: OpenMP | None) -> Callable[[int, int], None]:
    """Return a function of the address of its arguments and a number of threads; without OpenMP one computes.

    Args:
        function: releases the interpreter's lock.
        held: the same, which keeps it.
    """
    function.argtypes = held.argtypes = c_void_p, c_void_p, c_int64
    function.restype = held.restype = None

    def call(args: int, threads: int) -> None:
        if not threads:
            held(args, None, 1)
        elif parallel is None:
            function(args, None, 1)
        else:
            function(args, ctypes.addressof(parallel), threads)

    return call


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


def loaded_library() -> Library:
    """Return the functions for this processor, which must have some."""
    functions = library()
    if functions is None:
        raise RuntimeError("there is no compiled kernel for this processor")
    return functions


@functools.cache
def openmp() -> OpenMP | None:
    """Return functions of OpenMP, of the library that PyTorch has or would load, so that both share its threads.

    Without PyTorch they are the system's; None: it has none, and one thread computes.
    """
    names = ("GOMP_parallel", "GOMP_barrier", "omp_get_thread_num", "omp_get_num_threads")
    for path in _openmp_paths():
        try:
            functions = [getattr(ctypes.CDLL(path), name, None) for name in names]
        except OSError:  # another path has it
            continue
        if None not in functions:
            return OpenMP(*(ctypes.cast(function, c_void_p).value for function in functions if function))
    logger.warning("no OpenMP, one thread computes: install libgomp (on Debian: apt-get install libgomp1)")
    return None


def _openmp_paths() -> Iterator[str]:
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    if loaded := re.search(r"/\S*lib(?:gomp|iomp5|omp)\b\S*\.so\S*", maps):
        yield loaded.group()
    torch = importlib.util.find_spec("torch") if "torch" not in sys.modules else None  # which imports nothing
    for folder in (torch and torch.submodule_search_locations) or ():
        names = re.compile(r"lib(?:gomp|iomp5|omp)\b.*\.so")  # the other libraries beside it bring PyTorch along
        yield from (str(path) for path in sorted(Path(folder, "lib").iterdir()) if names.match(path.name))
    yield from ("libgomp.so.1", "libomp.so.5", "libiomp5.so")


def address(array: NDArray[Any] | None) -> int:
    """Return the address of a contiguous array, which must live as long as it is used; None: 0."""
    return 0 if array is None else int(array.__array_interface__["data"][0])
