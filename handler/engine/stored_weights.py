"""The tensors of a model folder by their names, as arrays of numpy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from handler.errors import ModelMismatch
from handler.tensor_files import read_safetensors
from handler.weight_files import weight_files

RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # in the first BERTs' files


class Rows(NamedTuple):
    """One of several weights of a size, which one tensor holds."""

    name: str
    part: int
    n_parts: int


class Weights(dict[str, NDArray[Any]]):
    """Arrays by their names in transformers, everything but the head as in a base model, which may be saved alone."""

    def __init__(
        self,
        tensors: Mapping[str, NDArray[Any]],
        prefix: str = "",
        renamed: Mapping[str, str] = RENAMED,
        *,
        has_biases: bool = True,
    ) -> None:
        """Rename tensors as `plain_name`.

        Args:
            has_biases: whether every linear layer and norm has a bias; otherwise one that is not stored is 0.
        """
        self._has_biases = has_biases
        super().__init__({plain_name(name, prefix, renamed): tensor for name, tensor in tensors.items()})

    def floats(self, name: str) -> NDArray[np.float32]:
        """Return an array in fp32; rows that are stored in int8 are multiplied by their scales."""
        values = np.asarray(self[name], np.float32)
        scale = self.get(f"{name.removesuffix('weight')}scale")
        return values if scale is None else values * scale[:, None]

    def pair(self, where: str | Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return weight and bias of a linear layer or of a norm, in fp32."""
        name = where if isinstance(where, str) else where.name
        weight = self.floats(f"{name}.weight")
        is_stored = self._has_biases or f"{name}.bias" in self
        bias = self.floats(f"{name}.bias") if is_stored else np.zeros(len(weight), np.float32)
        if isinstance(where, str):
            return weight, bias
        height = len(weight) // where.n_parts
        rows = slice(where.part * height, (where.part + 1) * height)
        return weight[rows], bias[rows]


def plain_name(name: str, prefix: str, renamed: Mapping[str, str] = RENAMED) -> str:
    """Return the name of a tensor without the prefix of a base model, and as transformers calls it today.

    >>> plain_name("bert.embeddings.LayerNorm.gamma", "bert")
    'embeddings.LayerNorm.weight'
    """
    name = name.removeprefix(f"{prefix}.")
    for old, new in renamed.items():
        name = name.replace(old, new)
    return name


@contextlib.contextmanager
def errors_as_mismatch() -> Iterator[None]:
    """Raise ModelMismatch for an error of weights that cannot be loaded."""
    try:
        yield
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelMismatch(f"the weights cannot be loaded: {type(error).__name__} {reason}") from error


def read_floats(folder: Path) -> dict[str, NDArray[Any]]:
    """Return the tensors of a model folder in floating point, of all its files."""
    return {name: tensor for path in weight_files(folder) for name, tensor in read_safetensors(path).items()}
