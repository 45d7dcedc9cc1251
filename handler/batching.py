"""Which encodings share a forward pass, and the tensors that the model then sees.

`plan` is pure arithmetic. A `Batch` holds the chosen encodings either packed, end to end in one row with no padding at
all, or padded to the longest for models whose attention cannot be told where a sequence ends.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handler.sequences import Encoding


def plan(lengths: Sequence[int], max_tokens: int, *, padded: bool = False) -> list[list[int]]:
    """Group rows into batches of at most `max_tokens` tokens, longest first.

    A row longer than the budget travels alone. Every index appears exactly once. With `padded`, a row costs as much
    as the longest of its batch.

    >>> plan([3, 512, 5, 5], max_tokens=520)
    [[1, 2], [3, 0]]
    >>> plan([3, 5, 5], max_tokens=10, padded=True)
    [[1, 2], [0]]
    """
    batches: list[list[int]] = []
    room = longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        cost = longest if padded and batches else lengths[index]
        if not batches or cost > room:
            batches.append([])
            longest = cost = lengths[index]
            room = max_tokens
        batches[-1].append(index)
        room -= cost
    return batches


def distinct(encodings: Sequence[Encoding]) -> list[list[int]]:
    """Return the indices of the encodings, those of equal tokens in one group.

    >>> same = Encoding([1, 2], [0, 0])
    >>> distinct([same, Encoding([3], [0]), same])
    [[0, 2], [1]]
    """
    groups: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for index, encoding in enumerate(encodings):
        groups.setdefault((tuple(encoding.ids), tuple(encoding.type_ids)), []).append(index)
    return list(groups.values())


@dataclass(frozen=True)
class VarlenMetadata:
    """Where each sequence of a packed row lies, and which of its tokens are read in the end."""

    lengths: tuple[int, ...]
    offsets: Tensor  # (n + 1,) int32, on the device: 0 and then the end of each sequence
    max_length: int
    read: Tensor | None = None  # (tokens read,) int64, on the device: places in the row; None: all

    def runs(self) -> list[tuple[int, int, int]]:
        """Return (start, count, length) of each run of neighbours of one length.

        >>> VarlenMetadata((4, 2, 2), torch.empty(0), 4).runs()
        [(0, 1, 4), (4, 2, 2)]
        """
        found, start = [], 0
        for length, group in groupby(self.lengths):
            count = len(list(group))
            found.append((start, count, length))
            start += count * length
        return found


@dataclass(frozen=True)
class Batch:
    """What one forward pass sees, and which tokens of it are read.

    Packed: `input_ids`, `type_ids` and `position_ids` are (1, total tokens). Padded: (n, longest), with a mask.
    """

    lengths: tuple[int, ...]
    counts: tuple[int, ...]  # tokens read of each sequence
    input_ids: Tensor
    type_ids: Tensor
    read: Tensor | None = None  # (sum of counts,) int64: places in the flattened `input_ids`; None: all
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
    ) -> Batch:
        """Lay encodings end to end; position ids restart at `first_position` with each of them.

        The RoBERTa family, whose first position is not 0, skips a padding token that stands in a text.
        """
        # One copy to the device: the three rows, the offsets and the places travel together.
        flat = to_device(flatten(encodings, first_position, pad_id, reads), device)
        counts = None if reads is None else tuple(map(len, reads))
        return cls.unfold(flat, tuple(map(len, encodings)), counts)

    @classmethod
    def unfold(cls, flat: Tensor, lengths: tuple[int, ...], counts: tuple[int, ...] | None) -> Batch:
        """Find the parts of what `flatten` laid out.

        Args:
            lengths: of the sequences, as they lie in `flat`.
            counts: tokens read of each; None: all.
        """
        total, n_offsets = sum(lengths), len(lengths) + 1
        rows, ends = flat[: 3 * total].view(3, 1, -1), flat[3 * total : 3 * total + n_offsets]
        places = None if counts is None else flat[3 * total + n_offsets :]
        varlen = VarlenMetadata(lengths, ends.to(torch.int32), max(lengths), places)
        return cls(lengths, counts or lengths, rows[0], rows[1], places, position_ids=rows[2], varlen=varlen)

    @classmethod
    def padded(
        cls,
        encodings: Sequence[Encoding],
        device: torch.device,
        pad_id: int,
        reads: Sequence[Sequence[int]] | None = None,
    ) -> Batch:
        """Pad encodings on the right to the longest of them."""
        lengths = tuple(map(len, encodings))
        width = max(lengths)
        reads = reads or [range(length) for length in lengths]

        def column(rows: list[list[int]], fill: int) -> Tensor:
            return to_device(torch.tensor([row + [fill] * (width - len(row)) for row in rows]), device)

        ids = column([encoding.ids for encoding in encodings], pad_id)
        type_ids = column([encoding.type_ids for encoding in encodings], 0)
        mask = column([[1] * length for length in lengths], 0)
        read = to_device(
            torch.tensor([row * width + place for row, places in enumerate(reads) for place in places]), device
        )
        return cls(lengths, tuple(map(len, reads)), ids, type_ids, read, attention_mask=mask)

    def tokens(self, states: Tensor) -> Tensor:
        """Return what is said of the tokens that are read, sequence by sequence.

        Args:
            states: (1, total tokens, ...) of a packed batch, (n, longest, ...) of a padded one, or
                (read tokens, 1, ...) where the engine has left out the others before the head.

        Returns:
            (sum of counts, ...)
        """
        flat = states.flatten(0, 1)
        return flat if self.read is None or len(flat) == len(self.read) else flat[self.read]


def flatten(
    encodings: Sequence[Encoding],
    first_position: int = 0,
    pad_id: int | None = None,
    reads: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """Lay encodings end to end: (3 * tokens + sequences + 1 + places,) int64, on the CPU.

    One after the other: token ids, segments, positions, the offsets of the sequences, and the places that are read.
    """
    lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
    offsets = np.concatenate(([0], lengths.cumsum()))
    ids, type_ids = (
        _joined(encoding.ids for encoding in encodings),
        _joined(encoding.type_ids for encoding in encodings),
    )
    positions = np.arange(first_position, first_position + len(ids)) - offsets[:-1].repeat(lengths)
    if first_position and pad_id in ids:
        positions = _joined(_positions(encoding.ids, first_position, pad_id) for encoding in encodings)
    counts = np.fromiter(map(len, reads or ()), np.int64)
    read = _joined(reads or ()) + offsets[: len(counts)].repeat(counts)
    return torch.from_numpy(np.concatenate((ids, type_ids, positions, offsets, read)))


def _joined(rows: Iterable[Iterable[int]]) -> NDArray[np.int64]:
    """Lay numbers end to end: several times faster than a list of all would be."""
    return np.asarray(array("q", chain.from_iterable(rows)))


def _positions(ids: Sequence[int], first: int, pad_id: int | None) -> list[int]:
    """Count positions past padding tokens, which all stand at `first` - 1.

    >>> _positions([0, 1, 5], first=2, pad_id=1)
    [2, 1, 3]
    """
    positions, at = [], first
    for token in ids:
        positions.append(first - 1 if token == pad_id else at)
        at += token != pad_id
    return positions


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to a device; to a GPU without waiting for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
