"""How texts are laid out in sequences that a model can read: cut, or seen through windows and put together again.

Works on tokens as numbers and on whose they are; knows no tokenizer and no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from handler.config import Overflow

Text: TypeAlias = tuple[str, str | None]  # a text, or a pair
TruncationStrategy: TypeAlias = Literal["longest", "first", "second"]


@dataclass(frozen=True, slots=True)
class EncodingOptions:
    """How one text, or pair of texts, becomes sequences that the model can read."""

    overflow: Overflow = "truncate"
    gives: TruncationStrategy = "longest"  # which text of a pair gives way: is cut, or is read through windows
    stride: int = 0  # tokens that neighbouring windows share; at most half of what a window holds
    max_length: int | None = None  # tokens of one sequence; the model's limit by default, and at most
    max_first: int | None = None  # tokens of the first text of a pair, the rest of it is cut
    spans: bool = False  # whether to keep where in the text each token lies


@dataclass(frozen=True, slots=True)
class TokenSpans:
    """Where each token of an encoding comes from; special tokens come from nowhere (None)."""

    offsets: list[tuple[int, int]]  # characters of its text, end excluded
    words: list[int | None]  # which word of its text, as the tokenizer divides it
    owners: list[int | None]  # 0: the text, 1: the second text of a pair
    places: Sequence[int]  # which token of the whole sequence it is, as the text would be laid out without a limit


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one text, special tokens left out, put together from its windows: (tokens,) each."""

    at: NDArray[np.intp]  # places in the windows laid end to end
    ids: NDArray[np.intp]
    places: NDArray[np.intp]  # in the whole sequence
    starts: NDArray[np.intp]  # characters of the text
    ends: NDArray[np.intp]
    words: NDArray[np.intp]  # -1: in no word


@dataclass(frozen=True, slots=True)
class Encoding:
    """One sequence of tokens, special tokens included; nothing is padded here."""

    ids: list[int]
    type_ids: list[int]
    n_truncated: int = 0
    spans: TokenSpans | None = None

    def __len__(self) -> int:
        return len(self.ids)


def cut(owners: Sequence[int | None], room: int, *, tail: bool = True) -> list[int]:
    """Return the places of the tokens that stay, as transformers' `longest_first` chooses them.

    Args:
        owners: for each token the text it belongs to, 0 or 1; None for special tokens, which always stay.
        room: tokens that may stay.
        tail: whether the ends of texts are cut off, or their beginnings.

    >>> cut([None, 0, 0, 0, None, 1, None], room=6)
    [0, 1, 2, 4, 5, 6]
    """
    first, second = _shares(owners.count(0), owners.count(1), room - owners.count(None))
    kept = set(shorten(owners, 0, first, tail=tail))
    return [place for place in shorten(owners, 1, second, tail=tail) if place in kept]


def shorten(owners: Sequence[int | None], which: int, room: int, *, tail: bool = True) -> list[int]:
    """Return the places that stay when one text keeps at most `room` tokens.

    >>> shorten([None, 0, 0, 0, None], 0, 2), shorten([None, 0, 0, 0, None], 0, 2, tail=False)
    ([0, 1, 2, 4], [0, 2, 3, 4])
    """
    its = [place for place, owner in enumerate(owners) if owner == which]
    lost = set(its[room:] if tail else its[: max(0, len(its) - room)])
    return [place for place in range(len(owners)) if place not in lost]


def windows(
    owners: Sequence[int | None], room: int, stride: int, gives: TruncationStrategy = "longest"
) -> list[list[int]]:
    """Return the places of the tokens in each window over a text; special tokens and the other text stand in all.

    Args:
        owners: for each token the text it belongs to, 0 or 1; None for special tokens.
        room: tokens of one window.
        stride: tokens of the moving text that neighbouring windows share, at most half of what a window holds of it.
        gives: which text of a pair moves; the other one keeps at most half of a window.

    >>> windows([None, 0, 0, 0, 0, 0, None], room=5, stride=1)
    [[0, 1, 2, 3, 6], [0, 3, 4, 5, 6]]
    """
    second = gives == "second" or (gives == "longest" and owners.count(1) > owners.count(0))
    moving = [place for place, owner in enumerate(owners) if owner == int(second)]
    still = shorten(owners, 1 - second, (room - owners.count(None)) // 2)
    fixed = [place for place in still if owners[place] != int(second)]
    size = max(1, room - len(fixed))
    shared = min(stride, size // 2)
    starts = range(0, max(1, len(moving) - shared), size - shared)
    return [sorted([*fixed, *moving[start : start + size]]) for start in starts]


def join_windows(encodings: Sequence[Encoding], owner: int = 0) -> Tokens:
    """Put a text together again: each token once, from the window where it has most context; the way back of `windows`.

    Context is counted in tokens up to the nearer edge of the window; where the text itself begins or ends is no edge.

    Args:
        encodings: the windows over a text in their order, with spans; or the one encoding of a short text.
        owner: 0 for the text, 1 for the second text of a pair.
    """
    spans = [encoding.spans for encoding in encodings if encoding.spans]
    at = np.flatnonzero([owned == owner for its in spans for owned in its.owners])
    places = np.array([place for its in spans for place in its.places], dtype=np.intp)
    window = np.repeat(np.arange(len(spans)), [len(its.owners) for its in spans])[at]
    counts = np.bincount(window, minlength=len(spans))
    before = np.arange(len(at)) - (np.cumsum(counts) - counts)[window]
    after = counts[window] - 1 - before
    context = np.minimum(
        np.where(window == 0, len(at), before),
        np.where(window == len(spans) - 1, len(at), after),
    )
    order = np.lexsort((-context, places[at]))
    at = at[order[np.diff(places[at][order], prepend=-1) > 0]]
    offsets = np.array([offset for its in spans for offset in its.offsets], dtype=np.intp)[at]
    words = np.array([-1 if word is None else word for its in spans for word in its.words], dtype=np.intp)[at]
    ids = np.array([token for encoding in encodings for token in encoding.ids], dtype=np.intp)[at]
    return Tokens(at, ids, places[at], offsets[:, 0], offsets[:, 1], words)


def take(spans: TokenSpans, places: Sequence[int]) -> TokenSpans:
    offsets, words, owners = spans.offsets, spans.words, spans.owners
    return TokenSpans([offsets[i] for i in places], [words[i] for i in places], [owners[i] for i in places], places)


def _shares(first: int, second: int, room: int) -> tuple[int, int]:
    """Divide room between two texts as the `tokenizers` library does: cut the longer one, then both to halves."""
    if second == 0:
        return min(first, room), 0
    short, long = sorted((first, second))
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = room - short
    return (short, long) if first <= second else (long, short)
