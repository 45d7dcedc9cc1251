"""Small batches as CUDA graphs: a forward pass recorded once, and replayed on other numbers in the same places.

A small batch takes the GPU less time than Python takes to ask for its several hundred kernels one by one. A graph has
fixed places, so batches are filled up to a bucket: so many tokens and so many sequences. Filling is a sequence of its
own, which no other sees, and sequences without tokens; the attention kernel reads the boundaries on the GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from handler.batching import Batch, VarlenMetadata, flatten, to_device
from handler.sequences import Encoding

T = TypeVar("T")
Record = Callable[[Callable[[], T]], Callable[[], T]]  # something to do -> how to do it again


class Bucket(NamedTuple):
    """So many tokens, of so many sequences."""

    tokens: int
    sequences: int


# Every sequence that there might be costs the attention kernel a little, tokens or not.
BUCKETS = tuple(Bucket(tokens, min(64, tokens // 4)) for tokens in (16, 32, 64, 128, 256, 512, 1024))
NOTHING = Encoding([], [])


def bucket_of(n_tokens: int, n_sequences: int) -> Bucket | None:
    """Return the smallest bucket with room for a batch and for at least one token of filling; None: too large.

    >>> bucket_of(15, 3), bucket_of(15, 4), bucket_of(1024, 1)
    (Bucket(tokens=16, sequences=4), Bucket(tokens=32, sequences=8), None)
    """
    return next((its for its in BUCKETS if n_tokens < its.tokens and n_sequences < its.sequences), None)


def filled(encodings: Sequence[Encoding], bucket: Bucket) -> list[Encoding]:
    """Fill a batch up to its bucket: sequences without tokens, and a last one of token 0.

    >>> [len(its) for its in filled([Encoding([7] * 9, [0] * 9)], Bucket(16, 4))]
    [9, 0, 0, 7]
    """
    rest = [0] * (bucket.tokens - sum(map(len, encodings)))
    return [*encodings, *[NOTHING] * (bucket.sequences - len(encodings) - 1), Encoding(rest, rest)]


class Graph:
    """One forward pass of one bucket, recorded."""

    def __init__(
        self,
        bucket: Bucket,
        one_each: bool,
        call: Callable[[Batch], Any],
        device: torch.device,
        first_position: int,
        pad_id: int | None,
        record: Record[tuple[Batch, Any]],
    ) -> None:
        """Record `call`.

        Args:
            one_each: whether one token of each sequence is read; otherwise all are.
            call: a batch -> a model's output; must neither wait for the GPU nor look at the lengths.
            first_position, pad_id: as of `Batch.packed`.
        """
        self._bucket, self._one_each, self._positions = bucket, one_each, (first_position, pad_id)
        nothing = filled([], bucket)
        self._places = to_device(self._flat(nothing), device)
        counts = (1,) * bucket.sequences if one_each else None

        def run() -> tuple[Batch, Any]:
            batch = Batch.unfold(self._places, tuple(map(len, nothing)), counts)
            return batch, call(batch)

        self._replay = record(run)

    def __call__(self, encodings: Sequence[Encoding], reads: Sequence[Sequence[int] | None]) -> tuple[Batch, Any]:
        """Run a batch whose sequences are read at `reads`; what comes back lies where the next one will lie."""
        flat = self._flat(filled(encodings, self._bucket), reads)
        self._places.copy_(to_device(flat, self._places.device))
        whole, output = self._replay()
        return part_of(whole, tuple(map(len, encodings))), self._cut(output, encodings)

    def _flat(self, encodings: Sequence[Encoding], reads: Sequence[Sequence[int] | None] = ()) -> Tensor:
        tokens, (first, pad_id) = self._bucket.tokens, self._positions
        places = [*(its or (0,) for its in reads), *[(0,)] * (len(encodings) - len(reads))]
        flat = flatten(encodings, first, pad_id, places if self._one_each else None)
        flat[3 * tokens - len(encodings[-1]) : 3 * tokens] = first  # filling may be longer than positions go
        return flat

    def _cut(self, output: Any, encodings: Sequence[Encoding]) -> Any:
        """Leave the rows of the batch: of every sequence, or, where all tokens are read, of every token."""
        n, n_tokens = len(encodings), sum(map(len, encodings))
        if self._one_each:
            return type(output)(**{name: states[:n] for name, states in output.items()})
        # A pooler has read the first token of the whole row, which nobody wants.
        cut = {name: states[:, :n_tokens] for name, states in output.items() if name != "pooler_output"}
        return type(output)(**cut)


def part_of(whole: Batch, lengths: tuple[int, ...]) -> Batch:
    """Return the first sequences of a packed batch, where they lie."""
    if whole.varlen is None or whole.position_ids is None:
        raise ValueError("not a packed batch")
    n, total = len(lengths), sum(lengths)
    ids, type_ids, positions = (its[:, :total] for its in (whole.input_ids, whole.type_ids, whole.position_ids))
    read = None if whole.read is None else whole.read[:n]
    varlen = VarlenMetadata(lengths, whole.varlen.offsets[: n + 1], max(lengths), read)
    counts = lengths if read is None else (1,) * n
    return Batch(lengths, counts, ids, type_ids, read, position_ids=positions, varlen=varlen)


def recorder() -> Record[Any]:
    """Return what records CUDA graphs, all of which share their memory: only one runs at a time."""
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def record(run: Callable[[], T]) -> Callable[[], T]:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()  # what libraries make at their first call must be no part of the graph
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream()  # which a recording that fails would not give back
        with torch.cuda.stream(current), torch.cuda.graph(graph, pool=pool, stream=stream):
            output = run()

        def replay() -> T:
            graph.replay()
            return output

        return replay

    return record
