"""Tokenizers that transformers has in Python alone, in the form of those of the tokenizers library.

Japanese BERTs split words by MeCab, BERTweet normalises tweets, PhoBERT, ESM, XLM and FlauBERT have no fast version.
Their own class goes on to make the tokens, so that they are those of the training; this module finds each token in its
text and hands both to a tokenizer of the library, which adds special tokens and counts characters as for any model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, NormalizedString, PreTokenizedString, Token, Tokenizer, models, processors
from tokenizers.decoders import Decoder
from tokenizers.pre_tokenizers import PreTokenizer

from handler.alignment import AlignedToken, align, mark_of
from handler.errors import ModelMismatch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CACHED_WORDS = 50_000  # several classes keep every word that they ever split


def converted(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a tokenizer in Python as a fast one of transformers, with the same tokens.

    Its `save_pretrained` writes the files of the original class.

    Raises:
        ModelMismatch: the tokenizer cannot be used as it is.
    """
    from transformers import PreTrainedTokenizerFast

    _check(tokenizer)
    paths = [Path(path) for path in (getattr(tokenizer, name, None) for name in ("vocab_file", "merges_file")) if path]
    files = {path.name: path.read_bytes() for path in paths}

    class Converted(PreTrainedTokenizerFast):
        python_class = type(tokenizer).__name__

        def save_pretrained(self, save_directory: Any, **options: Any) -> tuple[str, ...]:  # type: ignore[override]
            saved = tokenizer.save_pretrained(save_directory, **options)
            for name, content in files.items():  # transformers 5 writes merges of BERTweet that it cannot read
                (Path(save_directory) / name).write_bytes(content)
            return tuple(saved)

    vocabulary = tokenizer.get_vocab()
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=str(tokenizer.unk_token)))
    backend.post_processor = _template(tokenizer)
    special = {name: AddedToken(str(token), special=True) for name, token in tokenizer.special_tokens_map.items()}
    fast: Any = Converted(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        model_max_length=tokenizer.model_max_length,
        truncation_side=tokenizer.truncation_side,
        **special,
    )
    fast.init_kwargs = {**tokenizer.init_kwargs}
    # Set here, because a part in Python can be neither copied nor written to tokenizer.json.
    fast.backend_tokenizer.pre_tokenizer = PreTokenizer.custom(_Splitter(tokenizer))
    fast.backend_tokenizer.decoder = Decoder.custom(_Joiner(tokenizer))
    return fast  # type: ignore[no-any-return]


