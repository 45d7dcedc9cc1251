"""The engine on an NVIDIA GPU.

The GPU computes while Python builds the next batch: a batch is launched before the previous one is waited for, and
each is waited for once, when its outputs are on the host. Operators between linear layers are compiled, small batches
are replayed as CUDA graphs, and the token budget is measured. All of it runs before the worker becomes ready and is
compared with the plain computation; what does not work on this machine is left out, with a line in the log.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handler.batching import split
from handler.config import ServingConfig
from handler.engine import DeviceUsage, fp8, fusion, memory
from handler.engine.attention import TileKernel, has_kernel
from handler.engine.batch import TensorBatch
from handler.engine.cuda_graphs import BUCKETS, MAX_TOKENS_WITHOUT_TILES, Bucket, Graph, bucket_for, recorder
from handler.engine.encoder import PackedEncoder
from handler.engine.families import encoder_of
from handler.engine.isolation import Results
from handler.engine.precision import FP8
from handler.engine.probe import HiddenStates, probe_of, random_encodings
from handler.engine.torch_engine import TorchEngine
from handler.errors import ConfigError, ModelMismatch
from handler.sequences import Encoding
from handler.tasks import Output, Pooler

logger = logging.getLogger(__name__)

PIPELINE_DEPTH = 1  # batches launched beyond the one that is waited for: one hides Python's work, more hold memory
MAX_RELATIVE_ERROR = {"fp32": 0.01, "bf16": 0.2, "fp16": 0.2, "fp8": 0.9}  # of a hidden state's norm in fp32
# Of the norm of all outputs of a batch. A graph repeats the kernels of the same filled batch. A plain call has another
# number of rows, for which cuBLAS may sum in another order; 24 layers in fp8 amplify that to 0.26 (random weights,
# simulated on a CPU, 2026-11-27), so this comparison finds only what is not the same computation at all.
GRAPH_RTOL = 1e-3
FILLED_RTOL = {"fp32": 0.01, "bf16": 0.1, "fp16": 0.1, "fp8": 0.6}
BUDGET_SAMPLE = [128] * 512  # lengths that token budgets are measured with


class InFlightBatch:
    """One batch on the GPU: where its outputs will be, and events around it."""

    def __init__(self, values: Tensor, counts: Sequence[int], start: torch.cuda.Event, end: torch.cuda.Event) -> None:
        self._values, self._counts = values, counts
        self._start, self._end = start, end

    def wait(self) -> tuple[list[Output], float]:
        """Return the output of every sequence, and the seconds that the GPU took."""
        self._end.synchronize()
        return split(self._values.numpy(), self._counts), self._start.elapsed_time(self._end) / 1e3


class CudaEngine(TorchEngine):
    """One model on one GPU."""

    def __init__(
        self, model: Any, main: Pooler, config: ServingConfig, device: torch.device | None = None, **options: Any
    ) -> None:
        self._config = config
        self.graphs: dict[tuple[Any, ...], Graph] = {}  # by forward scope, tokens read of a sequence, and bucket
        self._longest = 0  # tokens of a sequence that a graph takes
        self._busy_s = 0.0
        # PyTorch ends the process where pinned memory is released after the device failed: then none is any more.
        self._pinned = torch.empty(0)  # outputs of the last launch
        self._lost: list[InFlightBatch | None] = []
        exact_products()
        super().__init__(model, main, config, device, **options)

    def warm_up(self, max_length: int) -> None:
        """Run every kind of batch, record graphs, and measure the token budget unless the operator set it."""
        configured = self._config.max_batch_tokens
        self.max_batch_tokens = configured or memory.BUDGETS[0]
        super().warm_up(max_length)
        bytes_per_token = 0.0 if configured else self.bytes_per_token(max_length)  # before graphs hide it
        if self._config.compile == "auto" and self.packed and has_kernel(self.device, self.precision.dtype):
            self.record_graphs(max_length)
        self.max_batch_tokens = configured or self.measure_budget(max_length, bytes_per_token)
        torch.cuda.empty_cache()
        # Memory of the device and pinned memory are allocated again here, not by the first requests.
        n_sequences = max(1, self.max_batch_tokens // max_length)
        self.run(random_encodings(self.model.config, [max_length] * n_sequences))
        self.device_usage()

    def device_usage(self) -> DeviceUsage | None:
        """Return the seconds that batches took since the previous call, and the GPU's memory in use."""
        if self.device_failed:  # it would answer with one more error
            return None
        busy_s, self._busy_s = self._busy_s, 0.0
        free, total = torch.cuda.mem_get_info(self.device)
        return DeviceUsage(str(self.device.index or 0), busy_s, total - free)

    # --- pipeline ----------------------------------------------------------------------------------------------------

    def run_batches(self, batches: Iterable[tuple[Pooler, list[Encoding]]], deadline: float) -> Iterator[Results]:
        """Yield the outputs of every batch, in order; the next batch is launched before one is waited for."""
        pending: deque[Callable[[], Results]] = deque()
        for pooler, encodings in batches:
            is_late = time.monotonic() >= deadline
            pending.append(partial(self.refuse_late, encodings) if is_late else self._start(pooler, encodings))
            if len(pending) > PIPELINE_DEPTH:
                yield pending.popleft()()
        while pending:
            yield pending.popleft()()

    def forward(self, pooler: Pooler, encodings: Sequence[Encoding]) -> list[Output]:
        """Run one batch and wait for it."""
        return self._wait(self.launch(pooler, encodings))

    @torch.inference_mode()
    def launch(self, pooler: Pooler, encodings: Sequence[Encoding]) -> InFlightBatch:
        """Queue a batch on the GPU without waiting for anything."""
        start = self.record_event()
        if pooler.forward_scope == "nothing":
            return InFlightBatch(torch.empty(0), [0] * len(encodings), start, self.record_event())
        batch, output = self._replay(pooler, encodings) or self._call(pooler, encodings)
        ragged = pooler.pool(output, batch)
        self._pinned = ragged.values.float().to("cpu", non_blocking=True)
        return InFlightBatch(self._pinned, ragged.counts, start, self.record_event())

    def record_event(self) -> torch.cuda.Event:
        """Return an event after everything queued so far."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _start(self, pooler: Pooler, encodings: list[Encoding]) -> Callable[[], Results]:
        """Launch a batch; return the function that waits for its outputs."""
        in_flight = None
        if not self.device_failed:
            try:
                in_flight = self.launch(pooler, encodings)
            except Exception:  # noqa: BLE001 - run again, alone on the GPU, in its turn; an error is reported then
                in_flight = None
        return partial(self._finish, pooler, encodings, in_flight)

    def _finish(self, pooler: Pooler, encodings: list[Encoding], in_flight: InFlightBatch | None) -> Results:
        try:
            return self.attempt(pooler, encodings) if in_flight is None else list(self._wait(in_flight))
        except torch.AcceleratorError:
            self._lost.append(in_flight)
            return [self.mark_device_failed()] * len(encodings)

    def _wait(self, in_flight: InFlightBatch) -> list[Output]:
        outputs, seconds = in_flight.wait()
        self._busy_s += seconds
        return outputs

    def _call(self, pooler: Pooler, encodings: Sequence[Encoding]) -> tuple[TensorBatch, Any]:
        batch = self.build_batch(pooler, encodings)
        return batch, self.call(pooler, batch)

    def _replay(self, pooler: Pooler, encodings: Sequence[Encoding]) -> tuple[TensorBatch, Any] | None:
        """Run a small batch by the graph of its bucket; None: it has no graph."""
        if not self.graphs or max(map(len, encodings)) > self._longest:
            return None
        if any(encoding.n_unattended for encoding in encodings):
            return None
        bucket = bucket_for(sum(map(len, encodings)), len(encodings), self._longest)
        if bucket is None:
            return None
        reads = [pooler.token_positions(encoding) for encoding in encodings]
        graph = self.graphs.get((pooler.forward_scope, *{_count(positions) for positions in reads}, bucket))
        return None if graph is None else graph(encodings, reads)

    # --- measured and compared at load -------------------------------------------------------------------------------

    def prepack(self, encoder: nn.Module, outputs: list[Output], reference: list[Output]) -> None:
        """Convert the encoder to its precision, compile its operators, and compare it with fp32.

        Raises:
            ConfigError: this family has no fp8.
            ModelMismatch: the encoder's outputs are too far from those in fp32.
        """
        self.convert(encoder, outputs, reference)
        probe = probe_of(self.model.config)
        converted = encoder_of(self.model.base_model)
        if self._config.compile == "auto" and isinstance(converted, PackedEncoder):
            converted.tile_kernel = self.tile_kernel(converted.n_heads)
        with fp8.checked(converted) if isinstance(converted, fp8.Fp8Encoder) else contextlib.nullcontext():
            states = torch.from_numpy(np.concatenate(self.forward(HiddenStates(), probe)))
        expected = torch.from_numpy(np.concatenate(reference[: len(probe)]))
        if not fusion.rows_allclose(states, expected, MAX_RELATIVE_ERROR[self.precision.name]):
            raise ModelMismatch(f"{type(self.model).__name__} in {self.precision.name} is far from itself in fp32 here")

    def convert(self, encoder: nn.Module, outputs: list[Output], reference: list[Output]) -> None:
        """Convert the encoder, without a comparison; arguments as of `prepack`."""
        fuse = self._config.compile == "auto"
        if self.precision is FP8:
            if isinstance(encoder, PackedEncoder):
                encoder.prepack(torch.float32, self.device)
            if reason := fp8.unsupported_reason(self.model):
                raise ConfigError(f"handler.precision is fp8, which {type(self.model).__name__} has not: {reason}")
            self.quantize_to_fp8(fuse=fuse)
            return
        super().prepack(encoder, outputs, reference)
        if fuse and isinstance(encoder, PackedEncoder) and encoder.layers[0].ends_with_norm:
            example = fusion.example_of(encoder.layers[0], self.precision.dtype)
            ops = fusion.compile_ops([(fusion.add_norm, example)])
            if ops is not None:
                encoder.layers = [fusion.fused_layer(layer, *ops) for layer in encoder.layers]
            encoder.layers = [fusion.gelu_layer(layer, self.precision.dtype) for layer in encoder.layers]

    def tile_kernel(self, n_heads: int) -> TileKernel | None:
        """Return the attention over tiles, compared with plain attention; None where it does not work."""
        if not has_kernel(self.device, self.precision.dtype):
            return None
        try:
            from handler.engine import tile_attention  # imports Triton

            tile_attention.check(n_heads, self.model.config.hidden_size, self.precision.dtype, self.device)
        except Exception as error:  # noqa: BLE001 - no compiler, no driver, a bug in either: PyTorch's always works
            reason = f"{type(error).__name__} {' '.join(str(error).split())[:200]}"
            logger.warning("attention gives every sequence tiles of its own, which is slower: %s", reason)
            return None
        return tile_attention.attend_tiles

    def measure_budget(self, max_length: int, bytes_per_token: float) -> int:
        """Time the token budgets that fit into the free memory, and choose one."""
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self.device)
        sample = random_encodings(self.model.config, [min(length, max_length) for length in BUDGET_SAMPLE])
        speeds = {}
        for budget in memory.fitting(free, bytes_per_token):
            self.max_batch_tokens = budget
            speeds[budget] = sum(map(len, sample)) / min(self._seconds(sample) for _ in "12")
        return memory.smallest_near_best(speeds)

    def bytes_per_token(self, max_length: int) -> float:
        """Return the memory per token that a forward pass needs, of short sequences or of the longest ones."""
        return max(self._bytes_per_token(length) for length in (8, max_length))

    def _bytes_per_token(self, length: int) -> float:
        """Return the memory per token that a forward pass of sequences of one length needs."""
        lengths = [length] * max(1, memory.BUDGETS[0] // length)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self.forward(self.main, random_encodings(self.model.config, lengths))
        return (torch.cuda.max_memory_allocated(self.device) - before) / sum(lengths)

    def _seconds(self, encodings: list[Encoding]) -> float:
        start = time.perf_counter()
        self.run(encodings)
        return time.perf_counter() - start

    @torch.inference_mode()
    def record_graphs(self, max_length: int) -> None:
        """Record a graph of the main pooler for every bucket, the largest first, and compare each with a plain call."""
        scope = self.main.forward_scope
        count = _count(self.main.token_positions(probe_of(self.model.config)[0]))
        if scope == "nothing" or count not in (None, 1):
            return
        call, record, graphs = partial(self.call, self.main), recorder(), {}
        try:
            for bucket in reversed(self._buckets()):
                if -(-bucket.tokens // max_length) + 3 > bucket.sequences:  # three sequences, and filling
                    continue
                positions = self._runner.first_position, self._runner.padding_position
                graph = Graph(bucket, count == 1, call, self.device, max_length, *positions, record)
                lengths = [min(max_length, max(1, bucket.tokens // 4 - index)) for index in range(3)]
                encodings = random_encodings(self.model.config, lengths)
                reads = [self.main.token_positions(encoding) for encoding in encodings]
                _, plain = self._call(self.main, encodings)
                filled = {name: states.clone() for name, states in graph.call_filled(encodings, reads).items()}
                _, replayed = graph(encodings, reads)
                for expected, rtol in ((filled, GRAPH_RTOL), (plain, FILLED_RTOL[self.precision.name])):
                    pairs = ((replayed[name].flatten(), expected[name].flatten()) for name in replayed)
                    if not all(fusion.rows_allclose(*pair, rtol) for pair in pairs):
                        raise ArithmeticError("a graph computes something else")
                graphs[scope, count, bucket] = graph
            self.graphs, self._longest = graphs, max_length
        except Exception as error:  # noqa: BLE001 - whatever cannot be recorded: the plain call always works
            reason = f"{type(error).__name__} {' '.join(str(error).split())[:200]}"
            logger.warning("small batches are not replayed as graphs, which is slower: %s", reason)

    def _buckets(self) -> list[Bucket]:
        """Return the buckets up to the first one that holds every batch that is planned."""
        encoder = encoder_of(self.model.base_model)
        has_tiles = isinstance(encoder, PackedEncoder) and encoder.tile_kernel is not None
        largest = BUCKETS[-1].tokens if has_tiles else MAX_TOKENS_WITHOUT_TILES
        enough = min(largest, self._config.max_batch_tokens or largest)
        return [
            bucket
            for bucket, smaller in zip(BUCKETS, (Bucket(0, 0), *BUCKETS), strict=False)
            if smaller.tokens < enough
        ]


def exact_products() -> None:
    """Let cuBLAS and cuDNN neither round fp32 to TF32 nor partial sums to 16 bits, whatever an image has set."""
    products = torch.backends.cuda.matmul
    torch.backends.cudnn.allow_tf32 = False  # of convolutions: True by default
    products.allow_tf32 = products.allow_bf16_reduced_precision_reduction = False
    products.allow_fp16_reduced_precision_reduction = False


def _count(positions: Sequence[int] | None) -> int | None:
    """Count the tokens that are read of a sequence; None: all."""
    return None if positions is None else len(positions)
