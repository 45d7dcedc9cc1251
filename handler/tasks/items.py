"""Read the texts of an item: what is accepted, and the JSON Schemas that say so."""

from __future__ import annotations

import re
from typing import Any

from handler.config import ServingConfig
from handler.errors import InputTooLong, InvalidInput
from handler.protocol import JSON, json_type
from handler.sequences import Text
from handler.tasks import parameters
from handler.tasks.parameters import Choice

MAX_PAIRS_FACTOR = 10  # characters of all pairs of one item, as a multiple of max_characters

# A character that is not white space, a control or ignorable (Default_Ignorable_Code_Point, BMP). A text without one
# has no tokens, and would get a confident label. Regular expressions of Python and of JSON Schema (ECMA 262)
# differ in \s, so the ranges are written out: one pattern for the answer and the schema.
VISIBLE = re.compile(
    r"[^\u0000-\u0020\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f"
    r"\u2028-\u202f\u205f-\u206f\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb]"
)


class ItemReader:
    """Read texts of at most `config.max_characters`."""

    def __init__(self, config: ServingConfig) -> None:
        self.config = config

    def read_fields(self, value: JSON, *names: str) -> dict[str, JSON]:
        """Return the fields of an item, which must be an object with no other fields; raises InvalidInput."""
        if not isinstance(value, dict):
            raise InvalidInput(f"a question must be an object with {' and '.join(names)}, got {json_type(value)}")
        parameters.refuse_unknown(value, names, "field")
        return {name: value.get(name) for name in names}

    def read_item(self, value: JSON) -> str:
        """Return the text of an item: a string, or an object with only a `text`. Raises RequestError."""
        return self.read_text(self.read_fields(value, "text")["text"] if isinstance(value, dict) else value)

    def read_typed_item(self, value: JSON, input_types: Choice) -> tuple[str, Any]:
        """Return the text of an item and its own `input_type`, None where it has none. Raises RequestError."""
        fields = self.read_fields(value, "text", "input_type") if isinstance(value, dict) else {"text": value}
        own = fields.get("input_type")
        return self.read_text(fields["text"]), None if own is None else input_types.read("input_type", own)

    def read_text_or_pair(self, value: JSON) -> Text:
        """Return the text or pair of an item: a string, or an object with `text` and optionally `text_pair`.

        Raises:
            RequestError: what is wrong with the item.
        """
        if not isinstance(value, dict):
            return self.read_text(value), None
        fields = self.read_fields(value, "text", "text_pair")
        pair = self.read_text(fields["text_pair"], "text_pair") if "text_pair" in value else None
        return self.read_text(fields["text"]), pair

    def limit_pairs(self, characters: int) -> None:
        """Refuse an item whose pairs, which repeat a text, have too many characters; raises InputTooLong."""
        limit = MAX_PAIRS_FACTOR * self.config.max_characters
        if characters > limit:
            raise InputTooLong(f"the pairs of a question have {characters} characters, accepted: at most {limit}")

    def read_text(self, value: JSON, name: str = "text") -> str:
        """Return a text that can be tokenised; raises InvalidInput or InputTooLong."""
        if not isinstance(value, str):
            raise InvalidInput(f"{name} must be a string, got {json_type(value)}")
        if not value.strip():
            raise InvalidInput(f"{name} is empty")
        if not VISIBLE.search(value):
            raise InvalidInput(f"{name} holds no visible character")
        if len(value) > self.config.max_characters:
            raise InputTooLong(f"{name} has {len(value)} characters, accepted: at most {self.config.max_characters}")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidInput(f"{name} holds half of a surrogate pair, which is no character")
        return value

    def read_texts(self, value: JSON, name: str) -> list[str]:
        """Return a list of texts; a string is a list of one. Raises InvalidInput or InputTooLong."""
        if isinstance(value, str):
            return [self.read_text(value, name)]
        if not isinstance(value, list) or not value:
            raise InvalidInput(f"{name} must be a list of strings, got {'none' if value == [] else json_type(value)}")
        return [self.read_text(text, f"{name}[{index}]") for index, text in enumerate(value)]

    def text_schema(self) -> dict[str, JSON]:
        """Describe a text as a JSON Schema."""
        return {"type": "string", "minLength": 1, "maxLength": self.config.max_characters, "pattern": VISIBLE.pattern}

    def item_schema(self, *optional: str) -> dict[str, JSON]:
        """Describe an item that is a text, or an object with `text` and `optional` fields, as a JSON Schema."""
        text = self.text_schema()
        fields = {"type": "object", "properties": dict.fromkeys(("text", *optional), text), "required": ["text"]}
        return {"oneOf": [text, {**fields, "additionalProperties": False}]}

    def typed_item_schema(self, input_types: Choice) -> dict[str, JSON]:
        """Describe an item that is a text, or an object with `text` and perhaps `input_type`, as a JSON Schema."""
        text = self.text_schema()
        fields = {"type": "object", "properties": {"text": text, "input_type": input_types.schema()}}
        return {"oneOf": [text, {**fields, "required": ["text"], "additionalProperties": False}]}
