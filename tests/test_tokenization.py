"""Tokens: exactly those of the model's own tokenizer, and nothing cut in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from handler.config import ServingConfig
from handler.errors import ConfigError, InputTooLong, ModelMismatch
from handler.tokenization import Encoding, Text, Tokenizer
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
