"""The engine: encodings -> outputs.

An `Engine` holds one model on one device. The encoder, nearly all of the work, computes in the chosen precision; the
embeddings before it and the head after it stay in fp32. `NativeEngine` computes archives of the BERT family on CPUs by
compiled kernels, without PyTorch; `TorchEngine` everything else, and `CudaEngine` on GPUs.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from handler.batching import group_equal, plan
from handler.config import ServingConfig
from handler.engine.device import AnyDevice
from handler.engine.isolation import FailureIsolation, Results
from handler.engine.precision import Precision
from handler.engine.probe import probe_of
from handler.errors import ConfigError, DeviceLost, Overloaded, RequestError
from handler.sequences import Encoding
from handler.tasks import Output, Pooler

if TYPE_CHECKING:
    from handler.engine.torch_engine import TorchEngine

BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
BATCH_LOGITS = 2**27  # half a gigabyte in fp32


class DeviceUsage(NamedTuple):
    """How busy a device was."""

    device: str  # its index among those of its kind, as TorchServe numbers it
    seconds: float  # that it computed for this engine
    used_bytes: int  # of its memory, by all processes


class Engine(ABC):
    """One model on one device, ready to run.

    Engines define `forward`, and what they have of `run_batches`, `warm_up`, `share_weights` and `device_usage`.
    """

    def __init__(
        self, model: Any, main: Pooler, config: ServingConfig, precision: Precision, device: AnyDevice
    ) -> None:
        """Keep a loaded model; `main` is the pooler that its head is for."""
        self.model, self.main, self.precision, self.device = model, main, precision, device
        self.max_batch_tokens = config.max_batch_tokens or BATCH_TOKENS[device.type]
        self._isolation = FailureIsolation(device)

    @property
    @abstractmethod
    def architecture(self) -> str:
        """The class of the model in transformers."""

    @property
    @abstractmethod
    def pad_id(self) -> int:
        """The padding token."""

    @property
    @abstractmethod
    def packed(self) -> bool:
        """Whether batches are packed, without padding."""

    @abstractmethod
    def forward(self, pooler: Pooler, encodings: Sequence[Encoding]) -> list[Output]:
        """Run one batch."""

    @abstractmethod
    def with_gradients(self) -> TorchEngine:
        """Return an engine of this model whose scores have gradients, from which explanations are computed.

        Raises:
            ConfigError: there is none, because PyTorch is not installed.
        """

    @property
    def device_failed(self) -> bool:
        """Whether the device failed for good, as a GPU does for a process after some errors."""
        return self._isolation.device_failed

    @property
    def gradient_problem(self) -> str:
        """Why scores have no gradients, from which explanations are computed, and what to do; "": they have."""
        return "" if self.precision.has_gradients else "pack the model with --precision fp32 or bf16"

    def mark_device_failed(self) -> DeviceLost:
        """Compute nothing any more; return the error to answer with."""
        return self._isolation.mark_device_failed()

    def run(
        self, encodings: Sequence[Encoding], poolers: Sequence[Pooler] | None = None, deadline: float = math.inf
    ) -> Results:
        """Compute the output of every encoding, in order; equal ones are computed once, short ones first.

        Args:
            poolers: what each encoding is computed for; by default all for the main pooler.
            deadline: on the clock of `time.monotonic`. Later no further batch is started: the rest is Overloaded.

        A batch that fails is split: by halves where memory ran out, row by row otherwise, so that an error stays with
        the rows that cause it.
        """
        poolers = poolers or [self.main] * len(encodings)
        results: dict[int, Output | RequestError] = {}
        planned = self._plan(encodings, poolers)
        batches = ((pooler, [encodings[indices[0]] for indices in rows]) for pooler, rows in planned)
        for (_, rows), outputs in zip(planned, self.run_batches(batches, deadline), strict=True):
            results.update((index, output) for row, output in zip(rows, outputs, strict=True) for index in row)
        return [results[index] for index in range(len(encodings))]

    def run_batches(self, batches: Iterable[tuple[Pooler, list[Encoding]]], deadline: float) -> Iterator[Results]:
        """Yield the outputs of every batch, in order."""
        for pooler, encodings in batches:
            is_late = time.monotonic() >= deadline
            yield self.refuse_late(encodings) if is_late else self.attempt(pooler, encodings)

    def attempt(self, pooler: Pooler, encodings: list[Encoding]) -> Results:
        """Run one batch; split it where it fails."""
        return self._isolation.attempt(partial(self.forward, pooler), encodings)

    def refuse_late(self, encodings: list[Encoding]) -> Results:
        """Return the error of a batch that is not started: TorchServe would kill the worker and all its answers."""
        return [Overloaded("too much for one batch: send fewer or shorter texts at once")] * len(encodings)

    def warm_up(self, max_length: int) -> None:
        """Run the smallest and the largest batches once, so that no request pays for first-time work.

        Raises:
            ConfigError: the model cannot compute in this precision.
        """
        token = probe_of(self.model.config)[0].ids[0]
        for lengths in ([2], [max_length], [8] * max(1, self._batch_tokens(self.main) // 8)):
            try:
                self.forward(self.main, [Encoding([token] * length, [0] * length) for length in lengths])
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                raise ConfigError(
                    f"{self.architecture} does not run with handler.precision {self.precision.name} and "
                    f"handler.max_batch_tokens {self.max_batch_tokens}: {' '.join(str(error).split())[:200]}"
                ) from error

    @abstractmethod
    def share_weights(self, folder: Path) -> None:
        """Share the weights of the layers with other processes by a file of a folder, where the layers can."""

    def device_usage(self) -> DeviceUsage | None:
        """Return how the device was used since the previous call; None: this device does not measure it."""
        return None

    def _batch_tokens(self, pooler: Pooler) -> int:
        """Return how many tokens a batch may have: fewer where the head computes many logits of each."""
        return min(self.max_batch_tokens, BATCH_LOGITS // max(1, pooler.logits_per_token))

    def _plan(self, encodings: Sequence[Encoding], poolers: Sequence[Pooler]) -> list[tuple[Pooler, list[list[int]]]]:
        """Plan forward passes, short ones first; a row is the indices of all encodings equal to each other."""
        planned = []
        for pooler in dict.fromkeys(poolers):
            members = [index for index, other in enumerate(poolers) if other is pooler]
            groups = [[members[i] for i in group] for group in group_equal([encodings[index] for index in members])]
            lengths = [len(encodings[group[0]]) for group in groups]
            for rows in plan(lengths, self._batch_tokens(pooler), padded=not self.packed):
                planned.append((pooler, [groups[row] for row in rows]))
        return sorted(planned, key=lambda batch: len(encodings[batch[1][0][0]]))  # a plan's rows: longest first
