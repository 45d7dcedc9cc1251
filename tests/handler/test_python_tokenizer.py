"""Tokenizers that transformers has in Python alone: the tokens are those of their class, each found in its text."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import transformers

from handler.alignment import align, mark_of
from handler.config import ModelConfig, ServingConfig
from handler.engine.config_problems import read_config
from handler.errors import ModelMismatch
from handler.loading import load_predictor
from handler.python_tokenizer import converted
from handler.sequences import EncodingOptions, Text
from handler.tokenization import Tokenizer, as_in_file, load_tokenizer
from scripts.archives.build import ArchiveContents, build
from tests.support.python_tokenizers import KINDS, make_folder
from tests.support.samples import TEXTS, ask, response_json
from tests.support.tokenizers import DIFFICULT_TEXTS, NAMES

OWN = [
    "東京 に行く人間。ＡＢc カﾅー",
    "hello @bob http://x.y/z can't hel 😀 lo… n't",
    "MKTAYIAK <mask> QRQ",
    "[MASK] 東京[MASK]a <mask> a </s>",
    "今天天气非常好。",
    "\n\n",
    "",
]
JAPANESE, TWEET = OWN[:2]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model folder of one kind of tokenizer."""
    return make_folder(request.param, tmp_path_factory.mktemp(request.param) / "model")


def served(folder: Path) -> Tokenizer:
    """Return the tokenizer of a folder as a worker has it."""
    return Tokenizer(folder, read_config(folder), ServingConfig())


def spans(tokenizer: Tokenizer, text: str) -> list[tuple[str, str, int | None]]:
    """Return each token with the characters that it was made of, and its word."""
    (encodings,) = tokenizer.encode([(text, None)], [EncodingOptions(return_spans=True)])
    assert isinstance(encodings, list)
    assert encodings[0].spans
    places = zip(encodings[0].ids, encodings[0].spans.offsets, encodings[0].spans.word_ids, strict=True)
    return [(tokenizer.id_to_token(number), text[start:end], word) for number, (start, end), word in places]


@pytest.mark.parametrize("folder", [kind for kind in KINDS if kind != "roformer"], indirect=True)
@pytest.mark.parametrize("pair", [None, "hello 東京 the L A 今天"])
def test_tokens_are_those_of_the_class(folder: Path, pair: str | None) -> None:
    """Alone and beside others in a batch, with segment ids, for texts that are difficult to split."""
    plain: Any = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer = served(folder)
    texts = [text for text in [*OWN, *DIFFICULT_TEXTS, *NAMES, *TEXTS] if len(text) < 400]
    options = [EncodingOptions(return_spans=number % 2 == 0) for number in range(len(texts))]
    batch: list[Text] = [(text, pair) for text in texts]
    for text, encodings in zip(texts, tokenizer.encode(batch, options), strict=True):
        expected = plain(text, pair, return_token_type_ids=True)
        if isinstance(encodings, list):
            if len(expected["input_ids"]) <= tokenizer.max_length:
                assert encodings[0].ids == expected["input_ids"], text
                assert encodings[0].type_ids == expected["token_type_ids"], text
        else:  # refused, for it has no token of its own
            assert len(plain(text)["input_ids"]) == plain.num_special_tokens_to_add(pair=False), text


def test_every_token_lies_in_its_text(folder: Path) -> None:
    """Words are in order, and tokens within their word."""
    tokenizer = served(folder)
    for text in [*OWN[:5], *DIFFICULT_TEXTS, *NAMES]:
        (encodings,) = tokenizer.encode([(text, None)], [EncodingOptions(return_spans=True)])
        assert isinstance(encodings, list)
        assert encodings[0].spans
        words = [word for word in encodings[0].spans.word_ids if word is not None]
        assert words == sorted(words)
        starts = [start for start, end in encodings[0].spans.offsets[1:-1]]
        assert starts == sorted(starts)
        assert all(0 <= start <= end <= len(text) for start, end in encodings[0].spans.offsets)


def test_spans_of_japanese(tmp_path: Path) -> None:
    """MeCab's words are words; full and half width, case and unknown words keep their characters."""
    tokens = spans(served(make_folder("japanese-mecab", tmp_path / "model")), JAPANESE)[1:-1]
    assert tokens == [
        ("東京", "東京", 0),
        ("に", "に", 1),
        ("行く", "行く", 2),
        ("人", "人", 3),
        ("##間", "間", 3),
        ("。", "。", 4),
        ("[UNK]", "ＡＢc", 5),
        ("カ", "カ", 6),
        ("##ナ", "ﾅ", 6),
        ("ー", "ー", 7),
    ]


def test_spans_of_a_tweet(tmp_path: Path) -> None:
    """What the tokenizer writes in the place of a user, an address and an emoji has their characters."""
    tokens = spans(served(make_folder("bertweet", tmp_path / "model")), TWEET)[1:-1]
    places = {text for _, text, _ in tokens}
    assert {"@bob", "http://x.y/z", "😀"} <= places
    assert tokens[0] == ("hello", "hello", 0)


