"""Bytes <-> JSON values: strict JSON, and one codec for each protocol.

The shape of the response follows the shape of the body. This is the only package that parses or serializes JSON; it
does not know tasks or models.
"""

from handler.protocol.body import (
    Body,
    ResponseBody,
    parse,
    serialize,
    serialize_error,
    serialize_explanations,
    serialize_value,
)
from handler.protocol.codecs import (
    KSERVE_V1,
    OPEN_INFERENCE,
    PLAIN,
    AnswerFormat,
    AnswerSerializer,
    Codec,
    ModelId,
    ParsedBody,
)
from handler.protocol.strict_json import JSON, as_lists, is_array, json_type, loads

__all__ = [
    "JSON",
    "KSERVE_V1",
    "OPEN_INFERENCE",
    "PLAIN",
    "AnswerFormat",
    "AnswerSerializer",
    "Body",
    "Codec",
    "ModelId",
    "ParsedBody",
    "ResponseBody",
    "as_lists",
    "is_array",
    "json_type",
    "loads",
    "parse",
    "serialize",
    "serialize_error",
    "serialize_explanations",
    "serialize_value",
]
