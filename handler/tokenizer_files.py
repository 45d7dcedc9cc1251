"""The files of a tokenizer, checked beside what transformers makes of them.

transformers names neither file nor field of what it cannot read, constructs an empty tokenizer where it finds no file
that its class reads, and asks for packages that would not help.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from handler.errors import ModelMismatch
from handler.weight_files import LFS_POINTER

VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
SETTINGS = "tokenizer_config.json"
FILES = (*VOCABULARY_FILES, SETTINGS, "special_tokens_map.json", "added_tokens.json", "merges.txt")
OBJECTS = ("tokenizer.json", SETTINGS, "special_tokens_map.json", "added_tokens.json", "vocab.json")  # files of JSON


def check_files(folder: Path) -> None:
    """Raise ModelMismatch where a folder has no tokenizer, or a file or a field of one that cannot be used."""
    if not any(any(folder.glob(pattern)) for pattern in VOCABULARY_FILES):
        raise ModelMismatch(f"no tokenizer in the model folder: none of {', '.join(VOCABULARY_FILES)}")
    settings = {name: _read_object(folder / name) for name in OBJECTS if (folder / name).is_file()}.get(SETTINGS, {})
    length = settings.get("model_max_length")
    is_number = isinstance(length, int | float) and not isinstance(length, bool) and length > 0
    if length is not None and not (is_number and float(length).is_integer()):
        written = f'"{length}"' if isinstance(length, str) else str(length)
        advice = f"write {length}" if isinstance(length, str) and length.isdecimal() else "write a number of tokens"
        raise ModelMismatch(f"{SETTINGS} has model_max_length {written}: {advice}")


def deciding_parts(backend: Any) -> list[Any]:
    """Return the parts of a tokenizer that decide the tokens of a text, without special ones around it."""
    try:
        parts = json.loads(backend.to_str())
    except Exception as error:  # tokenizers raises no other class for a part that is written in Python
        raise ModelMismatch("a tokenizer with parts in Python cannot be compared with that of a table") from error
    return [parts[name] for name in ("added_tokens", "normalizer", "pre_tokenizer", "model")]


def loading_problem(folder: Path, error: Exception) -> str:
    """Return why transformers cannot load a tokenizer whose files can be read; `error` is that of transformers."""
    models = sorted(path.name for path in folder.glob("*.model"))
    if models and not (folder / "tokenizer.json").is_file() and importlib.util.find_spec("sentencepiece") is None:
        return (
            f"the tokenizer is in {models[0]} alone, which takes the package sentencepiece to convert: copy "
            "tokenizer.json from where the model comes, or `pip install sentencepiece protobuf` where the model is "
            "packed; the archive then holds tokenizer.json"
        )
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, ImportError):
        return (
            f"the tokenizer takes a package that is not installed: {reason}; install it where the model is packed and "
            "where it is served (requirements/tokenizers.txt lists those that were tried)"
        )
    return f"no tokenizer can be loaded from the model folder: {reason}; save it again with transformers"


def check_vocabulary(folder: Path, class_name: str, vocabulary: Collection[str]) -> None:
    """Raise ModelMismatch where a tokenizer lacks tokens that its files name.

    Args:
        folder: of the model.
        class_name: of the tokenizer.
        vocabulary: of the tokenizer, as it will be used.
    """
    if not (folder / "tokenizer.json").is_file():
        for name, tokens in (("vocab.txt", _lines(folder / "vocab.txt")), ("vocab.json", _keys(folder / "vocab.json"))):
            if tokens and len(missing := tokens - set(vocabulary)) > len(tokens) // 2:
                raise ModelMismatch(
                    f"{class_name} of transformers does not read {name} ({len(missing)} of its tokens are missing): "
                    f"copy tokenizer.json from where the model comes, or correct tokenizer_class in {SETTINGS}"
                )
    for name, token in _added_tokens(folder):
        if token not in vocabulary:
            raise ModelMismatch(
                f"{name} names the token {token!r}, which "
                f"{'tokenizer.json' if (folder / 'tokenizer.json').is_file() else class_name} does not have: load the "
                "tokenizer with the version of transformers that the model was trained with, and save it again"
            )


def _added_tokens(folder: Path) -> list[tuple[str, str]]:
    """Return the tokens that were added to a vocabulary, each with the file that names it."""
    named = [("added_tokens.json", token) for token in _keys(folder / "added_tokens.json")]
    for name in (SETTINGS, "special_tokens_map.json"):
        content = _read_object(folder / name) if (folder / name).is_file() else {}
        decoder = content.get("added_tokens_decoder")
        entries = list(decoder.values()) if isinstance(decoder, dict) else []
        for key in ("additional_special_tokens", "extra_special_tokens"):
            more = content.get(key)
            entries += list(more.values()) if isinstance(more, dict) else more if isinstance(more, list) else []
        contents = [entry.get("content") if isinstance(entry, dict) else entry for entry in entries]
        named += [(name, token) for token in contents if isinstance(token, str)]
    return named


def _read_object(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    if content.startswith(LFS_POINTER):
        raise ModelMismatch(f"{path.name} is a pointer of Git LFS: run `git lfs pull` where the model comes from")
    try:
        value = json.loads(content)  # not that of requests: a length of 10 ** 30 is usual here, and is no fault
    except ValueError as error:
        raise ModelMismatch(f"{path.name} cannot be read: it is not JSON, or not whole; copy it again") from error
    if not isinstance(value, dict):
        raise ModelMismatch(f"{path.name} holds no JSON object: copy it again")
    return value


def _keys(path: Path) -> set[str]:
    return set(_read_object(path)) if path.is_file() else set()


def _lines(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {re.sub(r" \d+$", "", line.split("\t")[0]) for line in lines if line.strip()}  # PhoBERT writes counts