def test_roformer_splits_words_by_jieba(tmp_path: Path) -> None:
    """From vocab.txt and from tokenizer.json, which cannot hold the split, alike."""
    folder = make_folder("roformer", tmp_path / "model")
    expected = ["[CLS]", "今", "天", "天", "气", "非常", "好", "。", "[SEP]"]
    assert [token for token, _, _ in spans(served(folder), "今天天气非常好。")] == expected
    as_in_file(folder / "tokenizer.json", load_tokenizer(folder)).save_pretrained(tmp_path / "saved")
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer.json").write_bytes((tmp_path / "saved" / "tokenizer.json").read_bytes())
    assert [token for token, _, _ in spans(served(folder), "今天天气非常好。")] == expected


def test_what_is_saved_makes_the_same_tokens(folder: Path, tmp_path: Path) -> None:
    """As training saves it. transformers itself writes merges of BERTweet that it cannot read again."""
    tokenizer: Any = as_in_file(folder / "tokenizer.json", load_tokenizer(folder))
    tokenizer.save_pretrained(tmp_path)
    again: Any = as_in_file(tmp_path / "tokenizer.json", load_tokenizer(tmp_path))
    for text in OWN:
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert again.decode(tokenizer(text)["input_ids"]) == tokenizer.decode(tokenizer(text)["input_ids"])


@pytest.mark.parametrize("folder", ["japanese-mecab", "bertweet"], indirect=True)
def test_an_archive(folder: Path, tmp_path: Path) -> None:
    """The reference of transformers agrees, and a worker loads what was packed."""
    archive = build(ArchiveContents(folder, "odd", "1.0", ModelConfig()), tmp_path)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "unpacked")
    predictor = load_predictor(tmp_path / "unpacked")
    (answer,) = ask(predictor, JAPANESE)
    assert response_json(answer)[0]["label"] in ("no", "yes")


def test_entities_of_japanese(tmp_path: Path) -> None:
    """Words of MeCab, spelled as in the text."""
    predictor = load_predictor(make_folder("japanese-mecab", tmp_path / "model", "ForTokenClassification"))
    (answer,) = ask(predictor, {"inputs": JAPANESE, "parameters": {"aggregation_strategy": "first"}})
    entities = [(entity["word"], JAPANESE[entity["start"] : entity["end"]]) for entity in response_json(answer)]
    assert {("人間", "人間"), ("カナ", "カﾅ")} <= set(entities)


def test_broken_merges_are_refused(tmp_path: Path) -> None:
    """Those that transformers 5 saves have no counts, and every word would be split into characters."""
    folder = make_folder("bertweet", tmp_path / "model")
    transformers.BertweetTokenizer.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(ModelMismatch, match=r"cannot read bpe.codes: its merges have no counts"):
        load_tokenizer(folder)


def test_emoji_without_their_package_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would warn, and leave them as they are."""
    monkeypatch.setitem(sys.modules, "emoji", None)
    with pytest.raises(ModelMismatch, match=r"pip install emoji==0.6.0"):
        load_tokenizer(make_folder("bertweet", tmp_path / "model"))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With where it is needed."""
    folder = make_folder("japanese-mecab", tmp_path / "model")
    monkeypatch.setitem(sys.modules, "fugashi", None)
    with pytest.raises(ModelMismatch, match=r"fugashi.*; install it where the model is packed and where it is served"):
        load_tokenizer(folder)


def test_words_that_are_remembered_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes of BPE keep each word that they ever split."""
    monkeypatch.setattr("handler.python_tokenizer.CACHED_WORDS", 10)
    plain: Any = transformers.AutoTokenizer.from_pretrained(make_folder("phobert", tmp_path / "model"))
    tokenizer: Any = converted(plain)
    for number in range(40):
        tokenizer(f"word{number}")
    assert len(plain.cache) <= 11


@pytest.mark.parametrize(
    ("text", "tokens", "mark", "expected"),
    [
        ("Bücher x!", ["buch", "##er", None, "!"], "##", ["Büch", "er", "x", "!"]),
        ("a  @bob b", ["a", "@@@", "USER", "b"], "@@", ["a", "@bob", "@bob", "b"]),
        ("ﬁn ①", ["fi@@", "n", "1"], "@@", ["ﬁ", "n", "①"]),
        ("x\x00y z", ["xy", "z"], "", ["x\x00y", "z"]),
        ("the bat", ["th", "e</w>", "b", "at</w>"], "</w>", ["th", "e", "b", "at"]),
        ("New York", ["▁New", "▁", "York"], "▁", ["New", "", "York"]),
        ("aa", [None, None, None], "", ["aa", "aa", "aa"]),
        ("", ["x"], "", [""]),
    ],
)
def test_align(text: str, tokens: list[str | None], mark: str, expected: list[str]) -> None:
    """Tokens that a tokenizer changed, replaced, or does not know."""
    assert [text[span.start : span.end] for span in align(text, tokens, mark)] == expected


def test_mark_of() -> None:
    """The mark that most tokens carry."""
    assert mark_of({"a": 0, "##b": 1}) == "##"
    assert mark_of({"a@@": 0, "b@@": 1, "##": 2}) == "@@"
    assert mark_of({"a": 0}) == ""