def is_converted(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether `converted` made a tokenizer."""
    return hasattr(tokenizer, "python_class")


def name_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the class that makes the tokens."""
    return str(getattr(tokenizer, "python_class", type(tokenizer).__name__))


def has_jieba(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a tokenizer is that of RoFormer, which splits Chinese words by jieba, in Python."""
    return type(tokenizer).__name__ == "RoFormerTokenizer"


def with_jieba(tokenizer: Any, backend: Tokenizer) -> PreTrainedTokenizerBase:
    """Give the tokenizer of RoFormer all parts of a backend but the split of words, which tokenizer.json cannot hold.

    transformers 5 splits by a vocabulary without words where it reads vocab.txt.
    """
    from transformers.models.roformer.tokenization_utils import JiebaPreTokenizer

    words: Any = JiebaPreTokenizer(backend.get_vocab())
    backend.pre_tokenizer = PreTokenizer.custom(words)
    tokenizer._tokenizer = backend
    return tokenizer  # type: ignore[no-any-return]


def _check(tokenizer: Any) -> None:
    """Refuse a tokenizer that would silently make other tokens than in training."""
    name = type(tokenizer).__name__
    if any(len(pair) != 2 for pair in getattr(tokenizer, "bpe_ranks", ())):
        raise ModelMismatch(
            f"{name} cannot read {Path(tokenizer.merges_file).name}: its merges have no counts, as transformers 5 "
            "writes them. Copy vocab.txt and that file from the model that the training began with"
        )
    if getattr(tokenizer, "normalization", False) and getattr(tokenizer, "demojizer", True) is None:
        raise ModelMismatch(
            f"{name} writes emoji as words by the package emoji, which is not installed: `pip install emoji==0.6.0` "
            "where the model is packed and where it is served"
        )


@dataclass
class _Word:
    """Characters of a text, end excluded, and the tokens made of them: id, name and span."""

    start: int
    end: int
    tokens: list[tuple[int, str, AlignedToken]]

    def add(self, token_id: int, token: str, span: AlignedToken) -> None:
        self.tokens.append((token_id, token, span))
        self.end = max(self.end, span.end)

    def in_library(self, text: str) -> list[Token]:
        """Return the tokens in the form of the library, which counts bytes of the word."""
        ranges = [(span.start, max(span.start, span.end)) for _, _, span in self.tokens]
        offsets = [(_bytes(text[self.start : start]), _bytes(text[self.start : end])) for start, end in ranges]
        return [Token(number, name, offset) for (number, name, _), offset in zip(self.tokens, offsets, strict=True)]


class _Splitter:
    """Makes the tokens of a text where the library splits it into words."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._unknown: str = str(tokenizer.unk_token)
        self._mark = mark_of(tokenizer.get_vocab())

    def pre_tokenize(self, text: PreTokenizedString) -> None:
        """Split a text into words and each word into tokens; called by the library."""
        words: list[list[Token]] = []

        def split(_index: int, segment: NormalizedString) -> list[NormalizedString]:
            pieces: list[Any] = []
            for word in self._words(str(segment)):
                pieces.append(segment[word.start : word.end])
                words.append(word.in_library(str(segment)))
            return pieces

        text.split(split)
        remaining = iter(words)
        text.tokenize(lambda _word: next(remaining))

    def _words(self, text: str) -> list[_Word]:
        """Return the words of a text, each with one character or more."""
        tokens = self._tokenizer.tokenize(text)
        ids = self._tokenizer.convert_tokens_to_ids(tokens)
        cache = getattr(self._tokenizer, "cache", ())
        if isinstance(cache, dict) and len(cache) > CACHED_WORDS:
            cache.clear()
        spans = align(text, self._surfaces(text, tokens), self._mark)
        words: list[_Word] = []
        for token_id, token, span in zip(ids, tokens, spans, strict=True):
            if not words or (span.begins_word and words[-1].end > words[-1].start):
                words.append(_Word(span.start, span.end, []))
            words[-1].add(token_id, token, span)
        if words and words[-1].end == words[-1].start:  # tokens without characters belong to the word before them
            last = words.pop()
            before = words[-1] if words else _Word(0, len(text), [])
            words = [*words[:-1], _Word(before.start, before.end, before.tokens + last.tokens)]
        return words

    def _surfaces(self, text: str, tokens: list[str]) -> list[str | None]:
        """Return tokens with the word of the text in the place of an unknown one where the class can tell it."""
        split_words = getattr(self._tokenizer, "word_tokenizer", None)  # of Japanese BERTs
        if split_words and self._unknown in tokens:
            surfaces: list[str | None] = []
            for word in split_words.tokenize(text, never_split=self._tokenizer.all_special_tokens):
                parts = self._tokenizer.subword_tokenizer.tokenize(word)
                names = [word] if len(parts) == 1 else word if len(parts) == len(word) else [None] * len(parts)
                pairs = zip(parts, names, strict=True)
                surfaces += [name if part == self._unknown else part for part, name in pairs]
            if len(surfaces) == len(tokens):
                return surfaces
        return [None if token == self._unknown else token for token in tokens]


class _Joiner:
    """Makes a text of tokens as the original class does."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def decode(self, tokens: list[str]) -> str:
        return str(self._tokenizer.convert_tokens_to_string(tokens))

    def decode_chain(self, tokens: list[str]) -> list[str]:
        return [self.decode(tokens)]


def _bytes(text: str) -> int:
    """Return the length of a text in UTF-8, in which the library counts within a word."""
    return len(text.encode("utf-8", "surrogatepass"))


def _template(tokenizer: Any) -> processors.TemplateProcessing:
    """Return where special tokens stand, as the class puts them around one text and around two."""
    templates, special = [], {}
    for texts in (["$A"], ["$A", "$B"]):
        ids = [[-1 - number] for number in range(len(texts))]
        sequence = tokenizer.build_inputs_with_special_tokens(*ids)
        type_ids = tokenizer.create_token_type_ids_from_sequences(*ids)
        template = []
        for token_id, type_id in zip(sequence, type_ids, strict=True):
            name = texts[-1 - token_id] if token_id < 0 else tokenizer.convert_ids_to_tokens(token_id)
            if token_id >= 0:
                special[name] = token_id
            template.append(f"{name}:{type_id}")
        templates.append(template)
    return processors.TemplateProcessing(single=templates[0], pair=templates[1], special_tokens=list(special.items()))
