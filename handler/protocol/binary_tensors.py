"""Binary tensors of Open Inference v2: bytes behind the JSON, in the order of the tensors, instead of lists in it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from handler.errors import MalformedBody
from handler.protocol.strict_json import JSON, decode


def attach(value: JSON, tail: bytes) -> None:
    """Put the tensors of the tail into the request before it, as lists of strings; raises MalformedBody."""
    tensors = value.get("inputs") if isinstance(value, dict) else None
    for tensor in tensors if isinstance(tensors, list) else []:
        parameters = tensor.get("parameters") if isinstance(tensor, dict) else None
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if type(size) is not int:
            continue
        if not 0 <= size <= len(tail):
            raise MalformedBody("binary_data_size is not the size of the data that follow the JSON")
        content, tail = tail[:size], tail[size:]
        tensor["data"] = _parse_strings(content) if tensor.get("datatype") == "BYTES" else []
    if tail:
        raise MalformedBody(f"{len(tail)} bytes follow the last binary tensor")


def detach(tensor: dict[str, JSON]) -> bytes:
    """Move the elements of an output out of it; return them as bytes. The inverse of `attach`.

    Raises:
        ValueError: a number that is not finite, as in JSON.
    """
    content = WRITERS[tensor["datatype"]](tensor.pop("data"))
    tensor["parameters"] = {"binary_data_size": len(content)}
    return content


def _parse_strings(content: bytes) -> list[str]:
    """Parse a BYTES tensor: for each element 4 bytes of length, little-endian, then UTF-8."""
    elements, offset = [], 0
    while offset < len(content):
        if offset + 4 > len(content):
            raise MalformedBody("a binary tensor ends inside a length")
        (length,) = struct.unpack_from("<I", content, offset)
        offset += 4
        if offset + length > len(content):
            raise MalformedBody("a binary tensor ends inside an element")
        elements.append(decode(content[offset : offset + length]))
        offset += length
    return elements


def _write_strings(elements: Sequence[str]) -> bytes:
    """Write a BYTES tensor.

    >>> _write_strings(["é"])
    b'\\x02\\x00\\x00\\x00\\xc3\\xa9'
    """
    encoded = [element.encode("utf-8") for element in elements]
    return b"".join(part for element in encoded for part in (struct.pack("<I", len(element)), element))


def _write_numbers(elements: Sequence[float]) -> bytes:
    """Write an FP32 tensor: little-endian.

    >>> _write_numbers([1.0])
    b'\\x00\\x00\\x80?'
    """
    import numpy as np

    numbers = np.asarray(elements, "<f4")
    if not np.isfinite(numbers).all():
        raise ValueError("a number is not finite")
    return numbers.tobytes()


WRITERS: Mapping[str, Callable[[Any], bytes]] = {  # of the datatypes that answers have
    "BYTES": _write_strings,
    "FP32": _write_numbers,
    "BOOL": bytes,
}
