"""Read the tensors of a safetensors file as numpy arrays, which share a memory map of the file.

The library's own reader for numpy copies every tensor, and refuses those in bfloat16.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

HEADER_LENGTH = np.dtype("<u8")  # what a file begins with
DTYPES: Mapping[str, np.dtype[Any]] = {  # as they are stored, by their names in a header
    "BOOL": np.dtype("?"),
    "BF16": np.dtype("<u2"),
    **{
        name: np.dtype(f"<{name[0].lower()}{int(name[1:]) // 8}")
        for name in ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8")
    },
}


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Return the tensors of a file by their names, in the order in which they are stored.

    They are read-only views of a memory map, which lives as long as one of them. Copies are those in bfloat16, which
    become fp32, and those of a file that does not align its tensors.

    Raises:
        OSError: no file that can be opened.
        SafetensorError: a damaged file, or a tensor of a type that numpy does not have.
    """
    with safe_open(path, framework="np") as file:  # checks the header: tensors follow one another without a gap
        parts = [(name, file.get_slice(name)) for name in file.offset_keys()]
        entries = [(name, part.get_dtype(), part.get_shape()) for name, part in parts]
    if others := [f"{name} is in {kind}" for name, kind, _ in entries if kind not in DTYPES]:
        raise SafetensorError(f"{others[0]}, which is not read here")
    with path.open("rb") as opened:
        memory = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    start = HEADER_LENGTH.itemsize + int(np.frombuffer(memory, HEADER_LENGTH, count=1)[0])
    tensors: dict[str, NDArray[Any]] = {}
    for name, kind, shape in entries:
        flat = np.frombuffer(memory, DTYPES[kind], count=int(np.prod(shape, dtype=np.int64)), offset=start)
        start += flat.nbytes
        tensor = widen(flat) if kind == "BF16" else np.require(flat, requirements="A")
        tensors[name] = tensor.reshape(shape)
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """Return what the header of a file says beside its tensors; raises as `read_safetensors`."""
    with safe_open(path, framework="np") as file:
        return dict(file.metadata() or {})


def widen(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return numbers in bfloat16, given by their bits, in fp32: the bits are the upper half of those of fp32.

    >>> widen(np.array([0x3F80, 0xC020], dtype=np.uint16))
    array([ 1. , -2.5], dtype=float32)
    """
    return np.left_shift(bits, 16, dtype=np.uint32).view(np.float32)


def is_mapped(array: NDArray[Any]) -> bool:
    """Tell whether an array is a view of a file, whose pages all processes share."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return owner is not None
