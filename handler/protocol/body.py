"""The body of a request: bytes -> `ParsedBody`, and answers -> bytes.

`parse` recognises the codec of a body; `serialize` writes the answers with the codec that the body came in.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from handler.errors import MalformedBody, RequestError, UnsupportedMediaType
from handler.protocol.codecs import PLAIN, AnswerFormat, Codec, ModelId, ParsedBody, codec_for
from handler.protocol.strict_json import JSON, decode, dumps, loads

TEXT_TYPES = ("", "text/plain", "application/octet-stream")
HOW_TO_SEND = "send text/plain or application/json (with curl: -H 'Content-Type: application/json' -d '\"a text\"')"


@dataclass(frozen=True)
class Body:
    """The body of one request as the door received it."""

    content: bytes | None  # None: TorchServe's form decoder found nothing that it hands on
    content_type: str = ""
    content_encoding: str = ""
    typed: bool = True  # False: the transport (gRPC) cannot say a type, so JSON is told by its first character
    json_length: int | None = None  # of the JSON in front of binary tensors (Open Inference v2, binary extension)


def parse(body: Body) -> ParsedBody:
    """Read one body.

    Raises:
        UnsupportedMediaType: a type, charset or encoding that is not spoken here, or a form without `data`.
        MalformedBody: empty, not UTF-8, not JSON, or JSON that is not strict.
        InvalidInput: JSON of a shape that no dialect has.
    """
    if body.content_encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("Content-Encoding is not supported: send the body as it is")
    media, charset = _media_type(body.content_type)
    if charset not in ("", "utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType("charset must be utf-8")
    if body.content is None:
        raise UnsupportedMediaType(f"a form must have a field named data; better: {HOW_TO_SEND}")
    if media not in (*TEXT_TYPES, "application/json"):
        raise UnsupportedMediaType(f"this Content-Type is not supported: {HOW_TO_SEND}")
    if not body.content:
        raise MalformedBody(f"body is empty: {HOW_TO_SEND}")
    content, tail = body.content, None
    if body.json_length is not None:
        if body.json_length > len(content):
            raise MalformedBody("Inference-Header-Content-Length is more than the length of the body")
        content, tail = content[: body.json_length], content[body.json_length :]
        media = "application/json"
    looks_like_json = not body.typed and content.lstrip()[:1] in (b"{", b"[", b'"')
    text = decode(content)
    if media != "application/json" and not looks_like_json:
        return PLAIN.parse(text)
    value = loads(text)
    if tail is not None:
        _attach(value, tail)
    return codec_for(value).parse(value)


def serialize(question: ParsedBody, answers: list[JSON], model: ModelId, form: AnswerFormat) -> bytes:
    """Write the answers of a question; ASCII, compact. The inverse of `read`."""
    return dumps(question.codec.serialize(question, answers, model, form)).encode("ascii")


def serialize_explanations(
    question: ParsedBody, answers: list[JSON], explanations: list[JSON], model: ModelId
) -> bytes:
    """Write why the answers of a question are as they are; ASCII, compact."""
    return dumps(question.codec.serialize_explanations(question, answers, explanations, model)).encode("ascii")


def serialize_error(error: RequestError, codec: Codec = PLAIN) -> bytes:
    """Write an error with the codec of the question, as far as that became known."""
    return dumps(codec.serialize_error(error)).encode("ascii")


def serialize_value(value: JSON) -> bytes:
    """Write any JSON value; ASCII, compact."""
    return dumps(value).encode("ascii")


def _attach(value: JSON, tail: bytes) -> None:
    """Put binary tensors into the JSON they belong to: elements of 4 little-endian bytes of length, then UTF-8."""
    tensors = value.get("inputs") if isinstance(value, dict) else None
    for tensor in tensors if isinstance(tensors, list) else []:
        parameters = tensor.get("parameters") if isinstance(tensor, dict) else None
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if type(size) is not int:
            continue
        if not 0 <= size <= len(tail):
            raise MalformedBody("binary_data_size is not the size of the data that follow the JSON")
        packed, tail = tail[:size], tail[size:]
        tensor["data"] = _elements(packed) if tensor.get("datatype") == "BYTES" else []
    if tail:
        raise MalformedBody(f"{len(tail)} bytes follow the last binary tensor")


def _elements(packed: bytes) -> list[str]:
    elements, at = [], 0
    while at < len(packed):
        if at + 4 > len(packed):
            raise MalformedBody("a binary tensor ends inside a length")
        (length,) = struct.unpack_from("<I", packed, at)
        at += 4
        if at + length > len(packed):
            raise MalformedBody("a binary tensor ends inside an element")
        elements.append(decode(packed[at : at + length]))
        at += length
    return elements


def _media_type(content_type: str) -> tuple[str, str]:
    media, *parameters = content_type.lower().split(";")
    pairs = [parameter.partition("=") for parameter in parameters]
    charsets = [value.strip(' "') for name, _, value in pairs if name.strip() == "charset"]
    return media.strip(), charsets[0] if charsets else ""
