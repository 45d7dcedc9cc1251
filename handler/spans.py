"""Spans of text: align the spans of tokens to whole characters and words, and find the best spans of scores."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import regex  # type: ignore[import-untyped]  # a dependency of transformers
from numpy.typing import NDArray

from handler.sequences import Tokens

Probabilities: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]
GRAPHEME = regex.compile(r"\X")


def align_to_text(tokens: Tokens, text: str, *, to_graphemes: bool = True, marks_split_words: bool = False) -> Tokens:
    """Return tokens whose spans have no blank at either end and no part of a grapheme cluster, with whole words.

    A grapheme cluster is what a reader takes for one character (Unicode Standard Annex 29): a letter with its combining
    marks, a sequence of emojis with joiners. The span of a token without visible characters is empty.

    Args:
        tokens: joined from their windows.
        text: that the tokens are of.
        to_graphemes: whether spans are extended to whole grapheme clusters.
        marks_split_words: whether the pre-tokenizer splits a word at combining marks and joiners, as that of byte-level
            BPE does, which knows letters only: the parts are joined to one word again.
    """
    if not len(tokens.ids):
        return tokens
    edges = None if text.isascii() else np.array([*(match.start() for match in GRAPHEME.finditer(text)), len(text)])
    starts, ends = tokens.starts.copy(), tokens.ends.copy()
    if edges is not None and to_graphemes:
        filled = ends > starts
        starts[filled] = edges[np.searchsorted(edges, starts[filled], side="right") - 1]
        ends[filled] = edges[np.searchsorted(edges, ends[filled])]
    for index, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        if start < end and (is_blank(text[start]) or is_blank(text[end - 1])):
            visible = [at for at in range(start, end) if not is_blank(text[at])] or [end, end - 1]
            starts[index], ends[index] = visible[0], visible[-1] + 1
    word_ids = tokens.word_ids
    if edges is not None:
        word_ids = _whole_words(tokens, text, edges, marks_split_words=marks_split_words)
    return replace(tokens, starts=starts, ends=ends, word_ids=word_ids)


def is_blank(character: str) -> bool:
    """Return whether a character is white space, or has no width and is no part of a word."""
    return character.isspace() or character in "\u200b\u2060\ufeff"


def _whole_words(tokens: Tokens, text: str, edges: Indices, *, marks_split_words: bool) -> Indices:
    """Return the word of each token such that no word ends within a grapheme cluster, or at a mark between letters."""
    is_new = np.diff(tokens.word_ids, prepend=-1) != 0
    is_new[:1] = True
    touches = np.concatenate(([False], tokens.ends[:-1] >= tokens.starts[1:]))
    for index in np.flatnonzero(is_new & touches & (tokens.word_ids >= 0)).tolist():
        start = int(tokens.starts[index])
        is_inside = edges[np.searchsorted(edges, start)] != start
        if is_inside or (marks_split_words and _marks_join(text, start)):
            is_new[index] = False
    return np.where(tokens.word_ids < 0, -1, np.cumsum(is_new) - 1)


def _marks_join(text: str, index: int) -> bool:
    r"""Return whether the letter at an index follows a letter with combining marks or joiners.

    >>> _marks_join("u\u0308l", 2), _marks_join("ul", 1), _marks_join("u\u0308-", 2)
    (True, False, False)
    """
    base = index
    while base > 0 and unicodedata.category(text[base - 1])[0] in "MC":
        base -= 1
    around = text[max(0, base - 1) : base] + text[index : index + 1]
    return base < index and [unicodedata.category(character)[0] for character in around] == ["L", "L"]


def best_spans(
    starts: Probabilities, ends: Probabilities, tokens: Tokens, max_length: int, *, align_to_words: bool
) -> Iterator[tuple[int, int, float]]:
    """Yield spans (start, end, score) in characters, best first; none overlaps one before it.

    Args:
        starts: (tokens,), the probability that a span starts with a token; no span with 0.
        ends: (tokens,), the probability that a span ends with a token.
        tokens: of the text.
        max_length: tokens of a span, before it is extended to words.
        align_to_words: whether spans are extended to whole words.
    """
    best, lengths = best_ends(starts, ends, max_length)
    taken = np.zeros(len(starts), dtype=np.bool_)
    while len(best) and not best[first := int(best.argmax())] <= 0:  # NaN passes: serialisation reports it
        last, score = first + int(lengths[first]), float(best[first])
        if align_to_words and tokens.word_ids[first] >= 0 and tokens.word_ids[last] >= 0:
            first = int(np.flatnonzero(tokens.word_ids == tokens.word_ids[first])[0])
            last = int(np.flatnonzero(tokens.word_ids == tokens.word_ids[last])[-1])
        start, end = int(tokens.starts[first]), int(tokens.ends[last])
        yield start, end, score
        overlapping = (tokens.starts < end) & (tokens.ends > start)
        overlapping[first : last + 1] = True
        taken |= overlapping
        best[taken] = 0
        begin = int(overlapping.argmax())
        for index in range(max(0, begin - max_length), begin):  # spans that may end in a token that is taken now
            if best[index] > 0 and taken[index : index + int(lengths[index]) + 1].any():
                free = ends[index : index + int(taken[index:].argmax())]
                lengths[index] = free.argmax()
                best[index] = starts[index] * free.max()


def best_ends(
    starts: NDArray[Any],
    ends: NDArray[Any],
    max_length: int,
    combine: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]] = np.multiply,
) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Return for each token the score of the best span that starts with it, and the offset of that span's last token.

    Args:
        starts: (tokens,), scores of starts.
        ends: (tokens,), scores of ends.
        max_length: tokens of a span.
        combine: the score of a span: the product of probabilities, or np.add for the sum of logits.

    >>> best_ends(np.array([0.5, 0.5]), np.array([0.1, 0.9]), max_length=2)[1].tolist()
    [1, 0]
    """
    best, lengths = combine(starts, ends), np.zeros(len(starts), dtype=np.intp)
    for length in range(1, min(max_length, len(starts))):
        scores = combine(starts[:-length], ends[length:])
        better = scores > best[:-length]
        best[:-length][better] = scores[better]
        lengths[:-length][better] = length
    return best, lengths
