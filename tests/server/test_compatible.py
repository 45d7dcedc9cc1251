"""OpenAI's `input`: texts, or token ids, as the clients that people use send them."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from handler.errors import ConfigError
from handler.protocol import JSON
from server.compatible import texts_of
from server.errors import ApiError
from server.openai_tokens import OpenAITokens

# Of cl100k_base, those that langchain-openai 1.7.4 sends for "Where is my parcel?" and "屏".
TOKENS = {9241: b"Where", 374: b" is", 856: b" my", 30409: b" parcel", 30: b"?", 23602: b"\xe5\xb1", 237: b"\x8f"}


@pytest.fixture
def vocabulary(tmp_path: Path) -> OpenAITokens:
    """Return a few tokens, read from a file as tiktoken has it."""
    file = tmp_path / "cl100k_base.tiktoken"
    file.write_text("".join(f"{base64.b64encode(token).decode()} {number}\n" for number, token in TOKENS.items()))
    return OpenAITokens.read(file)


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("a", ["a"]),
        (["a", ""], ["a", ""]),
        ([9241, 374, 856, 30409, 30], ["Where is my parcel?"]),
        ([[9241, 30], [23602, 237]], ["Where?", "屏"]),
        ([[23602]], ["\ufffd"]),
    ],
)
def test_texts_and_tokens_are_read(vocabulary: OpenAITokens, value: JSON, texts: list[str]) -> None:
    """One or many; half a character is a replacement character."""
    assert texts_of(value, vocabulary) == texts


@pytest.mark.parametrize(
    "value", [None, 7, [], [[]], ["a", 7], [7, "a"], [[7], "a"], [True], [[1.5]], {"a": 1}, [None]]
)
def test_anything_else_is_refused(vocabulary: OpenAITokens, value: JSON) -> None:
    """With the accepted types."""
    with pytest.raises(ApiError, match="input must be a string or a list of strings"):
        texts_of(value, vocabulary)


def test_tokens_of_an_unknown_vocabulary_are_refused(vocabulary: OpenAITokens) -> None:
    """Their numbers mean other words to the model: a silent answer would be wrong."""
    with pytest.raises(ApiError, match="check_embedding_ctx_length=False"):
        texts_of([[9241, 374]])
    with pytest.raises(ApiError, match=r"token id 8, which cl100k_base\.tiktoken has not"):
        texts_of([[9241, 8]], vocabulary)


@pytest.mark.parametrize("content", ["a b c", "IQ== x", "no base64! 1", "é 1"])
def test_another_file_is_no_vocabulary(tmp_path: Path, content: str) -> None:
    """The server does not start; the variable is named."""
    (tmp_path / "words").write_text(content, encoding="utf-8")
    for path in (tmp_path / "words", tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"SERVE_OPENAI_VOCABULARY=.*(no vocabulary of tiktoken|cannot be read)"):
            OpenAITokens.read(path)
