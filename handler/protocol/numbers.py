"""Vectors of fp32 as JSON, many at once: `json` takes ten times as long, and writes twice the digits that they have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

N_DIGITS = 9  # significant ones: fewer do not tell all numbers of fp32 apart
POWERS = range(-45, 39)  # of ten: those of the numbers of fp32
FIXED = range(-4, 1)  # powers that are written without an exponent
CHUNK = 65_536  # numbers that are written at once, each of which takes 100 bytes meanwhile
BLANK = b" "  # fills the tables, and is deleted

Words = npt.NDArray[Any]  # texts of 4 or 8 characters, each as one number


def write_vectors(vectors: Sequence[npt.NDArray[np.float32]]) -> Iterator[str]:
    """Write each vector as a JSON list; what a reader rounds to fp32 is the same number.

    Raises:
        ValueError: a number is not finite, as in `json`.

    >>> list(write_vectors([np.array([0.1, -2], np.float32), np.array([0, 1e-12], np.float32)]))
    ['[0.100000001,-2.00000000]', '[0.00000000,9.99999996e-13]']
    """
    first = 0
    while first < len(vectors):
        last = first + 1
        size = len(vectors[first])
        while last < len(vectors) and size + len(vectors[last]) <= CHUNK:
            size += len(vectors[last])
            last += 1
        yield from _write(vectors[first:last])
        first = last


def _write(vectors: Sequence[npt.NDArray[np.float32]]) -> list[str]:
    tables = _tables()
    numbers = np.concatenate(vectors, dtype=np.float32)
    if not np.isfinite(numbers).all():
        raise ValueError("a number is not finite")
    sizes = np.abs(numbers, dtype=np.float64)
    powers = np.floor(np.log10(sizes, where=sizes > 0, out=np.zeros_like(sizes))).astype(np.intp)
    digits = np.rint(sizes * tables.scales[powers - POWERS[0]]).astype(np.uint32)
    is_more = digits >= 10**N_DIGITS  # a logarithm was rounded down: of 1000 it may be 2.99...
    digits[is_more] //= 10
    powers += is_more
    rows = powers - POWERS[0]
    upper, middle = digits // 1_000_000, digits // 100 % 10_000
    has_point = (powers < FIXED[0]) | (powers >= 0)
    text = np.empty((len(numbers), 6), np.uint32)  # sign and zeros, 3 digits, 4 digits, 2 digits, exponent and comma
    text.view(np.uint64)[:, 0] = tables.heads[rows + len(POWERS) * np.signbit(numbers)]
    text[:, 2] = tables.upper[upper + 1000 * has_point]
    text[:, 3] = tables.middle[middle]
    text.view(np.uint64)[:, 2] = tables.tails[digits % 100 + 100 * rows]
    ends = np.cumsum([len(vector) for vector in vectors])
    text.view(np.uint8)[ends[:-1] - 1, -1] = ord("\n")
    lines = text.tobytes().translate(None, BLANK)[:-1].decode("ascii")
    return [f"[{line}]" for line in lines.split("\n")]


@dataclass(frozen=True)
class _Tables:
    """The texts that numbers are put together from."""

    scales: npt.NDArray[np.float64]  # by power
    heads: Words  # by power, of positive numbers, then of negative ones
    upper: Words  # by the first three digits, then with a point
    middle: Words  # by four digits
    tails: Words  # by power and two digits


@cache
def _tables() -> _Tables:
    zeros = [b"0." + b"0" * (-power - 1) if power in FIXED[:-1] else b"" for power in POWERS]
    exponents = [b"" if power in FIXED else b"e%+03d" % power for power in POWERS]
    upper = [b"%03d" % number for number in range(1000)]
    return _Tables(
        np.array([10.0 ** (N_DIGITS - 1 - power) for power in POWERS]),
        _words([sign + zero for sign in (b"", b"-") for zero in zeros], 8),
        _words([*upper, *(b"%b.%b" % (digits[:1], digits[1:]) for digits in upper)], 4),
        _words([b"%04d" % number for number in range(10_000)], 4),
        _words([(b"%02d" % digits + end).ljust(7) + b"," for end in exponents for digits in range(100)], 8),
    )


def _words(texts: list[bytes], size: int) -> Words:
    return np.frombuffer(b"".join(text.ljust(size, BLANK) for text in texts), f"u{size}")
