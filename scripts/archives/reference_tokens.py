"""The tokens of a text as the `tokenizers` library reads them out of a model folder, for the reference at packing.

Shares no code with `handler.tokenization`, which it is compared with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from tokenizers import Encoding, Tokenizer, normalizers
from tokenizers.pre_tokenizers import PreTokenizer

from handler.config import ServingConfig
from scripts.cli.console import ScriptError

Pair: TypeAlias = tuple[str, str | None]
Strategy: TypeAlias = Literal["longest_first", "only_first", "only_second"]
NO_LIMIT = 1_000_000  # tokens; transformers writes 1e30 into tokenizer_config.json


@dataclass(frozen=True)
class Window:
    """A sequence, and how many tokens of the text that it cuts come before it."""

    encoding: Encoding
    start: int = 0


class ReferenceTokenizer:
    """The tokenizer of a folder, and how many tokens the model reads."""

    def __init__(self, folder: Path, config: ServingConfig, max_positions: int | None, n_segments: int) -> None:
        """Read tokenizer.json; without that file, the tokenizer that transformers makes of the folder.

        Args:
            config: whose `max_length` bounds a sequence.
            max_positions: tokens that the model has positions for; None: any number.
            n_segments: segment embeddings of the model.
        """
        self.settings = read_json(folder / "tokenizer_config.json")
        plain = _plain(folder)
        self._in_python = None if plain.is_fast else plain
        self.backend = _backend(folder, plain)
        self.backend.no_padding()
        self.backend.no_truncation()
        sentence = next((read_json(path) for path in sorted(folder.glob("sentence_*_config.json"))), {})
        self._lowercases = bool(sentence.get("do_lower_case"))
        if self._lowercases:
            own = self.backend.normalizer
            self.backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *([own] if own else [])])
        self.side = self.settings.get("truncation_side", "right")
        declared = sentence.get("max_seq_length") or self.settings.get("model_max_length")
        limits = [limit for limit in (declared, max_positions) if limit is not None and limit < NO_LIMIT]
        self._max_length = config.max_length
        self.max_length = int(config.max_length or min(limits, default=512))
        listed = self.settings.get("model_input_names")
        has_segments = max(self.backend.encode("a", "b").type_ids, default=0) > 0
        self.has_segments = n_segments > 1 and has_segments and not (listed and "token_type_ids" not in listed)

    def encode(self, text: Pair, strategy: Strategy = "longest_first", max_first: int | None = None) -> Window:
        """Return the tokens of a text or pair; what is too long is cut off by the library.

        Args:
            strategy: which text of a pair is cut.
            max_first: tokens of the first text that are kept, at most half of a sequence.
        """
        untruncated = self._joined(text, max_first)
        try:
            self.backend.enable_truncation(self.max_length, strategy=strategy, direction=self.side)
            encoding = self._joined(text, max_first)
        except ValueError:  # the text to cut is too short
            self.backend.enable_truncation(self.max_length, strategy="longest_first", direction=self.side)
            encoding = self._joined(text, max_first)
        finally:
            self.backend.no_truncation()
        return Window(encoding, 0 if self.side == "right" else len(untruncated) - len(encoding))

    def windows(
        self, text: Pair, stride: int, strategy: Strategy = "longest_first", max_first: int | None = None
    ) -> list[Window]:
        """Return windows over a text, or over one text of a pair beside the other.

        Args:
            stride: tokens that neighbouring windows share, at most half of what they hold of the text.
            strategy: which text of a pair is split; with `longest_first` the longer one.
            max_first: tokens of the first text that are kept, at most half of a sequence.
        """
        untruncated = self._joined(text, max_first)
        if len(untruncated) <= self.max_length:
            return [Window(untruncated)]
        parts = self._parts(text, max_first)
        size = self.max_length - self.backend.num_special_tokens_to_add(len(parts) > 1)
        split = 0
        if len(parts) > 1:
            split = int({"only_first": False, "only_second": True}.get(strategy, len(parts[1]) > len(parts[0])))
            parts[1 - split].truncate(size // 2)
            size -= len(parts[1 - split])
        size = max(1, size)
        shared = min(stride, size // 2)
        parts[split].truncate(size, stride=shared)
        windows = []
        for index, piece in enumerate([parts[split], *parts[split].overflowing]):
            beside = [piece if part == split else parts[part] for part in range(len(parts))]
            encoding = self.backend.post_process(beside[0], beside[1] if len(beside) > 1 else None)
            windows.append(Window(encoding, index * (size - shared)))
        return windows

    def bare(self, text: Pair, *, split: bool) -> list[Window]:
        """Return the tokens of a text without special ones: as many as are read at once, or all, in several parts."""
        encoding = self.backend.encode(text[0], add_special_tokens=False)
        declared = self.settings.get("model_max_length") or NO_LIMIT
        limit = int(min(self._max_length or declared, declared))
        if limit < len(encoding):
            encoding.truncate(limit, direction="right" if split else self.side)
        return [Window(part) for part in (encoding, *(encoding.overflowing if split else ()))]

    def length(self, text: Pair) -> int:
        """Return how many tokens a text or pair has, special tokens included, however long it is."""
        return len(self.backend.encode(*text))

    def prompt_length(self, prompt: str) -> int:
        """Return how many tokens a prompt has before a text, as sentence-transformers counts them."""
        encoding = self.backend.encode(prompt)
        return len(encoding.ids) - (encoding.special_tokens_mask[-1] if encoding.ids else 0)

    def _joined(self, text: Pair, max_first: int | None) -> Encoding:
        """Return one sequence of the tokens of a text or pair."""
        if max_first is None:
            encoding = self.backend.encode(*text)
            if self._in_python and self.backend.truncation is None and not self._lowercases:
                _compare(self._in_python(*text)["input_ids"], encoding.ids)
            return encoding
        first, second = self._parts(text, max_first)
        return self.backend.post_process(first, second)

    def _parts(self, text: Pair, max_first: int | None) -> list[Encoding]:
        """Return the tokens of each text, without special ones."""
        parts = [self.backend.encode(part, add_special_tokens=False) for part in text if part is not None]
        if max_first is not None:
            half = (self.max_length - self.backend.num_special_tokens_to_add(len(parts) > 1)) // 2
            parts[0].truncate(min(max_first, half), direction=self.side)
        return parts


def _compare(expected: list[int], ids: list[int]) -> None:
    """Refuse a tokenizer in Python of which the library makes other tokens than its class."""
    if expected != ids:
        raise ScriptError(
            "this tokenizer, which is in Python alone, makes other tokens in a server: it cannot be served"
        )


def _plain(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _backend(folder: Path, plain: Any) -> Tokenizer:
    """Return what reads tokens out of a folder, of which transformers makes the tokenizer `plain`."""
    if not plain.is_fast:  # places of tokens are the handler's own, and `_joined` compares ids
        from handler.python_tokenizer import converted

        return cast(Any, converted(plain)).backend_tokenizer  # type: ignore[no-any-return]
    file = folder / "tokenizer.json"
    backend = Tokenizer.from_file(str(file)) if file.is_file() else plain.backend_tokenizer
    if type(plain).__name__ == "RoFormerTokenizer":  # its split of words cannot be written to the file
        from transformers.models.roformer.tokenization_utils import JiebaPreTokenizer

        words: Any = JiebaPreTokenizer(backend.get_vocab())
        backend.pre_tokenizer = PreTokenizer.custom(words)
    if file.is_file() or type(plain).__name__ == "RoFormerTokenizer":
        return backend
    backend = Tokenizer.from_str(plain.backend_tokenizer.to_str())
    pieces = sorted(folder.glob("*.model"))
    if pieces and "charsmap" not in backend.to_str():  # the class of DeBERTa drops it
        from transformers.convert_slow_tokenizer import import_protobuf

        protobuf: Any = import_protobuf()  # type: ignore[no-untyped-call]
        model = protobuf.ModelProto.FromString(pieces[0].read_bytes())
        if model.normalizer_spec.precompiled_charsmap:
            characters = normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)
            backend.normalizer = normalizers.Sequence([characters, *filter(None, [backend.normalizer])])
    return backend


def read_json(path: Path) -> Mapping[str, Any]:
    """Return the object in a file; empty where there is no file."""
    content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content
