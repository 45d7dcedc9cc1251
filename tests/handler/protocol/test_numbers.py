"""Test vectors as JSON: every number of fp32 comes back, in nine digits."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from handler.protocol.numbers import CHUNK, write_vectors
from handler.protocol.strict_json import as_lists, dumps, loads

NUMBER = re.compile(r"-?(?:0\.0{0,3}[1-9]\d{8}|[1-9]\.\d{8}(?:e[+-]\d\d)?|0\.0{8})")


def bits(values: np.ndarray) -> list[int]:
    """Return numbers as their bits: -0 is not 0."""
    return [int(number) for number in values.astype(np.float32).view(np.uint32)]


def test_every_number_of_fp32_comes_back() -> None:
    """Of 400,000 random patterns of bits, powers of ten and two, their neighbours, the least and the largest."""
    patterns = np.random.default_rng(7).integers(0, 2**32, 400_000, dtype=np.uint64).astype(np.uint32)
    powers = np.concatenate([10.0 ** np.arange(-45, 39), 2.0 ** np.arange(-149, 128)]).astype(np.float32)
    around = [np.nextafter(powers, np.float32(limit)) for limit in (0, np.inf)]
    numbers = np.concatenate([patterns.view(np.float32), powers, -powers, *around, np.zeros(1, np.float32)])
    numbers = numbers[np.isfinite(numbers)]
    (text,) = write_vectors([numbers])
    assert bits(np.array(json.loads(text))) == bits(numbers)
    assert all(NUMBER.fullmatch(number) for number in text[1:-1].split(","))


@pytest.mark.parametrize("count", [1, 7, 3000])
def test_vectors_of_any_number_and_length_stay_apart(count: int) -> None:
    """Many are written at once, up to a chunk, and one may be longer than that."""
    generator = np.random.default_rng(count)
    lengths = [*generator.integers(1, 60, count), CHUNK + 1, 1]
    vectors = [generator.standard_normal(length).astype(np.float32) for length in lengths]
    written = list(write_vectors(vectors))
    assert [len(json.loads(text)) for text in written] == lengths
    assert bits(np.concatenate([json.loads(text) for text in written])) == bits(np.concatenate(vectors))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_of_json_is_refused(number: float) -> None:
    """As `json` refuses it where NaN is not allowed."""
    with pytest.raises(ValueError, match="not finite"):
        dumps([np.array([0, number], np.float32)])


def test_arrays_anywhere_in_a_value() -> None:
    """Beside what JSON has, in lists, in objects, as a matrix; keys and texts are escaped as everywhere."""
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    value = {"é": [{"vector": matrix[0]}, "\u0000é", None, True], "matrix": matrix, "vectors": [matrix[1]], "none": []}
    expected = {"é": [{"vector": [0, 1, 2]}, "\u0000é", None, True], "matrix": [[0, 1, 2], [3, 4, 5]]}
    text = dumps(value)
    assert text.isascii()
    assert loads(text) == {**expected, "vectors": [[3, 4, 5]], "none": []}
    assert as_lists(matrix[0]) == [0, 1, 2]
    assert as_lists("a") == "a"


@pytest.mark.parametrize("value", [{1, 2}, [b"a"], {"a": object()}, [np.zeros(1, np.float32), {"a": object()}]])
def test_what_json_has_not_is_a_type_error(value: object) -> None:
    """Also beside arrays, whose way is another one."""
    with pytest.raises(TypeError):
        dumps(value)
