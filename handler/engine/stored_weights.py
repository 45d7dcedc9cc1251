"""The tensors of a model folder by their names, as arrays of numpy."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from handler.errors import ModelMismatch
from handler.tensor_files import read_safetensors
from handler.weight_files import weight_files

BIAS = "encoder.relative_attention_bias.weight"  # of attention, for each of some ranges of distances and each head
RANGES = 32  # whatever `relative_attention_num_buckets` says, as in transformers
FARTHEST = 128  # from this distance on all have the same bias
RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # in the first BERTs' files


class Weights(dict[str, NDArray[Any]]):
    """Arrays by their names in transformers, everything but the head as in a base model, which may be saved alone."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]], prefix: str) -> None:
        """Rename what the first BERTs (google-bert/bert-base-uncased) call gamma and beta."""
        super().__init__({plain_name(name, prefix): tensor for name, tensor in tensors.items()})

    def floats(self, name: str) -> NDArray[np.float32]:
        """Return an array in fp32; rows that are stored in int8 are multiplied by their scales."""
        values = np.asarray(self[name], np.float32)
        scale = self.get(f"{name.removesuffix('weight')}scale")
        return values if scale is None else values * scale[:, None]

    def pair(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return weight and bias of a linear layer or of a norm, in fp32."""
        return self.floats(f"{name}.weight"), self.floats(f"{name}.bias")

    def distance_bias(self, longest: int) -> NDArray[np.float32] | None:
        """Return the bias of each head at each distance, (heads, 2 * longest - 1), as of `DistanceBias`; None: none.

        Args:
            longest: tokens of the longest sequence.
        """
        if BIAS not in self:
            return None
        biases = self.floats(BIAS)  # (ranges, heads)
        if len(biases) < RANGES:
            raise ValueError(f"{BIAS} has {len(biases)} rows, of which {RANGES} are read")
        return np.ascontiguousarray(biases[range_of(np.arange(1 - longest, longest), RANGES)].T)


def plain_name(name: str, prefix: str) -> str:
    """Return the name of a tensor without the prefix of a base model, and as transformers calls it today.

    >>> plain_name("bert.embeddings.LayerNorm.gamma", "bert")
    'embeddings.LayerNorm.weight'
    """
    name = name.removeprefix(f"{prefix}.")
    for old, new in RENAMED.items():
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


def range_of(distances: NDArray[np.int64], n_ranges: int) -> NDArray[np.int64]:
    """Return the range that each distance of a key from its query is in, as T5 and MPNet number them.

    Half of the ranges are for keys after the query. Of a half, the first half are single distances, the others grow
    with the logarithm (Raffel et al. 2020, "Exploring the Limits of Transfer Learning").

    >>> range_of(np.array([0, -1, 1, -200, 200]), 32).tolist()
    [0, 1, 17, 15, 31]
    """
    half = n_ranges // 2
    exact, sizes = half // 2, np.abs(distances)
    logarithms = np.log(np.maximum(sizes, 1) / np.float32(exact), dtype=np.float32) / np.float32(
        math.log(FARTHEST / exact)
    )
    far = np.minimum(exact + (logarithms * (half - exact)).astype(np.int64), half - 1)
    return np.where(distances > 0, half, 0) + np.where(sizes < exact, sizes, far)


def read_floats(folder: Path) -> dict[str, NDArray[Any]]:
    """Return the tensors of a model folder in floating point, of all its files."""
    return {name: tensor for path in weight_files(folder) for name, tensor in read_safetensors(path).items()}
