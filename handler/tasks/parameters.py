"""What a client may set beside a question: each parameter is declared once, read and documented from there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from handler.errors import InvalidInput
from handler.protocol import JSON, json_type


@dataclass(frozen=True, kw_only=True)
class Parameter(ABC):
    """One parameter; null stands for the default, and where `null` says so, for itself."""

    default: Any = None
    null: bool = False
    about: str = ""

    @abstractmethod
    def read(self, name: str, value: JSON) -> Any:
        """Return a value that fits; raises InvalidInput."""

    @abstractmethod
    def schema(self) -> dict[str, JSON]:
        """Describe what fits as a JSON Schema."""

    def document(self) -> dict[str, JSON]:
        """Describe the parameter as a JSON Schema, for OpenAPI."""
        schema = self.schema()
        if kinds := schema.get("type"):
            schema["type"] = [*(kinds if isinstance(kinds, list) else [kinds]), "null"]
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
        default = {"default": self.default} if self.default is not None else {}
        return {**schema, **default, **({"description": self.about} if self.about else {})}


@dataclass(frozen=True, kw_only=True)
class Integer(Parameter):
    """A whole number."""

    least: int = 1
    most: int | None = None

    def read(self, name: str, value: JSON) -> int:
        if type(value) is not int or value < self.least or (self.most is not None and value > self.most):
            bounds = f"of {self.least} or more" if self.most is None else f"from {self.least} to {self.most}"
            null = f", or null: {self.about}" if self.null else ""
            got = value if type(value) is int else json_type(value)
            raise InvalidInput(f"{name} must be a whole number {bounds}{null}, got {got}")
        return value

    def schema(self) -> dict[str, JSON]:
        most = {} if self.most is None else {"maximum": self.most}
        return {"type": "integer", "minimum": self.least, **most}


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
    """One of a few words."""

    accepted: tuple[str, ...]

    def read(self, name: str, value: JSON) -> str:
        if not isinstance(value, str) or value not in self.accepted:
            raise InvalidInput(f"{name} must be one of {', '.join(self.accepted)}")
        return value

    def schema(self) -> dict[str, JSON]:
        return {"type": "string", "enum": list(self.accepted)}


@dataclass(frozen=True, kw_only=True)
class StringList(Parameter):
    """A list of strings; where `alone` says so, also a string: the only one, or several between commas."""

    alone: Literal["refused", "one", "commas"] = "refused"

    def read(self, name: str, value: JSON) -> list[str]:
        if isinstance(value, str) and self.alone != "refused":
            return [value] if self.alone == "one" else [word.strip() for word in value.split(",") if word.strip()]
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            strings = {"refused": "", "one": " or one string", "commas": " or one string with commas between them"}
            raise InvalidInput(f"{name} must be a list of strings{strings[self.alone]}")
        return value

    def schema(self) -> dict[str, JSON]:
        return {"type": "array" if self.alone == "refused" else ["array", "string"], "items": {"type": "string"}}


@dataclass(frozen=True, kw_only=True)
class AnyValue(Parameter):
    """Any value; who uses it says what fits."""

    def read(self, name: str, value: JSON) -> JSON:
        return value

    def schema(self) -> dict[str, JSON]:
        return {}


def read(accepted: Mapping[str, Parameter], given: Mapping[str, JSON]) -> dict[str, Any]:
    """Return every accepted parameter, given or by default.

    Raises:
        InvalidInput: a value that does not fit, or a parameter that nobody would obey.

    >>> read({"top_k": Integer(default=5)}, {"top_k": 2}), read({"top_k": Integer(default=5)}, {})
    ({'top_k': 2}, {'top_k': 5})
    """
    refuse_unknown(given, tuple(accepted), "parameter")
    found = {}
    for name, parameter in accepted.items():
        value = given.get(name)
        if value is not None:
            found[name] = parameter.read(name, value)
        else:
            found[name] = None if parameter.null and name in given else parameter.default
    return found


def refuse_unknown(given: Mapping[str, JSON], accepted: Sequence[str], what: str) -> None:
    """Refuse a key that nobody would obey; its name is not repeated, for it may be a user's text."""
    if any(key not in accepted for key in given):
        said = ", ".join(accepted) if accepted else "none"
        raise InvalidInput(f"unknown {what}, accepted: {said}")
