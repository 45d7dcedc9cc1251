"""The Arrow type of answers, from the JSON Schema of a task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from handler.protocol import JSON

FP32 = "float"  # `format` of a number, as OpenAPI names it


@dataclass(frozen=True)
class AnswerSchema:
    """The JSON Schema of the answers of a run, and whether rows have ids."""

    answer: str  # as JSON text; empty where answers differ in their types
    ids: bool

    @classmethod
    def of(cls, schema: JSON, examples: Sequence[JSON], *, ids: bool) -> AnswerSchema:
        """Return the schema of a task as narrow as answers to examples allow."""
        kind = narrowed(schema, examples)
        if kind is not None:
            import pyarrow as pa

            try:
                read_back = pa.array(list(examples), type=arrow(kind)).to_pylist()
                lossless = read_back == [filled(kind, example) for example in examples]
            except pa.ArrowException:
                lossless = False
            kind = kind if lossless else None
        return cls("" if kind is None else json.dumps(kind, sort_keys=True), ids)


def narrowed(schema: JSON, examples: Sequence[JSON]) -> JSON | None:
    """Return a schema without alternatives, or None where the examples need several of them.

    Alternative objects are merged into one with the fields of all.

    >>> number, text = {"type": "number"}, {"type": "string"}
    >>> narrowed({"oneOf": [number, {"type": "array", "items": number}]}, [[1.0], [2.0]])
    {'type': 'array', 'items': {'type': 'number'}}
    >>> narrowed({"oneOf": [number, text]}, [1.0, "a"]) is None
    True
    """
    if "oneOf" in schema:
        kinds = schema["oneOf"]
        if all(kind.get("type") == "object" for kind in kinds):
            merged = {name: field for kind in kinds for name, field in kind["properties"].items()}
            return narrowed({"type": "object", "properties": merged}, examples)
        fitting = [kind for kind in kinds if all(fits(kind, example) for example in examples)]
        return narrowed(fitting[0], examples) if len(fitting) == 1 else None
    kind = next((name for name in listed(schema.get("type")) if name != "null"), None)
    if kind == "array" and "items" in schema:
        items = narrowed(schema["items"], [item for example in examples or () for item in example or ()])
        return None if items is None else {"type": "array", "items": items}
    if kind == "object" and "properties" in schema:
        values = {name: [example.get(name) for example in examples if example] for name in schema["properties"]}
        fields = {name: narrowed(field, values[name]) for name, field in schema["properties"].items()}
        return None if None in fields.values() else {"type": "object", "properties": fields}
    if kind not in ("string", "number", "integer", "boolean"):
        return None
    return {"type": kind} | ({"format": FP32} if schema.get("format") == FP32 else {})


def listed(kind: JSON) -> list[str]:
    """Return the types that a schema allows as a list."""
    return kind if isinstance(kind, list) else [kind]


def fits(schema: JSON, value: JSON) -> bool:
    """Tell whether a value, and each element of a list, has the type of a schema."""
    if schema.get("type") == "array":
        return isinstance(value, list) and all(fits(schema["items"], item) for item in value)
    kinds = {"object": dict, "string": str, "number": float, "integer": int, "boolean": bool}
    return isinstance(value, kinds.get(schema.get("type"), ()))


def arrow(schema: JSON) -> Any:
    """Return the Arrow type of a schema without alternatives."""
    import pyarrow as pa

    if schema["type"] == "array":
        return pa.list_(arrow(schema["items"]))
    if schema["type"] == "object":
        return pa.struct({name: arrow(field) for name, field in schema["properties"].items()})
    if schema.get("format") == FP32:
        return pa.float32()
    return {"string": pa.string(), "number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_()}[schema["type"]]


def filled(schema: JSON, value: JSON) -> JSON:
    """Return an answer as Arrow reads it back: missing fields are null."""
    if schema["type"] == "array" and isinstance(value, list):
        return [filled(schema["items"], item) for item in value]
    if schema["type"] == "object" and isinstance(value, dict):
        missing = {name: None for name in schema["properties"] if name not in value}
        fields = schema["properties"]
        return {name: filled(fields.get(name, {"type": None}), item) for name, item in value.items()} | missing
    return value
