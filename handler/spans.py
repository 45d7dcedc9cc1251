"""Find the best spans of tokens, given a score for each token as the start and as the end of a span."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from handler.sequences import Tokens

Probabilities: TypeAlias = NDArray[np.float64]


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
