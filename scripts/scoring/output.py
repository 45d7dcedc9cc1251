"""The file of one part: who a row is, and its answer or its error, as JSON lines or as Parquet.

In Parquet an answer has the columns that the task's own schema gives it; answers of several shapes, e.g. of texts with
one mask and with two, are JSON texts. Ids are texts there, for JSON has ids of any type.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler.protocol import JSON
from scripts.cli.console import ScriptError
from scripts.client.answers import is_error, json_line
from scripts.scoring.corpus import Row


@dataclass(frozen=True)
class Answered:
    """What a file says of a row when it is read back."""

    file: str
    row: int
    error: str  # its type, or nothing


class Output(ABC):
    """A form of output."""

    suffix: str

    @abstractmethod
    def write(self, path: Path, file: str, rows: Sequence[Row], answers: Sequence[JSON], shape: Shape) -> None:
        """Write the rows of one part of an input file."""

    @abstractmethod
    def read(self, path: Path) -> Iterator[Answered]:
        """Read back which rows a file has."""


@dataclass(frozen=True)
class Shape:
    """What the answers of a task look like, and whether rows have ids of their own."""

    answer: str  # the JSON Schema of an answer, as text; empty: several shapes
    ids: bool

    @classmethod
    def of(cls, schema: JSON, examples: Sequence[JSON], *, ids: bool) -> Shape:
        """Find the shape that a schema and answers to examples have in common."""
        kind = narrowed(schema, examples)
        if kind is not None:
            import pyarrow as pa

            try:
                kept = pa.array(list(examples), type=arrow(kind)).to_pylist() == [filled(kind, one) for one in examples]
            except pa.ArrowException:
                kept = False
            kind = kind if kept else None
        return cls("" if kind is None else json.dumps(kind, sort_keys=True), ids)


class Lines(Output):
    """JSON lines."""

    suffix = ".jsonl"

    def write(self, path: Path, file: str, rows: Sequence[Row], answers: Sequence[JSON], shape: Shape) -> None:
        with path.open("wb") as output:
            for row, answer in zip(rows, answers, strict=True):
                who = {"file": file, "row": row.number} | ({"id": row.id} if shape.ids else {})
                output.write(json_line(who | (answer if is_error(answer) else {"answer": answer})))

    def read(self, path: Path) -> Iterator[Answered]:
        with path.open("rb") as file:
            for line in file:
                told = json.loads(line)
                error = told["error"]["type"] if is_error(told) else "" if "answer" in told else "neither"
                yield Answered(told["file"], told["row"], error)


class Parquet(Output):
    """Columns."""

    suffix = ".parquet"

    def write(self, path: Path, file: str, rows: Sequence[Row], answers: Sequence[JSON], shape: Shape) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        good: list[JSON] = [None if is_error(answer) else answer for answer in answers]
        if not shape.answer:
            good = [None if answer is None else json.dumps(answer, ensure_ascii=False) for answer in good]
        error = {"code": pa.int64(), "type": pa.string(), "message": pa.string()}
        columns: dict[str, tuple[list[JSON], Any]] = {
            "file": ([file] * len(rows), pa.string()),
            "row": ([row.number for row in rows], pa.int64()),
            "answer": (good, arrow(json.loads(shape.answer)) if shape.answer else pa.string()),
            "error": ([answer["error"] if is_error(answer) else None for answer in answers], pa.struct(error)),
        }
        if shape.ids:
            ids = [one if isinstance(one, str | None) else json.dumps(one) for one in (row.id for row in rows)]
            columns["id"] = (ids, pa.string())
        try:
            table = pa.table({name: pa.array(values, type=kind) for name, (values, kind) in columns.items()})
        except (pa.ArrowException, UnicodeEncodeError) as problem:  # its words would quote an answer
            raise ScriptError(f"answers that do not fit into columns ({type(problem).__name__}): use jsonl") from None
        pq.write_table(table, path, compression="zstd")

    def read(self, path: Path) -> Iterator[Answered]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            table = file.read(columns=["file", "row", "error.type"])
        for told in table.to_pylist():
            error = told["error"]["type"] if told["error"] else ""
            yield Answered(told["file"], told["row"], error)


OUTPUTS: dict[str, Output] = {"parquet": Parquet(), "jsonl": Lines()}


# --- from JSON Schema to columns ----------------------------------------------------------------------------------


def narrowed(schema: JSON, examples: Sequence[JSON]) -> JSON | None:
    """Return a schema without alternatives, or None where the examples need several of them.

    Objects that differ become one with the fields of both.

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
    kind = next((one for one in listed(schema.get("type")) if one != "null"), None)
    if kind == "array" and "items" in schema:
        items = narrowed(schema["items"], [item for example in examples or () for item in example or ()])
        return None if items is None else {"type": "array", "items": items}
    if kind == "object" and "properties" in schema:
        of = {name: [one.get(name) for one in examples if one] for name in schema["properties"]}
        fields = {name: narrowed(field, of[name]) for name, field in schema["properties"].items()}
        return None if None in fields.values() else {"type": "object", "properties": fields}
    return {"type": kind} if kind in ("string", "number", "integer", "boolean") else None


def listed(kind: JSON) -> list[str]:
    """Return the types that a schema allows as a list."""
    return kind if isinstance(kind, list) else [kind]


def fits(schema: JSON, value: JSON) -> bool:
    """Tell whether a value is of the type that a schema names; of a list, its elements too."""
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
    return {"string": pa.string(), "number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_()}[schema["type"]]


def filled(schema: JSON, value: JSON) -> JSON:
    """Return an answer as it comes back from its columns: fields that it does not have are null."""
    if schema["type"] == "array" and isinstance(value, list):
        return [filled(schema["items"], item) for item in value]
    if schema["type"] == "object" and isinstance(value, dict):
        missing = {name: None for name in schema["properties"] if name not in value}
        fields = schema["properties"]
        return {name: filled(fields.get(name, {"type": None}), one) for name, one in value.items()} | missing
    return value
