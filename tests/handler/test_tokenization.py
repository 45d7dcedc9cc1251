"""Tokens: exactly those of the model's own tokenizer, and nothing cut in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoTokenizer

from handler import tokenization
from handler.config import ServingConfig
from handler.errors import ConfigError, InputTooLong, InvalidInput, ModelMismatch
from handler.sequences import Encoding, EncodingOptions, Text, truncate
from handler.tokenization import Tokenizer
from tests.support.samples import BASE, TEXTS, MakeModel

LONG = "again and " * 400


def tokenizer(folder: Path, **settings: object) -> Tokenizer:
    """Load the tokenizer of a model folder with some settings."""
    return Tokenizer(folder, AutoConfig.from_pretrained(folder), ServingConfig(**settings))  # type: ignore[arg-type]


def encode(folder: Path, texts: list[Text], options: EncodingOptions | None = None, **settings: object) -> list[Any]:
    """Encode texts with the same options; return the encoding of a text that has only one without a list."""
    all_options = [options or EncodingOptions()] * len(texts)
    encoded = tokenizer(folder, **settings).encode(texts, all_options)
    return [encoding[0] if isinstance(encoding, list) and len(encoding) == 1 else encoding for encoding in encoded]


@pytest.mark.parametrize("max_length", [512, 16, 5])
def test_tokens_equal_transformers(model_folder: Path, max_length: int) -> None:
    """Ids and segments equal those of a truncating call, for texts and pairs of every script."""
    texts: list[Text] = [(text, None) for text in TEXTS]
    texts += [(text, other) for text, other in zip(TEXTS, TEXTS[::-1], strict=True)]
    reference = AutoTokenizer.from_pretrained(model_folder)
    for (text, pair), encoded in zip(texts, encode(model_folder, texts, max_length=max_length), strict=True):
        expected = reference(text, pair, truncation="longest_first", max_length=max_length)
        assert isinstance(encoded, Encoding)
        assert encoded.ids == expected["input_ids"]
        assert encoded.type_ids == expected["token_type_ids"]


@pytest.fixture(scope="module")
def backend() -> Any:
    """Return the base model's tokenizer of `tokenizers`, without padding."""
    backend = AutoTokenizer.from_pretrained(BASE).backend_tokenizer
    backend.no_padding()
    return backend


@settings(derandomize=True, deadline=None)
@given(
    first=st.integers(1, 30),
    second=st.integers(0, 30),
    max_tokens=st.integers(6, 40),
    side=st.sampled_from(["left", "right"]),
)
def test_truncation_equals_that_of_tokenizers(
    backend: Any, first: int, second: int, max_tokens: int, side: Any
) -> None:
    """The same tokens are kept as by the truncation of `tokenizers`, which is too slow for long pairs."""
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"] * 3
    text = " ".join(words[:first])
    text_or_pair = (text, " ".join(words[::-1][:second])) if second else text
    backend.no_truncation()
    (full,) = backend.encode_batch([text_or_pair])
    kept = (
        truncate(full.sequence_ids, max_tokens, truncation_side=side)
        if len(full.ids) > max_tokens
        else range(len(full.ids))
    )
    backend.enable_truncation(max_tokens, strategy="longest_first", direction=side)
    (expected,) = backend.encode_batch([text_or_pair])
    assert [full.ids[index] for index in kept] == expected.ids
    assert [full.type_ids[index] for index in kept] == expected.type_ids


def test_a_long_pair_is_cheap(model_folder: Path) -> None:
    """Twice 100,000 characters need neither a gigabyte nor minutes; every token is accounted for."""
    (encoded,) = encode(model_folder, [("a " * 50_000, "b " * 50_000)])
    assert isinstance(encoded, Encoding)
    assert (len(encoded), encoded.n_truncated) == (512, 100_003 - 512)


