"""The tensors of a forward pass by PyTorch.

A `TensorBatch` holds encodings either packed (end to end in one row, without padding) or padded to the longest, for
models whose attention cannot be restricted to sequence boundaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from handler.batching import RowLayout, attended_counts, flatten
from handler.sequences import Encoding


@dataclass(frozen=True)
class AttendedKeys:
    """The tokens of a packed row that are attended to, where not all are: the first ones of each sequence."""

    counts: tuple[int, ...]  # of each sequence
    lens: Tensor  # (n,) int32, on the device: the same
    cu_seqlens: Tensor  # (n + 1,) int32, on the device: 0 and then the cumulative counts
    positions: Tensor  # (attended tokens,) int64, on the device: in the row

    @classmethod
    def of(cls, encodings: Sequence[Encoding], device: torch.device) -> AttendedKeys | None:
        """Return those of the packed row of some encodings; None: all of its tokens."""
        attended = attended_counts(encodings)
        if attended is None:
            return None
        lengths, counts = np.fromiter(map(len, encodings), np.int64, len(encodings)), attended.astype(np.int64)
        starts, ends = lengths.cumsum() - lengths, counts.cumsum()
        positions = np.arange(ends[-1]) + (starts - (ends - counts)).repeat(counts)
        n = len(encodings)
        flat = to_device(torch.from_numpy(np.concatenate((counts, [0], ends, positions))), device)
        bounds = flat[: 2 * n + 1].to(torch.int32)
        return cls(tuple(counts.tolist()), bounds[:n], bounds[n:], flat[2 * n + 1 :])


@dataclass(frozen=True)
class VarlenMetadata:
    """The boundaries of the sequences of a packed row, and the token positions that a pooler reads."""

    seq_lens: tuple[int, ...]
    cu_seqlens: Tensor  # (n + 1,) int32, on the device: 0 and then the cumulative lengths
    max_seqlen: int
    read_positions: Tensor | None = None  # (tokens read,) int64, on the device: positions in the row; None: all
    position_ids: Tensor | None = None  # (tokens,) int64, on the device: of every token in its sequence
    keys: AttendedKeys | None = None  # None: all tokens

    def layout(self) -> RowLayout:
        """Return it as the native encoder reads it, of tensors on the CPU."""
        tensors = (self.read_positions, self.position_ids, None if self.keys is None else self.keys.lens)
        arrays = (None if tensor is None else tensor.numpy() for tensor in tensors)
        return RowLayout(self.cu_seqlens.numpy(), self.max_seqlen, *arrays)

    def token_bounds(self) -> tuple[Tensor, Tensor]:
        """Return where the tokens that each token attends to start and end in the row: (tokens,) int32 each, there.

        >>> VarlenMetadata((1, 2), torch.tensor([0, 1, 3], dtype=torch.int32), 2).token_bounds()
        (tensor([0, 1, 1], dtype=torch.int32), tensor([1, 3, 3], dtype=torch.int32))
        """
        ends = self.cu_seqlens
        rows = torch.arange(sum(self.seq_lens), dtype=ends.dtype, device=ends.device)
        after = torch.searchsorted(ends, rows, right=True)  # empty sequences are passed over
        starts = ends[after - 1]
        return starts, ends[after] if self.keys is None else starts + self.keys.lens[after - 1]

    def equal_length_runs(self) -> list[tuple[int, int, int, int]]:
        """Return (start, count, length, attended tokens) of each run of neighbours that are equal in both lengths.

        >>> VarlenMetadata((4, 2, 2), torch.empty(0), 4).equal_length_runs()
        [(0, 1, 4, 4), (4, 2, 2, 2)]
        """
        n_keys = self.seq_lens if self.keys is None else self.keys.counts
        runs, start = [], 0
        for (length, attended), group in groupby(zip(self.seq_lens, n_keys, strict=True)):
            count = len(list(group))
            runs.append((start, count, length, attended))
            start += count * length
        return runs


@dataclass(frozen=True)
class TensorBatch:
    """The tensors of one forward pass, and the token positions that are read.

    Packed: `input_ids`, `type_ids` and `position_ids` are (1, total tokens). Padded: (n, longest), with a mask.
    """

    seq_lens: tuple[int, ...]
    counts: tuple[int, ...]  # tokens read of each sequence
    input_ids: Tensor
    type_ids: Tensor
    read_positions: Tensor | None = None  # (sum of counts,) int64: positions in the flattened `input_ids`; None: all
    position_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    varlen: VarlenMetadata | None = None

    @classmethod
    def packed(
        cls,
        encodings: Sequence[Encoding],
        device: torch.device,
        first_position: int = 0,
        pad_id: int | None = None,
        reads: Sequence[Sequence[int]] | None = None,
    ) -> TensorBatch:
        """Lay encodings end to end; arguments as of `flatten`, and of `reads` one position of each at least."""
        # One copy to the device: the three rows, cu_seqlens and the positions read are one tensor.
        flat = to_device(torch.from_numpy(flatten(encodings, first_position, pad_id, reads)), device)
        counts = None if reads is None else tuple(map(len, reads))
        return cls.from_flat(flat, tuple(map(len, encodings)), counts, AttendedKeys.of(encodings, device))

    @classmethod
    def from_flat(
        cls,
        flat: Tensor,
        seq_lens: tuple[int, ...],
        counts: tuple[int, ...] | None,
        keys: AttendedKeys | None = None,
    ) -> TensorBatch:
        """Make a packed batch of views of what `flatten` returned.

        Args:
            seq_lens: tokens of each sequence in `flat`.
            counts: tokens read of each; None: all.
            keys: tokens that are attended to; None: all.
        """
        total, n_bounds = sum(seq_lens), len(seq_lens) + 1
        rows, bounds = flat[: 3 * total].view(3, 1, -1), flat[3 * total : 3 * total + n_bounds]
        read_positions = None if counts is None else flat[3 * total + n_bounds :]
        varlen = VarlenMetadata(seq_lens, bounds.to(torch.int32), max(seq_lens), read_positions, rows[2, 0], keys)
        return cls(seq_lens, counts or seq_lens, rows[0], rows[1], read_positions, position_ids=rows[2], varlen=varlen)

    @classmethod
    def padded(
        cls,
        encodings: Sequence[Encoding],
        device: torch.device,
        pad_id: int,
        reads: Sequence[Sequence[int]] | None = None,
    ) -> TensorBatch:
        """Pad encodings on the right to the longest of them."""
        seq_lens = tuple(map(len, encodings))
        width = max(seq_lens)
        reads = reads or [range(length) for length in seq_lens]

        def column(rows: list[list[int]], fill: int) -> Tensor:
            return to_device(torch.tensor([row + [fill] * (width - len(row)) for row in rows]), device)

        ids = column([encoding.ids for encoding in encodings], pad_id)
        type_ids = column([encoding.type_ids for encoding in encodings], 0)
        mask = column([[1] * (len(row) - row.n_unattended) + [0] * row.n_unattended for row in encodings], 0)
        flat_positions = [row * width + position for row, positions in enumerate(reads) for position in positions]
        read_positions = to_device(torch.tensor(flat_positions), device)
        return cls(seq_lens, tuple(map(len, reads)), ids, type_ids, read_positions, attention_mask=mask)

    def count_array(self) -> Tensor:
        """Return `counts` (n,) on the device, where those of all tokens of a packed batch are already."""
        if self.varlen is not None and self.read_positions is None:
            return self.varlen.cu_seqlens.diff()
        return torch.tensor(self.counts).to(self.input_ids.device)

    def tokens(self, states: Tensor) -> Tensor:
        """Return the states of the tokens that are read, sequence by sequence.

        Args:
            states: (1, total tokens, ...) of a packed batch, (n, longest, ...) of a padded one, or
                (tokens read, 1, ...) where the encoder computed no others.

        Returns:
            (sum of counts, ...)
        """
        flat, positions = states.flatten(0, 1), self.read_positions
        return flat if positions is None or len(flat) == len(positions) else flat[positions]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to a device; to a GPU from pinned memory, without waiting."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
