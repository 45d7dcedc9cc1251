"""OpenAI's `input`: texts, or token ids, as the clients that people use send them."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import httpx
import pytest

from handler.errors import ConfigError
from handler.protocol import JSON
from server.compatible import Compatible, openai_error, texts_of
from server.errors import ApiError
from server.metrics import MetricsRegistry
from server.openai_tokens import OpenAITokens
from server.registry import ModelRegistry
from server.settings import ServerSettings
from server.transport import RouteHandler

# Of cl100k_base, those that langchain-openai 1.7.4 sends for "Where is my parcel?" and "屏".
TOKENS = {9241: b"Where", 374: b" is", 856: b" my", 30409: b" parcel", 30: b"?", 23602: b"\xe5\xb1", 237: b"\x8f"}

SETTINGS = ServerSettings({})


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


def test_token_ids_stand_for_no_more_than_a_body_may_hold(vocabulary: OpenAITokens) -> None:
    """An id of three digits may be a text of 128 blanks: all together count as if the texts had been sent."""
    ids: JSON = [[30409] * 100, [374] * 10]
    assert texts_of(ids, vocabulary, 730) == [" parcel" * 100, " is" * 10]
    with pytest.raises(ApiError, match=r"have more than 729 bytes \(max_request_size\)"):
        texts_of(ids, vocabulary, 729)


def test_the_route_bounds_what_token_ids_stand_for(
    mar: Path, tmp_path: Path, vocabulary: OpenAITokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the limit of a body, before anything is made of it."""
    monkeypatch.setattr(OpenAITokens, "decode", lambda *_: pytest.fail("made"))

    async def ask() -> httpx.Response:
        compatible = Compatible(ModelRegistry(mar.parent, tmp_path, SETTINGS, MetricsRegistry()), 1000, vocabulary)
        route = RouteHandler(compatible.embeddings, MetricsRegistry(), openai_error)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(route), base_url="http://test") as client:
            return await client.post("/", json={"model": "tiny", "input": [30409] * 144})

    answer = asyncio.run(ask())
    assert answer.status_code == 400
    assert "more than 1000 bytes (max_request_size)" in answer.json()["error"]["message"]


@pytest.mark.parametrize("content", ["a b c", "IQ== x", "no base64! 1", "é 1"])
def test_another_file_is_no_vocabulary(tmp_path: Path, content: str) -> None:
    """The server does not start; the variable is named."""
    (tmp_path / "words").write_text(content, encoding="utf-8")
    for path in (tmp_path / "words", tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"SERVE_OPENAI_VOCABULARY=.*(no vocabulary of tiktoken|cannot be read)"):
            OpenAITokens.read(path)
