"""The engine on an NVIDIA GPU.

The GPU works while Python lays out what comes next: a batch is launched before the one ahead of it is waited for, and
each is waited for once, when its values lie on the host. Steps between products are fused, small batches replayed as
graphs, and the size of a batch is found by trying. All of it is tried before the worker becomes ready and held against
the plain way; what does not work here is left out, with a line in the log.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handler.batching import Batch
from handler.config import ServingConfig
from handler.engine import DeviceUsage, Engine, fp8, fusion, memory
from handler.engine.attention import has_kernel
from handler.engine.cuda_graphs import BUCKETS, Graph, bucket_of, recorder
from handler.engine.encoder import PackedEncoder
from handler.engine.precision import FP8
from handler.engine.probe import HiddenStates, probe_of, random_encodings
from handler.errors import ConfigError, ModelMismatch, RequestError
from handler.sequences import Encoding
from handler.tasks import Output, Pooler

logger = logging.getLogger(__name__)

AHEAD = 1  # batches launched beyond the one that is waited for: one hides what Python does, more would hold memory
STRAY = {"fp32": 0.01, "bf16": 0.2, "fp16": 0.2, "fp8": 0.9}  # of a state's length in fp32: more is no rounding
SAME = 0.1  # of the length of all values of a batch: more is not the same computation
SAMPLE = [128] * 512  # lengths that token budgets are tried on

Answers = list[Output | RequestError]


class Flight:
    """One batch on the GPU: where its values will be, and when."""

    def __init__(self, values: Tensor, counts: Sequence[int], began: torch.cuda.Event, ended: torch.cuda.Event) -> None:
        self._values, self._counts = values, counts
        self._began, self._ended = began, ended

    def land(self) -> tuple[list[Output], float]:
        """Wait; return the values of every sequence, and the seconds that the GPU took."""
        self._ended.synchronize()
        rows = np.split(self._values.numpy(), np.cumsum(self._counts)[:-1])
        return rows, self._began.elapsed_time(self._ended) / 1e3


class CudaEngine(Engine):
    """One model on one GPU."""

    def __init__(
        self, model: Any, main: Pooler, config: ServingConfig, device: torch.device | None = None, **options: Any
    ) -> None:
        self._config = config
        self._graphs: dict[tuple[Any, ...], Graph] = {}  # by what runs, the tokens read of a sequence, and the bucket
        self._busy_s = 0.0
        super().__init__(model, main, config, device, **options)

    def warm_up(self, max_length: int) -> None:
        """Run every kind of batch, find the token budget unless the operator set it, and record graphs."""
        asked = self._config.max_batch_tokens
        self.max_batch_tokens = asked or memory.BUDGETS[0]
        super().warm_up(max_length)
        self.max_batch_tokens = asked or self._find_budget(max_length)
        if self._config.compile == "auto" and self.packed and has_kernel(self.device, self.precision.dtype):
            self._record(max_length)
        torch.cuda.empty_cache()
        self.device_usage()

    def device_usage(self) -> DeviceUsage | None:
        """Return the seconds that batches took since this was asked before, and the GPU's memory in use."""
        if self.device_failed:  # it would answer with one more error
            return None
        busy_s, self._busy_s = self._busy_s, 0.0
        free, total = torch.cuda.mem_get_info(self.device)
        return DeviceUsage(str(self.device.index or 0), busy_s, total - free)

    # --- one batch ahead ---------------------------------------------------------------------------------------------

    def _compute(self, batches: Iterable[tuple[Pooler, list[Encoding]]], deadline: float) -> Iterator[Answers]:
        under_way: deque[Callable[[], Answers]] = deque()
        for use, members in batches:
            late = time.monotonic() >= deadline
            under_way.append(partial(self._too_late, members) if late else self._start(use, members))
            if len(under_way) > AHEAD:
                yield under_way.popleft()()
        while under_way:
            yield under_way.popleft()()

    def _start(self, use: Pooler, encodings: list[Encoding]) -> Callable[[], Answers]:
        """Launch a batch; return what waits for its values."""
        flight = None
        if not self.device_failed:
            try:
                flight = self._launch(use, encodings)
            except Exception:  # noqa: BLE001 - tried again, alone on the GPU, when its turn comes; then it is told
                flight = None
        return partial(self._finish, use, encodings, flight)

    def _finish(self, use: Pooler, encodings: list[Encoding], flight: Flight | None) -> Answers:
        try:
            return self._attempt(use, encodings) if flight is None else list(self._landed(flight))
        except torch.AcceleratorError:
            return [self.mark_device_failed()] * len(encodings)

    def _forward(self, use: Pooler, encodings: Sequence[Encoding]) -> list[Output]:
        return self._landed(self._launch(use, encodings))

    @torch.inference_mode()
    def _launch(self, use: Pooler, encodings: Sequence[Encoding]) -> Flight:
        """Give a batch to the GPU without waiting for anything."""
        began = self._mark()
        if use.forward_scope == "nothing":
            return Flight(torch.empty(0), [0] * len(encodings), began, self._mark())
        batch, output = self._replay(use, encodings) or self._run(use, encodings)
        packed = use.pool(output, batch)
        values = packed.values.float().to("cpu", non_blocking=True)  # into pinned memory
        return Flight(values, packed.counts, began, self._mark())

    def _landed(self, flight: Flight) -> list[Output]:
        rows, seconds = flight.land()
        self._busy_s += seconds
        return rows

    def _run(self, use: Pooler, encodings: Sequence[Encoding]) -> tuple[Batch, Any]:
        batch = self.build_batch(use, encodings)
        return batch, self.call(use, batch)

    def _replay(self, use: Pooler, encodings: Sequence[Encoding]) -> tuple[Batch, Any] | None:
        """Run a small batch by the graph of its bucket; None: there is none for it."""
        bucket = bucket_of(sum(map(len, encodings)), len(encodings)) if self._graphs else None
        if bucket is None:
            return None
        reads = [use.token_positions(encoding) for encoding in encodings]
        graph = self._graphs.get((use.forward_scope, *{_count(places) for places in reads}, bucket))
        return None if graph is None else graph(encodings, reads)

    def _mark(self) -> torch.cuda.Event:
        """Return an event behind all that was launched so far."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    # --- what is tried at load ---------------------------------------------------------------------------------------

    def _settle(self, encoder: nn.Module) -> None:
        """Bring the encoder into its precision, fuse its steps, and hold it against fp32.

        Raises:
            ConfigError: this family has no fp8.
            ModelMismatch: the encoder says something else than in fp32.
        """
        if self.precision is FP8:
            self._round(encoder)
        else:
            super()._settle(encoder)
            if isinstance(encoder, PackedEncoder) and self._config.compile == "auto":
                self._fuse(encoder)
        probe = probe_of(self.model.config)
        found = np.concatenate(self._forward(HiddenStates(), probe))
        exact = np.concatenate(self._exact[: len(probe)])
        if not fusion.near(torch.from_numpy(found), torch.from_numpy(exact), STRAY[self.precision.name]):
            raise ModelMismatch(f"{type(self.model).__name__} in {self.precision.name} is far from itself in fp32 here")

    def _fuse(self, encoder: PackedEncoder) -> None:
        steps = fusion.fused([(fusion.normed, fusion.example_of(encoder.layers[0], self.precision.dtype))])
        if steps is not None:
            encoder.layers = [fusion.FusedLayer(layer, *steps) for layer in encoder.layers]

    def _round(self, encoder: nn.Module) -> None:
        if isinstance(encoder, PackedEncoder):
            encoder.settle(torch.float32, self.device)
        if reason := fp8.refusal(encoder):
            raise ConfigError(f"handler.precision is fp8, which {type(self.model).__name__} has not: {reason}")
        fp8.install(self.model, fuse=self._config.compile == "auto")

    def _find_budget(self, max_length: int) -> int:
        """Try token budgets that fit into the free memory, and choose one."""
        bytes_per_token = max(self._bytes_per_token(length) for length in (8, max_length))
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self.device)
        sample = random_encodings(self.model.config, [min(length, max_length) for length in SAMPLE])
        speeds = {}
        for budget in memory.fitting(free, bytes_per_token):
            self.max_batch_tokens = budget
            speeds[budget] = sum(map(len, sample)) / min(self._seconds(sample) for _ in "12")
        return memory.smallest_near_best(speeds)

    def _bytes_per_token(self, length: int) -> float:
        """Return the memory that a forward pass of sequences of one length needs for each token."""
        lengths = [length] * max(1, memory.BUDGETS[0] // length)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self._forward(self.main, random_encodings(self.model.config, lengths))
        return (torch.cuda.max_memory_allocated(self.device) - before) / sum(lengths)

    def _seconds(self, encodings: list[Encoding]) -> float:
        began = time.perf_counter()
        self.run(encodings)
        return time.perf_counter() - began

    @torch.inference_mode()
    def _record(self, max_length: int) -> None:
        """Record a graph of the main use for every bucket, the largest first, and hold each against the plain way."""
        count, call = _count(self.main.token_positions(probe_of(self.model.config)[0])), partial(self.call, self.main)
        if self.main.forward_scope == "nothing" or count not in (None, 1):
            return
        record, graphs = recorder(), {}
        try:
            for bucket in reversed(BUCKETS):
                positions = self.first_position, self.model.config.pad_token_id
                graph = Graph(bucket, count == 1, call, self.device, *positions, record)
                lengths = [min(max_length, bucket.tokens // 4 - index) for index in range(3)]
                encodings = random_encodings(self.model.config, lengths)
                _, plain = self._run(self.main, encodings)
                _, replayed = graph(encodings, [self.main.token_positions(its) for its in encodings])
                pairs = ((replayed[name].flatten(), plain[name].flatten()) for name in replayed)
                if not all(fusion.near(*pair, SAME) for pair in pairs):
                    raise ArithmeticError("a graph says something else")
                graphs[self.main.forward_scope, count, bucket] = graph
            self._graphs = graphs
        except Exception as error:  # noqa: BLE001 - whatever it is that cannot be recorded: the plain way is there
            reason = f"{type(error).__name__} {' '.join(str(error).split())[:200]}"
            logger.warning("small batches are not replayed as graphs, which is slower: %s", reason)


def _count(places: Sequence[int] | None) -> int | None:
    """Count the tokens that are read of a sequence; None: all."""
    return None if places is None else len(places)
