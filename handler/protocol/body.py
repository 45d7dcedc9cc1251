"""The body of a request: bytes -> `ParsedBody`, and answers -> bytes.

`parse` finds the codec of a body; `serialize` writes the answers with the same codec.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from handler.errors import MalformedBody, RequestError, UnsupportedMediaType
from handler.protocol import binary_tensors
from handler.protocol.codecs import PLAIN, AnswerFormat, AnswerSerializer, ModelId, ParsedBody, codec_for
from handler.protocol.strict_json import JSON, decode, dumps, loads

TEXT_TYPES = ("", "text/plain", "application/octet-stream")
HOW_TO_SEND = "send text/plain or application/json (with curl: -H 'Content-Type: application/json' -d '\"a text\"')"


@dataclass(frozen=True)
class Body:
    """The body of one request as the server received it."""

    content: bytes | None  # None: a form without a field that TorchServe passes on
    content_type: str = ""
    content_encoding: str = ""
    typed: bool = True  # False: the transport (gRPC) has no content type, so the first character tells JSON from text
    json_length: int | None = None  # bytes of the JSON before binary tensors (Open Inference v2, binary extension)


@dataclass(frozen=True)
class ResponseBody:
    """The body of one response."""

    content: bytes
    json_length: int | None = None  # bytes of the JSON before binary tensors; None: all of it is JSON

    @property
    def headers(self) -> dict[str, str]:
        """The headers that a client needs to read it, where it is not only JSON."""
        if self.json_length is None:
            return {}
        length = str(self.json_length)
        return {"content-type": "application/octet-stream", "inference-header-content-length": length}


def parse(body: Body) -> ParsedBody:
    """Parse one body.

    Raises:
        UnsupportedMediaType: a type, charset or encoding that is not supported, or a form without `data`.
        MalformedBody: empty, not UTF-8, not JSON, or JSON that is not strict.
        InvalidInput: JSON of a shape that no codec has.
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
        if body.json_length < 0:
            raise MalformedBody("Inference-Header-Content-Length must be a number of bytes")
        if body.json_length > len(content):
            raise MalformedBody("Inference-Header-Content-Length is more than the length of the body")
        content, tail = content[: body.json_length], content[body.json_length :]
        media = "application/json"
    looks_like_json = not body.typed and content.lstrip()[:1] in (b"{", b"[", b'"')
    text = decode(content)
    if media != "application/json" and not looks_like_json:
        return PLAIN.parse(text)
    try:
        value = loads(text)
    except MalformedBody as error:
        if not tail:
            raise
        hint = "send the length of the JSON, or leave the header out"
        raise MalformedBody(f"{error}, where Inference-Header-Content-Length ends it: {hint}") from None
    if tail is not None:
        binary_tensors.attach(value, tail)
    parsed = codec_for(value).parse(value)
    return parsed if body.typed else replace(parsed, binary=False, outputs=dict.fromkeys(parsed.outputs, False))


def serialize(body: ParsedBody, answers: list[JSON], model: ModelId, answer_format: AnswerFormat) -> ResponseBody:
    """Serialize the answers of a body with its codec, the inverse of `parse`; JSON is ASCII, compact."""
    return _serialize(body, body.codec.serialize(body, answers, model, answer_format))


def serialize_explanations(
    body: ParsedBody, answers: list[JSON], explanations: list[JSON], model: ModelId
) -> ResponseBody:
    """Serialize the explanations of the answers of a body with its codec; JSON is ASCII, compact."""
    return _serialize(body, body.codec.serialize_explanations(body, answers, explanations, model))


def serialize_error(error: RequestError, codec: AnswerSerializer = PLAIN) -> bytes:
    """Serialize an error; `codec` is that of the body, if the body was parsed."""
    return serialize_value(codec.serialize_error(error))


def serialize_value(value: JSON) -> bytes:
    """Serialize any JSON value; ASCII, compact."""
    return dumps(value).encode("ascii")


def _serialize(body: ParsedBody, value: JSON) -> ResponseBody:
    tail = [
        binary_tensors.detach(tensor)
        for tensor in (value["outputs"] if body.may_be_binary else [])
        if body.outputs.get(tensor["name"], body.binary)
    ]
    content = serialize_value(value)
    return ResponseBody(content + b"".join(tail), len(content)) if tail else ResponseBody(content)


def _media_type(content_type: str) -> tuple[str, str]:
    media, *parameters = content_type.lower().split(";")
    pairs = [parameter.partition("=") for parameter in parameters]
    charsets = [value.strip(' "') for name, _, value in pairs if name.strip() == "charset"]
    return media.strip(), charsets[0] if charsets else ""
