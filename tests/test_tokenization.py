"""Tokens: exactly those of the model's own tokenizer, and nothing cut in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoTokenizer

from handler.config import ServingConfig
from handler.errors import ConfigError, InputTooLong, ModelMismatch
from handler.tokenization import Encoding, Text, Tokenizer, cut
from tests.samples import BASE, TEXTS, MakeModel

LONG = "again and " * 400


def tokenizer(folder: Path, **settings: object) -> Tokenizer:
    """Load the tokenizer of a model folder with some settings."""
    return Tokenizer(folder, AutoConfig.from_pretrained(folder), ServingConfig(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("max_length", [512, 16, 5])
def test_tokens_equal_transformers(model_folder: Path, max_length: int) -> None:
    """Ids and segments equal those of a truncating call, for texts and pairs of every script."""
    texts: list[Text] = [(text, None) for text in TEXTS]
    texts += [(text, other) for text, other in zip(TEXTS, TEXTS[::-1], strict=True)]
    reference = AutoTokenizer.from_pretrained(BASE)
    for (text, pair), found in zip(texts, tokenizer(model_folder, max_length=max_length).encode(texts), strict=True):
        expected = reference(text, pair, truncation="longest_first", max_length=max_length)
        assert isinstance(found, Encoding)
        assert found.ids == expected["input_ids"]
        assert found.type_ids == expected["token_type_ids"]


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 30), st.integers(0, 30), st.integers(6, 40), st.sampled_from(["left", "right"]))
def test_cutting_equals_the_librarys_own(first: int, second: int, room: int, side: str) -> None:
    """The same tokens stay as with the truncation of `tokenizers`, which is too dear for long pairs."""
    backend = AutoTokenizer.from_pretrained(BASE).backend_tokenizer
    backend.no_padding()
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"] * 3
    text = " ".join(words[:first])
    question = (text, " ".join(words[::-1][:second])) if second else text
    backend.no_truncation()
    (whole,) = backend.encode_batch([question])
    kept = cut(whole.sequence_ids, room, tail=side == "right") if len(whole.ids) > room else range(len(whole.ids))
    backend.enable_truncation(room, strategy="longest_first", direction=side)
    (expected,) = backend.encode_batch([question])
    assert [whole.ids[place] for place in kept] == expected.ids
    assert [whole.type_ids[place] for place in kept] == expected.type_ids


def test_a_long_pair_is_cheap(model_folder: Path) -> None:
    """Twice 100,000 characters need neither a gigabyte nor minutes; every token is accounted for."""
    (found,) = tokenizer(model_folder).encode([("a " * 50_000, "b " * 50_000)])
    assert isinstance(found, Encoding)
    assert (len(found), found.n_truncated) == (512, 100_003 - 512)


def test_a_tokenizer_of_another_model_is_refused(make_model: MakeModel) -> None:
    """A token without an embedding would fail on the first text that has it."""
    with pytest.raises(ModelMismatch, match="the tokenizer has a token 30521, the model only embeddings for 300"):
        tokenizer(make_model(vocab_size=300))


def test_what_is_cut_is_counted(model_folder: Path) -> None:
    """800 words and two special tokens leave 302 out; the next short text loses nothing."""
    long, short = tokenizer(model_folder, max_length=500).encode([(LONG, None), ("a", None)])
    assert isinstance(long, Encoding)
    assert isinstance(short, Encoding)
    assert (len(long), long.n_truncated) == (500, 302)
    assert (len(short), short.n_truncated) == (3, 0)


def test_refuse_harms_only_the_long_text(model_folder: Path) -> None:
    """Under `refuse` a long text is an error in its place."""
    found = tokenizer(model_folder, overflow="refuse").encode([("a", None), (LONG, None), ("b", None)])
    assert [type(one) for one in found] == [Encoding, InputTooLong, Encoding]
    assert str(found[1]) == "text has 802 tokens, accepted: at most 512"


def test_more_than_the_model_reads_is_refused_at_start(model_folder: Path) -> None:
    """Beyond the position embeddings the first long text would crash; too short, no text would be read at all."""
    for length in (4, 513):
        with pytest.raises(ConfigError, match=rf"max_length is {length}, but this model reads 5 to 512 tokens"):
            tokenizer(model_folder, max_length=length)


def test_roberta_reads_less_than_its_positions(make_model: MakeModel) -> None:
    """Its positions begin after the padding id: 80 positions hold 78 tokens."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    folder = make_model(
        architecture=RobertaForSequenceClassification,
        config_class=RobertaConfig,
        max_position_embeddings=80,
        pad_token_id=1,
        type_vocab_size=1,
    )
    assert tokenizer(folder).max_length == 78


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path, model_folder: Path) -> None:
    """The message says what is missing."""
    (tmp_path / "config.json").write_bytes((model_folder / "config.json").read_bytes())
    with pytest.raises(ModelMismatch, match="tokenizer"):
        tokenizer(tmp_path)
