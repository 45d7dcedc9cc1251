"""Texts without a visible character: 422 by the answer and by the schema, whatever regular expressions call a blank."""

from __future__ import annotations

import sys
import unicodedata
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from handler.predictor import Predictor
from tests.support.samples import ask, response_json

NO_TOKEN = "text holds nothing that this model reads"
BMP = [chr(code) for code in range(0x10000) if not 0xD800 <= code <= 0xDFFF]
BLANK = {
    "Python's white space": [character for character in map(chr, range(sys.maxunicode)) if character.isspace()],
    "controls": [character for character in BMP if unicodedata.category(character) == "Cc"],
    "ECMAScript's white space": [
        *"\t\v\f \u00a0\ufeff\u1680\u2028\u2029\u202f\u205f\u3000",
        *map(chr, range(0x2000, 0x200B)),
    ],
    "zero width": [*"\u00ad\u034f\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202e\u2060\u2064\u2066\u2069\ufeff"],
    "fillers": [*"\u115f\u1160\u3164\uffa0"],
    "variation selectors": [*"\u180b\ufe00\ufe0f"],
}


def is_answered(predictor: Predictor, text: str) -> bool:
    """Return whether a text is answered; the other status is 422."""
    (response,) = ask(predictor, text)
    assert response.status in (200, 422)
    return response.status == 200


@pytest.mark.parametrize("characters", BLANK.values(), ids=BLANK)
def test_a_text_without_a_visible_character_is_refused(predictor: Predictor, characters: list[str]) -> None:
    """Alone, and all of them together; beside a letter they are read."""
    schema = Draft202012Validator(predictor.task.text_schema())
    responses = ask(predictor, *characters, "".join(characters))
    assert {response.status for response in responses} == {422}
    assert {response_json(response)["message"] for response in responses} <= {
        "text is empty",
        "text holds no visible character",
    }
    assert not any(map(schema.is_valid, characters))
    assert is_answered(predictor, "a" + "".join(characters))
    assert schema.is_valid("a" + "".join(characters))


@pytest.mark.parametrize("text", ["a", "屏", "🙂", "\u2800", "。"])
def test_any_other_character_is_a_text(predictor: Predictor, text: str) -> None:
    """A letter, a sign or an unknown character."""
    assert is_answered(predictor, text)
    assert Draft202012Validator(predictor.task.text_schema()).is_valid(text)


@pytest.mark.parametrize("text", ["\u0301", "\u06dd", "\ufffd", "\ue000", "\U0001d173"], ids=ascii)
def test_what_the_normaliser_deletes_is_no_text(predictor: Predictor, text: str) -> None:
    """BERT's deletes marks, formats and private use, so that no token is left; the schema cannot know the tokenizer."""
    (response,) = ask(predictor, text)
    assert (response.status, response_json(response)["message"]) == (422, NO_TOKEN)
    assert Draft202012Validator(predictor.task.text_schema()).is_valid(text)
    assert is_answered(predictor, f"a{text}")


def test_schema_and_answer_agree(predictor: Predictor) -> None:
    """On every 37th character of the BMP that has a token."""
    schema: Any = Draft202012Validator(predictor.task.text_schema())
    characters = BMP[::37]
    for character, response in zip(characters, ask(predictor, *characters), strict=True):
        if response.status == 422 and response_json(response)["message"] == NO_TOKEN:
            assert schema.is_valid(character), f"U+{ord(character):04X}"
        else:
            assert (response.status == 200) is schema.is_valid(character), f"U+{ord(character):04X}"
