"""Fit texts into sequences that a model can read: truncate them, or split them into windows and join these again.

Works on token ids and on the sequence (text or pair) that each token belongs to; knows no tokenizer and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from handler.config import Overflow

Text: TypeAlias = tuple[str, str | None]  # a text, or a pair
TruncationStrategy: TypeAlias = Literal["longest_first", "only_first", "only_second"]  # as in transformers
TruncationSide: TypeAlias = Literal["right", "left"]  # the end of a text that is cut off


@dataclass(frozen=True, slots=True)
class Filling:
    """Tokens of one kind behind a text that is shorter than a length."""

    length: int  # of a sequence with them
    token_id: int
    attended: bool  # whether other tokens attend to them


@dataclass(frozen=True, slots=True)
class EncodingOptions:
    """How one text, or pair of texts, is encoded as sequences that the model can read."""

    overflow: Overflow = "truncate"
    truncation_strategy: TruncationStrategy = "longest_first"  # which text of a pair is truncated, or split in windows
    stride: int = 0  # tokens that neighbouring windows share; at most half of what a window holds of the split text
    max_length: int | None = None  # tokens of one sequence; by default, and at most, the model's limit
    max_first: int | None = None  # tokens kept of the first text of a pair
    fields: tuple[str, str] = ("text", "text_pair")  # names of the text, and of the second one of a pair, in messages
    return_spans: bool = False  # whether encodings keep the position of each token in its text
    by_table: bool = False  # for a table of weights, no model: without special tokens, to the limit of the table
    prefix_id: int | None = None  # a token that is inserted behind the first one of each sequence
    filling: Filling | None = None


@dataclass(frozen=True, slots=True)
class TokenSpans:
    """Where each token of an encoding comes from. The id of a special token's word and sequence is None."""

    offsets: list[tuple[int, int]]  # characters of its text, end excluded
    word_ids: list[int | None]  # index of its word in its text, as the pre-tokenizer splits it
    sequence_ids: list[int | None]  # 0: the text, 1: the second text of a pair
    positions: Sequence[int]  # index in the sequence that the text would have without a limit

    def take(self, indices: Sequence[int]) -> TokenSpans:
        """Return the spans of the tokens at `indices`."""
        return TokenSpans(
            [self.offsets[index] for index in indices],
            [self.word_ids[index] for index in indices],
            [self.sequence_ids[index] for index in indices],
            [self.positions[index] for index in indices],
        )


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one text without special tokens, joined from its windows; arrays of shape (tokens,)."""

    indices: NDArray[np.intp]  # in the concatenation of all windows
    ids: NDArray[np.intp]
    positions: NDArray[np.intp]  # as in TokenSpans
    starts: NDArray[np.intp]  # characters of the text
    ends: NDArray[np.intp]
    word_ids: NDArray[np.intp]  # -1: part of no word

    def take(self, indices: NDArray[np.intp]) -> Tokens:
        """Return the tokens at `indices`."""
        columns = (self.indices, self.ids, self.positions, self.starts, self.ends, self.word_ids)
        return Tokens(*(column[indices] for column in columns))


@dataclass(frozen=True, slots=True)
class Encoding:
    """One sequence of tokens with its special tokens, without padding."""

    ids: list[int]
    type_ids: list[int]
    n_truncated: int = 0
    spans: TokenSpans | None = None
    n_unattended: int = 0  # tokens at its end that no token attends to; they attend to those before them

    def __len__(self) -> int:
        return len(self.ids)

    def with_tokens(self, prefix_id: int | None, filling: Filling | None) -> Encoding:
        """Return a sequence, which has no spans, with a token behind its first one, and filled up.

        >>> Encoding([1, 2], [0, 0]).with_tokens(7, Filling(5, 9, attended=False))
        Encoding(ids=[1, 7, 2, 9, 9], type_ids=[0, 0, 0, 0, 0], n_truncated=0, spans=None, n_unattended=2)
        """
        prefix = [] if prefix_id is None else [prefix_id]
        ids, type_ids = [*self.ids[:1], *prefix, *self.ids[1:]], [0] * len(prefix) + self.type_ids
        n_filled = 0 if filling is None else max(0, filling.length - len(ids))
        if filling is None or n_filled == 0:
            return Encoding(ids, type_ids, self.n_truncated)
        ids += [filling.token_id] * n_filled
        return Encoding(ids, type_ids + [0] * n_filled, self.n_truncated, None, 0 if filling.attended else n_filled)


def truncate(
    sequence_ids: Sequence[int | None], max_tokens: int, *, truncation_side: TruncationSide = "right"
) -> list[int]:
    """Return the indices of the tokens to keep, as the strategy `longest_first` of transformers chooses them.

    Args:
        sequence_ids: for each token the text it belongs to, 0 or 1; None for special tokens, which are always kept.
        max_tokens: tokens to keep at most, special tokens included.
        truncation_side: the end of each text that is cut off.

    >>> truncate([None, 0, 0, 0, None, 1, None], max_tokens=6)
    [0, 1, 2, 4, 5, 6]
    """
    first, second = _split_budget(sequence_ids.count(0), sequence_ids.count(1), max_tokens - sequence_ids.count(None))
    kept_of_first = set(truncate_sequence(sequence_ids, 0, first, truncation_side=truncation_side))
    kept_of_second = truncate_sequence(sequence_ids, 1, second, truncation_side=truncation_side)
    return [index for index in kept_of_second if index in kept_of_first]


def truncate_sequence(
    sequence_ids: Sequence[int | None],
    sequence_id: int,
    max_tokens: int,
    *,
    truncation_side: TruncationSide = "right",
) -> list[int]:
    """Return the indices of the tokens to keep when one text may have at most `max_tokens` tokens.

    >>> truncate_sequence([None, 0, 0, 0, None], 0, 2)
    [0, 1, 2, 4]
    >>> truncate_sequence([None, 0, 0, 0, None], 0, 2, truncation_side="left")
    [0, 2, 3, 4]
    """
    indices = [index for index, owner in enumerate(sequence_ids) if owner == sequence_id]
    n_dropped = max(0, len(indices) - max_tokens)
    dropped = set(indices[max_tokens:] if truncation_side == "right" else indices[:n_dropped])
    return [index for index in range(len(sequence_ids)) if index not in dropped]


def windows(
    sequence_ids: Sequence[int | None],
    max_tokens: int,
    stride: int,
    truncation_strategy: TruncationStrategy = "longest_first",
) -> list[list[int]]:
    """Return the indices of the tokens of each window over a text; special tokens and the other text are in all.

    Args:
        sequence_ids: for each token the text it belongs to, 0 or 1; None for special tokens.
        max_tokens: tokens of one window.
        stride: tokens of the split text that neighbouring windows share, at most half of what a window holds of it.
        truncation_strategy: which text of a pair is split; the other one keeps at most half of a window.

    >>> windows([None, 0, 0, 0, 0, 0, None], max_tokens=5, stride=1)
    [[0, 1, 2, 3, 6], [0, 3, 4, 5, 6]]
    """
    second_is_longer = sequence_ids.count(1) > sequence_ids.count(0)
    split_id = int({"only_first": False, "only_second": True}.get(truncation_strategy, second_is_longer))
    split = [index for index, owner in enumerate(sequence_ids) if owner == split_id]
    kept = truncate_sequence(sequence_ids, 1 - split_id, (max_tokens - sequence_ids.count(None)) // 2)
    repeated = [index for index in kept if sequence_ids[index] != split_id]
    size = max(1, max_tokens - len(repeated))
    shared = min(stride, size // 2)
    starts = range(0, max(1, len(split) - shared), size - shared)
    return [sorted([*repeated, *split[start : start + size]]) for start in starts]


def join_windows(encodings: Sequence[Encoding], sequence_id: int = 0) -> Tokens:
    """Join the windows over a text: the inverse of `windows`. Each token is taken from the window with most context.

    Context is the number of tokens up to the nearer edge of the window. The beginning and the end of the text are no
    edges.

    Args:
        encodings: the windows over a text in their order, with spans; or the only encoding of a short text.
        sequence_id: 0 for the text, 1 for the second text of a pair.
    """
    spans = [encoding.spans for encoding in encodings if encoding.spans]
    indices = np.flatnonzero([owner == sequence_id for window in spans for owner in window.sequence_ids])
    positions = np.array([position for window in spans for position in window.positions], dtype=np.intp)
    window_of = np.repeat(np.arange(len(spans)), [len(window.sequence_ids) for window in spans])[indices]
    counts = np.bincount(window_of, minlength=len(spans))
    n_before = np.arange(len(indices)) - (np.cumsum(counts) - counts)[window_of]
    n_after = counts[window_of] - 1 - n_before
    context = np.minimum(
        np.where(window_of == 0, len(indices), n_before),
        np.where(window_of == len(spans) - 1, len(indices), n_after),
    )
    order = np.lexsort((-context, positions[indices]))
    indices = indices[order[np.diff(positions[indices][order], prepend=-1) > 0]]
    offsets = np.array([offset for window in spans for offset in window.offsets], dtype=np.intp)[indices]
    word_ids = np.array([-1 if word is None else word for window in spans for word in window.word_ids], dtype=np.intp)
    ids = np.array([token for encoding in encodings for token in encoding.ids], dtype=np.intp)[indices]
    return Tokens(indices, ids, positions[indices], offsets[:, 0], offsets[:, 1], word_ids[indices])


def _split_budget(first: int, second: int, max_tokens: int) -> tuple[int, int]:
    """Divide a number of tokens among two texts as `tokenizers` does: truncate the longer one, then both to halves."""
    if second == 0:
        return min(first, max_tokens), 0
    shorter, longer = sorted((first, second))
    longer = shorter if shorter > max_tokens else max(shorter, max_tokens - shorter)
    if shorter + longer > max_tokens:
        shorter = max_tokens // 2
        longer = max_tokens - shorter
    return (shorter, longer) if first <= second else (longer, shorter)
