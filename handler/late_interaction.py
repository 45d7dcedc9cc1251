"""What a folder says of late interaction (ColBERT): vectors of the tokens of a query and of documents, and MaxSim.

Two layouts are read: that of PyLate, and that of a MultiVectorEncoder of sentence-transformers 6. What changes a vector
or a score is obeyed or refused by name. `scripts/pretrained/stanford.py` writes the folder of a checkpoint of
colbert-ai in the layout of PyLate.

Sources: ColBERT (arXiv 2004.12832), the file formats of PyLate 1 and of sentence-transformers 6.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from handler.errors import ModelMismatch
from handler.protocol import JSON
from handler.sentence_layers import read_object

T = TypeVar("T")

PYLATE, MULTI_VECTOR_ENCODER = "ColBERT", "MultiVectorEncoder"  # model_type in config_sentence_transformers.json
STANFORD = "HF_ColBERT"  # the architecture of a checkpoint of colbert-ai in config.json
PYLATE_DENSE = "pylate.models.Dense.Dense"
VECTORS = "token_embeddings"  # what the libraries call the vectors of tokens between their modules
TRANSFORMER_KEYS = ("query_length", "document_length", "query_expansion")  # of a MultiVectorEncoder's transformer
MASK, NORMALIZE = "MultiVectorMask", "Normalize"
SERVED = ("Transformer", "Dense", "LayerNorm", "Dropout", MASK, NORMALIZE)


@dataclass(frozen=True)
class Expansion:
    """Tokens behind a query that is short, whose vectors are compared like those of its words."""

    length: int  # tokens of a query with them
    attended: bool = False  # whether other tokens attend to them
    token: str | None = None  # None: the mask token


@dataclass(frozen=True)
class Role:
    """How the texts of one role are encoded: queries, or documents."""

    prompt: str = ""  # text before each of them
    prefix: str | None = None  # the token that is inserted behind the first one
    max_length: int | None = None  # tokens, special ones included; None: that of the tokenizer
    skiplist: tuple[str, ...] = ()  # tokens without a vector
    expansion: Expansion | None = None


@dataclass(frozen=True)
class Roles:
    """The two roles."""

    query: Role
    document: Role

    @property
    def max_lengths(self) -> tuple[int | None, ...]:
        """Tokens of the longest text of each role."""
        return self.query.max_length, self.document.max_length


def is_late_interaction(settings: Mapping[str, JSON]) -> bool:
    """Tell from config_sentence_transformers.json; PyLate wrote no model_type before sentence-transformers 5."""
    return settings.get("model_type") in (PYLATE, MULTI_VECTOR_ENCODER) or "query_prefix" in settings


def read_late_interaction(
    folder: Path,
    settings: Mapping[str, JSON],
    modules: Sequence[tuple[str, str]],
    transformer: Mapping[str, JSON],
) -> Roles:
    """Read the roles of a folder.

    Args:
        settings: content of config_sentence_transformers.json.
        modules: class and path of each module.
        transformer: content of sentence_bert_config.json.

    Raises:
        ModelMismatch: what is not computed here.
    """
    names = [name for name, _ in modules]
    others = [name for name in names if name not in SERVED]
    if names[:1] != ["Transformer"] or others or modules[0][1]:
        raise ModelMismatch(
            f"modules.json lists {', '.join(names)}: of late interaction a Transformer in the folder itself is served, "
            f"then {', '.join(SERVED[1:])}"
        )
    default = settings.get("default_prompt_name")
    prompts = settings.get("prompts") or {}
    if default is not None and prompts.get(default):
        raise ModelMismatch(
            f"config_sentence_transformers.json: default_prompt_name is {default}, but queries and documents have "
            "prompts of their own here: leave it out"
        )
    query, document = (str(prompts.get(role) or "") for role in ("query", "document"))
    if settings.get("model_type") == MULTI_VECTOR_ENCODER:
        return _multi_vector_encoder(folder, modules, transformer, query, document)
    return _pylate(settings, query, document)


def _pylate(settings: Mapping[str, JSON], query_prompt: str, document_prompt: str) -> Roles:
    where = "config_sentence_transformers.json"
    query_length = _value(settings, "query_length", int, 32, where)
    skiplist = _words(settings.get("skiplist_words"), where)
    expansion = None
    if _value(settings, "do_query_expansion", bool, True, where):
        expansion = Expansion(query_length, _value(settings, "attend_to_expansion_tokens", bool, False, where))
    return Roles(
        Role(query_prompt, _value(settings, "query_prefix", str, "[Q] ", where) or None, query_length, (), expansion),
        Role(
            document_prompt,
            _value(settings, "document_prefix", str, "[D] ", where) or None,
            _value(settings, "document_length", int, 180, where),
            tuple(string.punctuation) if skiplist is None else skiplist,
        ),
    )


def _multi_vector_encoder(
    folder: Path,
    modules: Sequence[tuple[str, str]],
    transformer: Mapping[str, JSON],
    query_prompt: str,
    document_prompt: str,
) -> Roles:
    paths = [path for name, path in modules if name == MASK]
    expansion, query_length = _expansion(transformer)
    if expansion is not None and not paths:
        raise ModelMismatch(f"modules.json lists no {MASK}, without which the tokens of query_expansion are not scored")
    mask = read_object(folder / paths[0] / "config.json") if paths else {}
    where = f"{paths[0]}/config.json" if paths else ""
    if mask.get("keep_only_token_ids"):
        raise ModelMismatch(f"{where}: keep_only_token_ids is not computed here")
    words = _words(mask.get("skiplist_words"), where) or ()
    tasks = mask.get("skiplist_tasks")
    tasks = ["document"] if tasks is None else [tasks] if isinstance(tasks, str) else tasks
    return Roles(
        Role(query_prompt, None, query_length, words if "query" in tasks else (), expansion),
        Role(
            document_prompt,
            None,
            _value(transformer, "document_length", int, None, "sentence_bert_config.json"),
            words if "document" in tasks else (),
        ),
    )


def _expansion(transformer: Mapping[str, JSON]) -> tuple[Expansion | None, int | None]:
    """Return the expansion of a MultiVectorEncoder's queries, and how many tokens they have at most."""
    where = "sentence_bert_config.json"
    limit = _value(transformer, "query_length", int, None, where)
    options = transformer.get("query_expansion")
    if options is None:
        return None, limit
    known = {"strategy", "attend", "token", "length"}
    if not isinstance(options, dict) or set(options) - known or options.get("strategy") not in ("fixed", "min"):
        raise ModelMismatch(f"{where}: query_expansion is {options}, served are the strategies fixed and min")
    length = _value(options, "length", int, 0, where)
    if length < 1:
        raise ModelMismatch(f"{where}: query_expansion has no length")
    attended, token = _value(options, "attend", bool, False, where), _value(options, "token", str, None, where)
    expansion = Expansion(length, attended, token)
    if options["strategy"] == "fixed":
        return expansion, length
    return expansion, None if limit is None else max(limit, length)


def _value(options: Mapping[str, JSON], key: str, kind: type, default: T, where: str) -> T:
    """Return an option, or its default where it is null or not there."""
    value: T | None = options.get(key)
    if value is None:
        return default
    if type(value) is not kind or (kind is int and value < 1):  # type: ignore[operator]
        raise ModelMismatch(f"{where}: {key} is {value}, which is no {kind.__name__} that can be used")
    return value


def _words(value: JSON, where: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ModelMismatch(f"{where}: skiplist_words must be a list of strings")
    return tuple(value)
