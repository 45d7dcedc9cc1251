"""Triton on a CPU: kernels run as plain Python on tensors of PyTorch, one program after the other.

Triton itself has an interpreter, but unpacks to a gigabyte. This has what the kernels of the handler use. Loads and
stores outside of a tensor are errors, unless a mask leaves them out.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

_programs: list[tuple[int, ...]] = []  # of the kernel that runs


class Pointer:
    """Addresses of elements of a tensor: their indices in its memory."""

    def __init__(self, memory: Tensor, indices: Any = 0) -> None:
        self.memory, self.indices = memory, indices
        self.dtype = types.SimpleNamespace(element_ty=memory.dtype)

    def __add__(self, offsets: Any) -> Pointer:
        return Pointer(self.memory, self.indices + offsets)

    def checked(self, mask: Any) -> tuple[Tensor, Tensor]:
        """Return the indices, 0 where the mask is false, and the mask."""
        indices = torch.as_tensor(self.indices)
        allowed = torch.as_tensor(True if mask is None else mask).expand(indices.shape)
        outside = (indices < 0) | (indices >= self.memory.numel())
        assert not (outside & allowed).any(), "an address outside of its tensor"
        return indices.where(allowed, 0), allowed


def load(pointer: Pointer, mask: Any = None, other: float = 0.0) -> Tensor:
    """Return the elements, `other` where the mask is false."""
    indices, allowed = pointer.checked(mask)
    values = pointer.memory.view(-1)[indices]
    return values.where(allowed, torch.tensor(other).to(values.dtype))


def store(pointer: Pointer, values: Tensor, mask: Any = None) -> None:
    """Write the elements where the mask is true."""
    indices, allowed = pointer.checked(mask)
    assert values.dtype == pointer.memory.dtype
    pointer.memory.view(-1)[indices[allowed]] = values[allowed]


def dot(x: Tensor, y: Tensor, sums: Tensor | None = None) -> Tensor:
    """Multiply matrices whose sides are at least those of the hardware, to fp32."""
    assert min(*x.shape, *y.shape) >= 16
    assert x.dtype == y.dtype
    result = x.float() @ y.float()
    return result if sums is None else result + sums


class Kernel:
    """A function of the grid: `kernel[grid](*arguments, **constants)`; called without a grid, a part of a kernel."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, num_warps: int, num_stages: int, **constants: Any) -> None:
            assert num_warps in (1, 2, 4, 8)
            assert num_stages > 0
            for argument in arguments:
                assert not isinstance(argument, Tensor) or argument.is_contiguous()
            passed = [Pointer(value) if isinstance(value, Tensor) else value for value in arguments]
            for program in product(*map(range, grid)):
                _programs.append(program)
                try:
                    self._function(*passed, **constants)
                finally:
                    _programs.pop()

        return launch


def jit(function: Callable[..., Any] | None = None, **_: Any) -> Any:
    """Decorate a kernel, with options of the compiler or without."""
    return Kernel if function is None else Kernel(function)


def language() -> types.ModuleType:
    """Return what kernels import as `tl`."""
    tl: Any = types.ModuleType("triton.language")
    tl.constexpr, tl.float32, tl.int64 = int, torch.float32, torch.int64
    tl.program_id = lambda axis: _programs[-1][axis]
    tl.arange, tl.range = torch.arange, lambda start, end, step: range(int(start), int(end), step)
    tl.load, tl.store, tl.dot, tl.exp2 = load, store, dot, torch.exp2
    tl.zeros = lambda shape, dtype: torch.zeros(shape, dtype=dtype)
    tl.full = lambda shape, value, dtype: torch.full(shape, value, dtype=dtype)
    tl.where = lambda condition, x, y: torch.where(torch.as_tensor(condition), torch.as_tensor(x), torch.as_tensor(y))
    tl.maximum = lambda x, y: torch.maximum(torch.as_tensor(x), torch.as_tensor(y))
    tl.minimum = lambda x, y: torch.minimum(torch.as_tensor(x), torch.as_tensor(y))
    tl.max, tl.sum = (lambda x, axis: x.amax(axis)), (lambda x, axis: x.sum(axis))
    return tl  # type: ignore[no-any-return]


@contextmanager
def imported(name: str) -> Iterator[Any]:
    """Import a module of kernels over this Triton, which nothing else sees; afterwards the module is forgotten."""
    triton: Any = types.ModuleType("triton")
    triton.jit, triton.language = jit, language()
    before = sys.modules.pop(name, None)  # over Triton itself
    with pytest.MonkeyPatch.context() as during_import:
        during_import.setitem(sys.modules, "triton", triton)
        during_import.setitem(sys.modules, "triton.language", triton.language)
        module = importlib.import_module(name)
    package, _, attribute = name.rpartition(".")
    try:
        yield module
    finally:
        del sys.modules[name]
        delattr(sys.modules[package], attribute)  # which an import sets, and `from package import module` takes
        if before is not None:
            sys.modules[name] = before
            setattr(sys.modules[package], attribute, before)
