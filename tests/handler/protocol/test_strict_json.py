"""Strict JSON: what RFC 8259 allows, no deeper than stated, and nothing else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.errors import MalformedBody
from handler.protocol import JSON, loads, serialize_value
from tests.support.bodies import NOT_JSON


@pytest.mark.parametrize("text", NOT_JSON.values(), ids=NOT_JSON)
def test_json_is_strict(text: str) -> None:
    """What RFC 8259 does not allow, or no number holds, is 400 and not a guess."""
    with pytest.raises(MalformedBody):
        loads(text)


@pytest.mark.parametrize(
    "text",
    [
        '"\\ud83d\\ude42"',
        '"\\ud800"',
        '"\\u0000"',
        '"\uffff"',
        "-0",
        "1E5",
        "12345678901234567890",
        "[" * 32 + "]" * 32,
        "[" + "[]," * 5000 + "[]]",
        ' {"a" :\t1 }\r\n',
        '{"a": 1, "A": 2, "": 3}',
        f'"{"[" * 200}"',
    ],
)
def test_what_json_allows_is_read(text: str) -> None:
    """Strict is no stricter than the standard, but for depth."""
    assert loads(text) == json.loads(text)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=15,
)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(JSON_VALUES)
def test_parse_and_write_are_inverse(value: JSON) -> None:
    """Whatever is written reads the same, in one line of ASCII."""
    written = serialize_value(value)
    assert loads(written.decode("ascii")) == value
    assert b"\n" not in written


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_json_is_not_written(number: float) -> None:
    """A model that answers NaN fails loudly."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        serialize_value([number])
