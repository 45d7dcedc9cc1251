"""Bodies of requests, or parts of them, that several tests send."""

from __future__ import annotations

import struct

from handler.protocol import JSON, Body, serialize_value

REFUSED_TYPES = [
    "text/html",
    "text/json",
    "application/xml",
    "application/x-ndjson",
    "application/vnd.api+json",
    "application/jsonx",
    "image/png",
    "multipart/form-data",
    "multipart/form-data; boundary=x",
    "application/x-www-form-urlencoded",
    "*/*",
    "json",
    "application/json, text/plain",
    "application/json; charset=utf-16",
    "text/plain; charset=iso-8859-1",
    "text/plain; charset=UTF-7",
    "text/plain; version=1; charset=cp1252",
]

NOT_JSON = {
    "nothing": "",
    "blank": " \n",
    "single quotes": "'a'",
    "bare word": "a",
    "Python's None": "None",
    "unterminated string": '"a',
    "unterminated list": '["a"',
    "unterminated object": '{"text": "a"',
    "trailing word": '"a" b',
    "two values": '"a""b"',
    "trailing comma": '["a",]',
    "trailing comma in an object": '{"text": "a",}',
    "comment": '"a" // b',
    "control character": '"a\nb"',
    "NUL in a string": '"a\0b"',
    "NUL after": '"a"\0',
    "bad escape": '"a\\q"',
    "short escape": '"\\u12"',
    "key without quotes": '{text: "a"}',
    "key that is a number": '{7: "a"}',
    "leading zero": "01",
    "plus": "+1",
    "no digit before the point": ".5",
    "no digit after the point": "1.",
    "hexadecimal": "0x10",
    "NaN": "NaN",
    "Infinity": "[Infinity]",
    "minus Infinity": '{"text": -Infinity}',
    "1e400": "1e400",
    "minus 1e400": "[-1e400]",
    "5,000 digits": "9" * 5000,
    "5,000 digits below zero": "-" + "9" * 5000,
    "equal keys": '{"text": "a", "text": "a"}',
    "equal keys by escape": '{"text": "a", "\\u0074ext": "b"}',
    "equal keys inside": '[{"a": {"b": 1, "b": 2}}]',
    "byte order mark": '\ufeff"a"',
    "100 lists": "[" * 100 + "]" * 100,
    "33 lists": "[" * 33 + "]" * 33,
    "33 objects": '{"a":' * 33 + "1" + "}" * 33,
    "100,000 lists": "[" * 100_000 + "]" * 100_000,
    "100,000 open lists": "[" * 100_000,
    "100,000 objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
}


def tensor(*texts: JSON, name: str = "text", **changed: JSON) -> JSON:
    """Return a BYTES tensor as JSON."""
    return {"name": name, "shape": [len(texts)], "datatype": "BYTES", "data": list(texts), **changed}


def binary_elements(*elements: bytes) -> bytes:
    """Return BYTES elements as they lie in a binary tensor."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def binary_body(tail: bytes, size: JSON, json_length: int | None = None) -> Body:
    """Return a body with one binary tensor of one text, and any size claimed for it."""
    head = serialize_value({"inputs": [{**tensor(), "shape": [1], "parameters": {"binary_data_size": size}}]})
    return Body(head + tail, json_length=len(head) if json_length is None else json_length)
