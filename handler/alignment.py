"""Where in a text each token comes from, for tokenizers that do not say it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

NEAR = 16  # characters that a tokenizer may drop before a word, such as controls
FAR = 4096  # characters that it may replace by another word, such as an address
MARKS = ("##", "@@", "</w>", "▁")  # WordPiece, BPE of subword-nmt, BPE of XLM, sentencepiece


class AlignedToken(NamedTuple):
    """Where a token comes from: characters of its text, end excluded, and whether it begins a word."""

    start: int
    end: int
    begins_word: bool


def align(text: str, tokens: Sequence[str | None], mark: str = "") -> list[AlignedToken]:
    """Return for each token of a text the characters that it was made of.

    Case, accents and the width of characters do not count, for a tokenizer may have changed them. The tokens of a word
    that is unknown (None), or was written in the place of something else (`@USER`), share what lies between its
    neighbours.

    Args:
        tokens: in the order of the text.
        mark: what the vocabulary writes at a part of a word (`MARKS`).

    >>> [text[span.start:span.end] for text in ["Bücher x!"] for span in align(text, ["buch", "##er", None, "!"], "##")]
    ['Büch', 'er', 'x', '!']
    """
    keys, indices = _keys(text)
    indices.append(len(text))
    spans: list[AlignedToken] = []
    waiting: list[int] = []  # how many tokens the words have whose characters are not known yet
    position = 0  # in keys
    for parts in _words(tokens, mark):
        lengths = [len(_keys(part or "")[0]) for part in parts]
        key = "".join(_keys(part or "")[0] for part in parts)
        match = _find(text, keys, indices, key, position, far=bool(waiting))
        if match < 0:
            waiting.append(len(parts))
            continue
        spans += _shared(text, waiting, spans[-1].end if spans else 0, indices[match])
        waiting = []
        for number, length in enumerate(lengths):
            start = indices[match]
            match += length
            spans.append(AlignedToken(start, _after(indices, match, text) if length else start, number == 0))
        position = match
    return spans + _shared(text, waiting, spans[-1].end if spans else 0, len(text))


def mark_of(vocabulary: Mapping[str, int]) -> str:
    """Return how a vocabulary writes a part of a word; empty where it has words alone."""
    counts = {mark: sum(mark in (token[: len(mark)], token[-len(mark) :]) for token in vocabulary) for mark in MARKS}
    mark = max(counts, key=lambda name: counts[name])
    return mark if counts[mark] else ""


def _words(tokens: Sequence[str | None], mark: str) -> Iterator[list[str | None]]:
    """Yield the tokens of each word, without the marks."""
    word: list[str | None] = []
    continues = False  # whether the token before says so
    for token in tokens:
        begins = (
            not continues
            if mark in ("@@", "</w>")
            else token is None or not mark or token.startswith(mark) == (mark != "##")
        )
        if begins and word:
            yield word
            word = []
        word.append(token and (token.removeprefix(mark) if mark in ("##", "▁") else token.removesuffix(mark)))
        continues = token is not None and token.endswith(mark) == (mark == "@@")
    if word:
        yield word


def _find(text: str, keys: str, indices: Sequence[int], key: str, position: int, *, far: bool) -> int:
    """Return where a word is in keys from a position on, -1 if it is not near, or `far` behind unknown words."""
    end = position + len(key) + (FAR if far else NEAR)
    match = keys.find(key, position, end) if key else -1
    while match > position and (_joins(text, indices[match]) or _joins(text, indices[match + len(key) - 1] + 1)):
        match = keys.find(key, match + 1, end)
    return match


def _joins(text: str, index: int) -> bool:
    """Return whether Latin letters or digits stand on both sides of an index."""
    around = text[index - 1 : index + 1] if index > 0 else ""
    return len(around) == 2 and around.isalnum() and around.isascii()


def _keys(text: str) -> tuple[str, list[int]]:
    """Return the characters of a text that count in a comparison, and where each comes from."""
    keys, indices = [], []
    for index, character in enumerate(text):
        for part in unicodedata.normalize("NFKD", character.casefold()):
            if not part.isspace() and unicodedata.category(part) != "Mn":
                keys.append(part)
                indices.append(index)
    return "".join(keys), indices


def _after(indices: Sequence[int], key_end: int, text: str) -> int:
    """Return where the characters of keys end, with the marks that follow them."""
    end = indices[key_end - 1] + 1
    while end < indices[key_end] and unicodedata.category(text[end]) == "Mn":
        end += 1
    return end


def _shared(text: str, waiting: Sequence[int], start: int, end: int) -> list[AlignedToken]:
    """Return spans for words that were not found: the words of text[start:end] in turn, the last for all others.

    Args:
        waiting: how many tokens each of the words has.
    """
    spans: list[AlignedToken] = []
    chunks = [(start + match.start(), start + match.end()) for match in re.finditer(r"\S+", text[start:end])]
    chunks = chunks or [(start, start)]
    for number, n_tokens in enumerate(waiting):
        first, last = chunks[min(number, len(chunks) - 1)]
        if number == len(waiting) - 1:
            last = chunks[-1][1]
        spans += [AlignedToken(first, last, part == 0) for part in range(n_tokens)]
    return spans
