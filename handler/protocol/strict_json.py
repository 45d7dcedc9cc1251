"""Strict JSON (RFC 8259): the only module that parses or serializes it.

UTF-8, no duplicate keys, no NaN or Infinity, no number that does not fit, at most `MAX_DEPTH` levels. A value to be
serialized may hold arrays of fp32, which are written as lists. Commands that hold none do not import numpy.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn, TypeAlias

from handler.errors import MalformedBody

JSON: TypeAlias = Any  # None, bool, int, float, str, list or dict of these; mypy cannot check a recursive type well

MAX_DEPTH = 32


def loads(text: str) -> JSON:
    """Parse strict JSON; raises MalformedBody.

    >>> loads('{"a": 1e400}')
    Traceback (most recent call last):
    handler.errors.MalformedBody: body is not JSON: a number is out of range
    """
    if text.startswith("\ufeff"):
        raise MalformedBody("body is not JSON: remove the byte order mark")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_bounded_int,
        )
    except json.JSONDecodeError as error:
        raise MalformedBody(f"body is not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise MalformedBody(f"body is nested deeper than {MAX_DEPTH} levels") from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise MalformedBody(f"body is nested deeper than {MAX_DEPTH} levels")
    return value


def dumps(value: JSON) -> str:
    """Serialize JSON: ASCII, compact, the inverse of `loads`. Raises ValueError for NaN and Infinity.

    >>> import numpy as np
    >>> dumps({"vector": np.array([1, 0.5], np.float32)})
    '{"vector":[1.00000000,0.500000000]}'
    """
    try:
        return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    except TypeError:  # at the first array
        return _with_arrays(value)


def _with_arrays(value: JSON) -> str:
    """Serialize a value that holds arrays; raises TypeError for what JSON has not."""
    from handler.protocol.numbers import write_vectors

    if isinstance(value, dict):
        return "{" + ",".join(f"{dumps(key)}:{dumps(item)}" for key, item in value.items()) + "}"
    if is_array(value) and value.ndim == 1:
        return next(write_vectors([value]))
    if is_array(value) or (isinstance(value, list) and all(is_array(item) and item.ndim == 1 for item in value)):
        return "[" + ",".join(write_vectors(value)) + "]"
    if isinstance(value, list):
        return "[" + ",".join(map(dumps, value)) + "]"
    raise TypeError(f"{type(value).__name__} is not JSON")


def is_array(value: JSON) -> bool:
    """Tell whether a value is an array of numpy, without importing it."""
    return hasattr(value, "tolist")


def as_lists(answer: JSON) -> JSON:
    """Return an answer with lists in the place of its arrays, as a client reads it."""
    if is_array(answer):
        return answer.tolist()
    if isinstance(answer, dict):
        return {key: as_lists(item) for key, item in answer.items()}
    return [as_lists(item) for item in answer] if isinstance(answer, list) else answer


def decode(content: bytes) -> str:
    """Decode UTF-8; raises MalformedBody."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedBody(f"body is not UTF-8: wrong byte at position {error.start}") from None


def json_type(value: JSON) -> str:
    """Name the JSON type of a value, for messages.

    >>> json_type(None), json_type(True), json_type(1.5), json_type({})
    ('null', 'a boolean', 'a number', 'an object')
    """
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), "null")


def _unique_keys(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise MalformedBody("body has an object with two equal keys")
    return value


def _refuse_constant(_: str) -> NoReturn:
    raise MalformedBody("body is not JSON: NaN and Infinity are not numbers in JSON")


def _finite_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise MalformedBody("body is not JSON: a number is out of range")
    return number


def _bounded_int(digits: str) -> int:
    if len(digits) > 20:
        raise MalformedBody("body is not JSON: a number is out of range")
    return int(digits)


def _is_deeper(value: JSON, depth: int) -> bool:
    level = [value]
    while level and depth > 0:
        children = (item.values() if isinstance(item, dict) else item for item in level)
        level = [child for group in children for child in group if isinstance(child, dict | list)]
        depth -= 1
    return bool(level)
