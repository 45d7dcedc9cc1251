"""The parameters of a request: each is declared once, which both validates values and documents them in OpenAPI."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from handler.errors import InvalidInput
from handler.protocol import JSON, json_type


@dataclass(frozen=True, kw_only=True)
class Parameter(ABC):
    """One parameter; null means the default, unless `nullable` makes it a value of its own."""

    default: Any = None
    nullable: bool = False
    description: str = ""

    @abstractmethod
    def read(self, name: str, value: JSON) -> Any:
        """Return a valid value; raises InvalidInput."""

    @abstractmethod
    def schema(self) -> dict[str, JSON]:
        """Return the JSON Schema of valid values."""

    def document(self) -> dict[str, JSON]:
        """Return the JSON Schema of the parameter for OpenAPI: with null, default and description."""
        schema = self.schema()
        if types := schema.get("type"):
            schema["type"] = [*(types if isinstance(types, list) else [types]), "null"]
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
        default = {"default": self.default} if self.default is not None else {}
        return {**schema, **default, **({"description": self.description} if self.description else {})}


@dataclass(frozen=True, kw_only=True)
class Integer(Parameter):
    """A whole number with bounds, both included."""

    ge: int = 1
    le: int | None = None

    def read(self, name: str, value: JSON) -> int:
        if type(value) is float and value.is_integer() and abs(value) < 2**53:  # JSON Schema has 3.0 as an integer
            value = int(value)
        if type(value) is not int or value < self.ge or (self.le is not None and value > self.le):
            bounds = f"of {self.ge} or more" if self.le is None else f"from {self.ge} to {self.le}"
            null = f", or null: {self.description}" if self.nullable else ""
            got = value if type(value) is int else json_type(value)
            raise InvalidInput(f"{name} must be a whole number {bounds}{null}, got {got}")
        return value

    def schema(self) -> dict[str, JSON]:
        maximum = {} if self.le is None else {"maximum": self.le}
        return {"type": "integer", "minimum": self.ge, **maximum}


@dataclass(frozen=True, kw_only=True)
class Share(Parameter):
    """A number above 0 and at most 1; with `below_one` below 1."""

    below_one: bool = False

    def read(self, name: str, value: JSON) -> float:
        if type(value) not in (int, float) or not 0 < value <= 1 or (self.below_one and value == 1):
            bound = "below 1" if self.below_one else "at most 1"
            got = value if type(value) in (int, float) else json_type(value)
            raise InvalidInput(f"{name} must be a number above 0 and {bound}, got {got}")
        return float(value)

    def schema(self) -> dict[str, JSON]:
        return {"type": "number", "exclusiveMinimum": 0, ("exclusiveMaximum" if self.below_one else "maximum"): 1}


@dataclass(frozen=True, kw_only=True)
class Boolean(Parameter):
    """true or false."""

    def read(self, name: str, value: JSON) -> bool:
        if type(value) is not bool:
            raise InvalidInput(f"{name} must be true or false, got {json_type(value)}")
        return value

    def schema(self) -> dict[str, JSON]:
        return {"type": "boolean"}


@dataclass(frozen=True, kw_only=True)
class Choice(Parameter):
    """One of several strings."""

    accepted: tuple[str, ...]

    def read(self, name: str, value: JSON) -> str:
        if not isinstance(value, str) or value not in self.accepted:
            raise InvalidInput(f"{name} must be one of {', '.join(self.accepted)}")
        return value

    def schema(self) -> dict[str, JSON]:
        return {"type": "string", "enum": list(self.accepted)}


@dataclass(frozen=True, kw_only=True)
class String(Parameter):
    """Any string."""

    def read(self, name: str, value: JSON) -> str:
        if not isinstance(value, str):
            raise InvalidInput(f"{name} must be a string, got {json_type(value)}")
        return value

    def schema(self) -> dict[str, JSON]:
        return {"type": "string"}


@dataclass(frozen=True, kw_only=True)
class StringList(Parameter):
    """A list of strings; `string` tells whether a single string is accepted, as one element or as several by commas."""

    string: Literal["refused", "one", "commas"] = "refused"

    def read(self, name: str, value: JSON) -> list[str]:
        if isinstance(value, str) and self.string != "refused":
            return [value] if self.string == "one" else [word.strip() for word in value.split(",") if word.strip()]
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            strings = {"refused": "", "one": " or one string", "commas": " or one string with commas between them"}
            raise InvalidInput(f"{name} must be a list of strings{strings[self.string]}")
        return value

    def schema(self) -> dict[str, JSON]:
        return {"type": "array" if self.string == "refused" else ["array", "string"], "items": {"type": "string"}}


@dataclass(frozen=True, kw_only=True)
class AnyValue(Parameter):
    """Any value, validated where it is used."""

    def read(self, name: str, value: JSON) -> JSON:
        return value

    def schema(self) -> dict[str, JSON]:
        return {}


def read(accepted: Mapping[str, Parameter], values: Mapping[str, JSON]) -> dict[str, Any]:
    """Return the value of every accepted parameter, or its default.

    Raises:
        InvalidInput: a value that is not valid, or an unknown parameter.

    >>> read({"top_k": Integer(default=5)}, {"top_k": 2}), read({"top_k": Integer(default=5)}, {})
    ({'top_k': 2}, {'top_k': 5})
    """
    refuse_unknown(values, tuple(accepted), "parameter")
    result = {}
    for name, parameter in accepted.items():
        value = values.get(name)
        if value is not None:
            result[name] = parameter.read(name, value)
        else:
            result[name] = None if parameter.nullable and name in values else parameter.default
    return result


def refuse_unknown(value: Mapping[str, JSON], accepted: Sequence[str], noun: str) -> None:
    """Refuse an object with an unknown key; the key is not quoted, because it may be a user's text."""
    if any(key not in accepted for key in value):
        names = ", ".join(accepted) if accepted else "none"
        raise InvalidInput(f"unknown {noun}, accepted: {names}")