@pytest.mark.parametrize("spans", [True, False])
@pytest.mark.parametrize("strategy", ["only_first", "only_second"])
@pytest.mark.parametrize(("max_length", "stride"), [(40, 0), (40, 12), (512, 128)])
def test_windows_equal_transformers(
    model_folder: Path, max_length: int, stride: int, strategy: Any, spans: bool
) -> None:
    """Tokens, segments, offsets, word and sequence ids of every window, for long texts and pairs of every script."""
    reference = AutoTokenizer.from_pretrained(model_folder)
    long = " ".join(TEXTS)
    short = TEXTS[0]
    pairs: list[Text] = [(long, short), (long, None)] if strategy == "only_first" else [(short, long)]
    for text, pair in pairs:
        options = EncodingOptions("window", strategy, stride, return_spans=spans)
        (encoded,) = encode(model_folder, [(text, pair)], options, max_length=max_length)
        expected = reference(
            text,
            pair,
            truncation=strategy,
            max_length=max_length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        assert len(encoded) > 1
        assert [encoding.ids for encoding in encoded] == expected["input_ids"]
        assert [encoding.type_ids for encoding in encoded] == expected["token_type_ids"]
        assert [encoding.n_truncated for encoding in encoded] == [0] * len(encoded)
        if spans:
            assert [encoding.spans.offsets for encoding in encoded] == expected["offset_mapping"]
            assert [encoding.spans.word_ids for encoding in encoded] == [
                expected.word_ids(i) for i in range(len(encoded))
            ]
            assert [encoding.spans.sequence_ids for encoding in encoded] == [
                expected.sequence_ids(i) for i in range(len(encoded))
            ]


def test_windows_lose_nothing_whatever_is_asked(model_folder: Path) -> None:
    """Strides beyond half a window are held to it, and the longer text of a pair is split."""
    for stride in (0, 1, 100, 10_000):
        for pair in ((LONG, "a b"), ("a b", LONG), (LONG, None)):
            options = EncodingOptions("window", stride=stride, max_length=30, return_spans=True)
            (encoded,) = encode(model_folder, [pair], options)
            split_id = int(pair[0] != LONG)
            seen = {
                offsets
                for encoding in encoded
                for offsets, sequence_id in zip(encoding.spans.offsets, encoding.spans.sequence_ids, strict=True)
                if sequence_id == split_id
            }
            assert len(seen) == 800
            assert all(len(encoding) <= 30 for encoding in encoded)
            assert len(encoded) <= 800 / 12 + 1


def test_a_long_question_leaves_tokens_for_its_context(model_folder: Path) -> None:
    """The first text keeps `max_first` tokens, and never more than half of a sequence."""
    options = EncodingOptions("window", "only_second", 4, max_length=30, max_first=64, return_spans=True)
    (encoded,) = encode(model_folder, [(LONG, LONG)], options)
    assert {encoding.spans.sequence_ids.count(0) for encoding in encoded} == {13}
    assert encoded[0].n_truncated == 800 - 13
    (short,) = encode(model_folder, [("a b c", "d")], EncodingOptions("window", "only_second", max_first=2))
    assert (len(short), short.n_truncated) == (6, 1)


def test_a_tokenizer_of_another_model_is_refused(make_model: MakeModel) -> None:
    """A token without an embedding would fail on the first text that has it."""
    with pytest.raises(ModelMismatch, match="the tokenizer has a token 30521, the model only embeddings for 300"):
        tokenizer(make_model(vocab_size=300, whole_vocabulary=True))


def test_what_is_cut_is_counted(model_folder: Path) -> None:
    """800 words and two special tokens leave 302 out; the next short text loses nothing."""
    long, short = encode(model_folder, [(LONG, None), ("a", None)], max_length=500)
    assert isinstance(long, Encoding)
    assert isinstance(short, Encoding)
    assert (len(long), long.n_truncated) == (500, 302)
    assert (len(short), short.n_truncated) == (3, 0)


def test_refuse_harms_only_the_long_text(model_folder: Path) -> None:
    """Under `refuse` a long text is an error in its place."""
    encoded = encode(model_folder, [("a", None), (LONG, None), ("b", None)], EncodingOptions("refuse"))
    assert [type(encoding) for encoding in encoded] == [Encoding, InputTooLong, Encoding]
    assert str(encoded[1]) == "text has 802 tokens, accepted: at most 512"


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


@pytest.mark.parametrize("text", ["\uf0b7", "\u0301", "\ufffd", "\ue000 \ue001"], ids=ascii)
def test_a_text_without_a_token_is_refused(model_folder: Path, text: str) -> None:
    """BERT's normaliser deletes it, and an answer would come from special tokens alone; a pair names the text."""
    pairs: list[Text] = [(text, None), ("a", text), (text, "a"), (f"{text} a", None), ("a", "b")]
    results = encode(model_folder, pairs, EncodingOptions(fields=("query", "texts")))
    refusals = [str(result) for result in results if isinstance(result, InvalidInput)]
    assert refusals == [f"{field} holds nothing that this model reads" for field in ("query", "texts", "query")]
    assert all(isinstance(result, Encoding) for result in results[3:])


@pytest.mark.parametrize("spans", [True, False])
def test_few_texts_are_encoded_as_many(model_folder: Path, spans: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a call for each, or all in one: lone texts and pairs of every script, windows of a long one."""
    texts: list[Text] = [*((text, None) for text in TEXTS), *zip(TEXTS, TEXTS[::-1], strict=True), (LONG, None)]
    options = EncodingOptions("window", stride=8, return_spans=spans)
    apart = encode(model_folder, texts, options)
    monkeypatch.setattr(tokenization, "SERIAL_CHARACTERS", 0)
    for few, many in zip(apart, encode(model_folder, texts, options), strict=True):
        assert str(few) == str(many)
    assert isinstance(apart[-1], list)
