"""Batches as CUDA graphs: a forward pass recorded once, and replayed on new inputs in the same memory.

Python launches the several hundred kernels of a pass one by one. For bert-large that takes 11 to 16 ms, as long as an
H200 takes to compute 10,000 tokens. A graph has fixed addresses and shapes, so batches are filled up to a bucket: a
number of tokens and of sequences. The filling is sequences of its own, which no other attends to, and empty ones; the
attention kernels read the boundaries on the GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from handler.batching import flatten
from handler.engine.batch import TensorBatch, VarlenMetadata, to_device
from handler.sequences import Encoding

T = TypeVar("T")
Record = Callable[[Callable[[], T]], Callable[[], T]]  # a function -> a function that repeats it


class Bucket(NamedTuple):
    """The fixed size of a graph's batch."""

    tokens: int
    sequences: int


# A sequence costs the last layer and the head a little, even without tokens.
BUCKETS = tuple(
    Bucket(tokens, tokens // 4 if tokens <= 512 else max(128, tokens // 8))
    for tokens in (*(16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096), *range(5120, 16385, 1024))
)
# Flash attention, which gives every sequence tiles of its own, takes time for empty ones in every layer.
MAX_TOKENS_WITHOUT_TILES = 4096
EMPTY = Encoding([], [])


def bucket_for(n_tokens: int, n_sequences: int, longest: int) -> Bucket | None:
    """Return the smallest bucket that holds a batch and its filling; None: the batch is too large.

    >>> bucket_for(16, 4, 512), bucket_for(15, 4, 512), bucket_for(16385, 40, 512)
    (Bucket(tokens=16, sequences=4), Bucket(tokens=32, sequences=8), None)
    """
    fitting = (
        bucket
        for bucket in BUCKETS
        if n_tokens <= bucket.tokens and n_sequences + -(-(bucket.tokens - n_tokens) // longest) <= bucket.sequences
    )
    return next(fitting, None)


def fill(encodings: Sequence[Encoding], bucket: Bucket, longest: int) -> list[Encoding]:
    """Fill a batch up to its bucket: empty sequences, and last ones of token 0, none above `longest` tokens.

    >>> [len(encoding) for encoding in fill([Encoding([7] * 9, [0] * 9)], Bucket(16, 4), longest=5)]
    [9, 0, 5, 2]
    """
    n_filling = bucket.tokens - sum(map(len, encodings))
    lengths = [min(longest, n_filling - start) for start in range(0, n_filling, longest)]
    empty = [EMPTY] * (bucket.sequences - len(encodings) - len(lengths))
    return [*encodings, *empty, *(Encoding([0] * length, [0] * length) for length in lengths)]


class Graph:
    """One recorded forward pass of one bucket."""

    def __init__(
        self,
        bucket: Bucket,
        one_each: bool,
        call: Callable[[TensorBatch], Any],
        device: torch.device,
        longest: int,
        first_position: int,
        pad_id: int | None,
        record: Record[tuple[TensorBatch, Any]],
    ) -> None:
        """Record `call`.

        Args:
            one_each: whether one token of each sequence is read; otherwise all are.
            call: a batch -> a model's output; must neither wait for the GPU nor read the lengths on the host.
            longest: tokens of the longest sequence that the graph is called with; the kernel reserves work for it.
            first_position: see `TensorBatch.packed`.
            pad_id: see `TensorBatch.packed`.
        """
        self._bucket, self._one_each, self._longest = bucket, one_each, longest
        self._first_position, self._pad_id = first_position, pad_id
        empty = fill([], bucket, longest)
        self._input = to_device(self._flat([]), device)
        counts = (1,) * bucket.sequences if one_each else None

        def run() -> tuple[TensorBatch, Any]:
            batch = TensorBatch.from_flat(self._input, tuple(map(len, empty)), counts)
            return batch, call(batch)

        self._run = run
        self.replay = record(run)

    def __call__(self, encodings: Sequence[Encoding], reads: Sequence[Sequence[int] | None]) -> tuple[TensorBatch, Any]:
        """Run a batch whose sequences are read at `reads`; the next call overwrites the memory of the output."""
        self._copy_in(encodings, reads)
        filled, output = self.replay()
        return first_sequences(filled, tuple(map(len, encodings))), self._without_filling(output, encodings)

    def call_filled(self, encodings: Sequence[Encoding], reads: Sequence[Sequence[int] | None]) -> Any:
        """Compute the same filled batch without the graph: the same shapes, and so the same kernels."""
        self._copy_in(encodings, reads)
        return self._without_filling(self._run()[1], encodings)

    def _copy_in(self, encodings: Sequence[Encoding], reads: Sequence[Sequence[int] | None]) -> None:
        flat = self._flat(encodings, reads)
        self._input.copy_(to_device(flat, self._input.device))

    def _flat(self, encodings: Sequence[Encoding], reads: Sequence[Sequence[int] | None] = ()) -> Tensor:
        tokens, first, n_tokens = self._bucket.tokens, self._first_position, sum(map(len, encodings))
        filled = fill(encodings, self._bucket, self._longest)
        positions = [*(read or (0,) for read in reads), *[(0,)] * (len(filled) - len(reads))]
        flat = flatten(filled, first, self._pad_id, positions if self._one_each else None)
        flat[2 * tokens + n_tokens : 3 * tokens] = first  # of the filling, whatever its ids mean to the family
        if self._one_each:
            np.minimum(flat[-len(filled) :], tokens - 1, out=flat[-len(filled) :])  # empty sequences read some row, too
        return torch.from_numpy(flat)

    def _without_filling(self, output: Any, encodings: Sequence[Encoding]) -> Any:
        """Return the rows of the batch: of every sequence, or, where all tokens are read, of every token."""
        n, n_tokens = len(encodings), sum(map(len, encodings))
        if self._one_each:
            return type(output)(**{name: states[:n] for name, states in output.items()})
        # A pooler has read the first token of the whole row, which no task uses.
        rows = {name: states[:, :n_tokens] for name, states in output.items() if name != "pooler_output"}
        return type(output)(**rows)


def first_sequences(batch: TensorBatch, seq_lens: tuple[int, ...]) -> TensorBatch:
    """Return views of the first sequences of a packed batch; raises ValueError for a padded one."""
    if batch.varlen is None or batch.position_ids is None:
        raise ValueError("not a packed batch")
    n, total = len(seq_lens), sum(seq_lens)
    ids, type_ids, positions = (row[:, :total] for row in (batch.input_ids, batch.type_ids, batch.position_ids))
    read_positions = None if batch.read_positions is None else batch.read_positions[:n]
    varlen = VarlenMetadata(seq_lens, batch.varlen.cu_seqlens[: n + 1], max(seq_lens), read_positions)
    counts = seq_lens if read_positions is None else (1,) * n
    return TensorBatch(seq_lens, counts, ids, type_ids, read_positions, position_ids=positions, varlen=varlen)


def recorder() -> Record[Any]:
    """Return a function that records CUDA graphs, all of which share their memory: only one runs at a time."""
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def record(run: Callable[[], T]) -> Callable[[], T]:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()  # what libraries allocate at their first call must be no part of the graph
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream()  # which a failed recording would not restore
        with torch.cuda.stream(current), torch.cuda.graph(graph, pool=pool, stream=stream):
            output = run()

        def replay() -> T:
            graph.replay()
            return output

        return replay

    return record
