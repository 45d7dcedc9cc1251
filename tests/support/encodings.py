"""Random encodings, poolers over chosen tokens, and the outputs of an engine for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from handler.engine import Engine
from handler.engine.batch import TensorBatch, VarlenMetadata
from handler.engine.probe import HiddenStates
from handler.errors import RequestError
from handler.sequences import Encoding
from handler.tasks import Pooler

LENGTHS = (3, 20, 8, 7, 50, 20, 90, 1, 64, 65)


def random_words(*lengths: int) -> list[Encoding]:
    """Return sequences of random words, the same ones every time."""
    generator = np.random.default_rng(1)
    return [Encoding(generator.integers(1000, 2000, length).tolist(), [0] * length) for length in lengths]


def varlen_of(*lengths: int, reads: Sequence[Sequence[int]] | None = None) -> VarlenMetadata:
    """Return the metadata of a packed row of sequences of these lengths."""
    varlen = TensorBatch.packed(random_words(*lengths), torch.device("cpu"), reads=reads).varlen
    assert varlen is not None
    return varlen


class ChosenStates(HiddenStates):
    """The hidden states of some tokens of each sequence."""

    def __init__(self, *positions: int) -> None:
        self.positions = positions

    def token_positions(self, encoding: Encoding) -> Sequence[int]:
        return [position for position in self.positions if position < len(encoding)] or [0]


def outputs_of(engine: Engine, pooler: Pooler, sequences: list[Encoding]) -> list[NDArray[Any]]:
    """Return the output of a pooler for each sequence."""
    results = engine.run(sequences, [pooler] * len(sequences))
    outputs = [result for result in results if not isinstance(result, RequestError)]
    assert len(outputs) == len(results)
    return outputs


def logits_of(results: list[Any]) -> NDArray[Any]:
    """Return the logits of every sequence, (n, labels); fails where one is an error."""
    assert not [result for result in results if isinstance(result, RequestError)]
    return np.concatenate(results)
