"""The reference of late interaction: vectors of tokens and their MaxSim, as the files of a folder describe them.

Shares no code with `handler.late_interaction` and `handler.tasks.late_interaction`, which it is compared with.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from handler.protocol import JSON
from scripts.archives.reference import Reference, max_positions
from scripts.archives.reference_modules import SETTINGS
from scripts.archives.reference_tokens import Pair, Window, read_json


@dataclass(frozen=True)
class FilledSequence:
    """The tokens of a sequence, of which the first ones are attended to."""

    ids: list[int]
    type_ids: list[int]
    n_attended: int

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class ReferenceRole:
    """How queries, or documents, are read."""

    prompt: str
    prefix: int | None
    max_length: int | None
    skipped: frozenset[int | None]
    filled_to: int = 0
    filling: int = 0
    attends: bool = False


class LateReference(Reference):
    """One model of late interaction, loaded by plain transformers; a text goes with the name of its role."""

    def __post_init__(self) -> None:
        super().__post_init__()
        settings = read_json(self.folder / SETTINGS)
        is_native = settings.get("model_type") == "MultiVectorEncoder"
        self.roles = self._native_roles(settings) if is_native else self._pylate_roles(settings)
        own, limits = self.tokenizer.max_length, (self.config.max_length, max_positions(self.model))
        self.lengths = {
            name: min([role.max_length or own, *(limit for limit in limits if limit)])
            for name, role in self.roles.items()
        }
        self.tokenizer.max_length = max(self.lengths.values())
        self.is_normalized = not is_native
        self.is_mean = str(settings.get("similarity_fn_name")).lower() == "meanmaxsim"

    def _auto_class(self) -> str:
        return "AutoModel"

    def _pylate_roles(self, settings: Mapping[str, Any]) -> dict[str, ReferenceRole]:
        given = {key: value for key, value in settings.items() if value is not None}
        prompts = given.get("prompts", {})
        length = given.get("query_length", 32)
        expands = given.get("do_query_expansion", True)
        words = given.get("skiplist_words", [*string.punctuation])
        prefixes = [given.get("query_prefix", "[Q] "), given.get("document_prefix", "[D] ")]
        query, document = (self._id(prefix) if prefix else None for prefix in prefixes)
        mask, attends = self._id(self._mask_token()), bool(given.get("attend_to_expansion_tokens"))
        return {
            "query": ReferenceRole(
                prompts.get("query", ""), query, length, frozenset(), length if expands else 0, mask or 0, attends
            ),
            "document": ReferenceRole(
                prompts.get("document", ""),
                document,
                given.get("document_length", 180),
                frozenset(map(self._id, words)),
            ),
        }

    def _native_roles(self, settings: Mapping[str, Any]) -> dict[str, ReferenceRole]:
        prompts = {role: text or "" for role, text in (settings.get("prompts") or {}).items()}
        options = next((read_json(path) for path in sorted(self.folder.glob("sentence_*_config.json"))), {})
        masks = [read_json(path) for path in self.folder.glob("*_MultiVectorMask/config.json")] or [{}]
        skipped = frozenset(map(self._id, masks[0].get("skiplist_words") or [])) - {None}
        tasks = masks[0].get("skiplist_tasks") or ["document"]
        expansion = options.get("query_expansion") or {}
        floor, limit = expansion.get("length", 0), options.get("query_length")
        if expansion.get("strategy") == "fixed":
            limit = floor
        elif limit is not None:
            limit = max(limit, floor)
        filling = self._id(expansion.get("token") or self._mask_token())
        return {
            "query": ReferenceRole(
                prompts.get("query", ""),
                None,
                limit,
                skipped if "query" in tasks else frozenset(),
                floor,
                filling or 0,
                bool(expansion.get("attend")),
            ),
            "document": ReferenceRole(
                prompts.get("document", ""),
                None,
                options.get("document_length"),
                skipped if "document" in tasks else frozenset(),
            ),
        }

    def _id(self, token: str) -> int | None:
        found: int | None = self.tokenizer.backend.token_to_id(token)
        return found

    def _mask_token(self) -> str:
        token = self.tokenizer.settings.get("mask_token") or self.tokenizer.settings.get("eos_token") or "[MASK]"
        return str(token["content"] if isinstance(token, dict) else token)

    def texts(self, item: JSON, parameters: Mapping[str, JSON]) -> list[Pair]:
        if self.name == "late-interaction":
            text, role = item if isinstance(item, dict) else {"text": item}, parameters.get("input_type")
            return [(text["text"], text.get("input_type") or role or "document")]
        query, documents = self.task.fields if self.name == "rerank" else ("source_sentence", "sentences")
        return [(item[query], "query"), *((text, "document") for text in item[documents])]

    def encode(self, text: Pair) -> list[Window]:
        role = self.roles[str(text[1])]
        pair = (role.prompt + text[0], None)
        is_split = self.task.overflow == "window" and text[1] == "document"
        self.tokenizer.max_length = self.lengths[str(text[1])] - (role.prefix is not None)
        windows = self.tokenizer.windows(pair, 0) if is_split else [self.tokenizer.encode(pair)]
        self.tokenizer.max_length = max(self.lengths.values())
        return [Window(self._filled(window, role)) for window in windows]

    def _filled(self, window: Window, role: ReferenceRole) -> Any:
        ids, type_ids = list(window.encoding.ids), list(window.encoding.type_ids)
        if role.prefix is not None:
            ids.insert(1, role.prefix)
            type_ids.insert(1, 0)
        n_filled = max(0, role.filled_to - len(ids))
        n_attended = len(ids) + (n_filled if role.attends else 0)
        return FilledSequence(ids + [role.filling] * n_filled, type_ids + [0] * n_filled, n_attended)

    def answer(self, item: JSON, parameters: Mapping[str, JSON]) -> JSON:
        vectors = [self._vectors(text) for text in self.texts(item, parameters)]
        if self.name == "late-interaction":
            return vectors[0].tolist()
        query, *documents = vectors
        scores = [float(self._score(query, document)) for document in documents]
        if self.name == "rerank":
            order = sorted(range(len(scores)), key=lambda index: -scores[index])
            return [{"index": index, "score": scores[index]} for index in order]
        return scores

    def _score(self, query: Tensor, document: Tensor) -> Tensor:
        best = torch.stack([torch.stack([q @ d for d in document]).max() for q in query])
        return best.mean() if self.is_mean else best.sum()

    @torch.inference_mode()
    def _vectors(self, text: Pair) -> Tensor:
        """Return the vectors (tokens, width) of a text."""
        windows, skipped = self.encode(text), self.roles[str(text[1])].skipped
        return torch.stack([vector for window in windows for vector in self._kept(window.encoding, skipped)])

    def _kept(self, sequence: Any, skipped: frozenset[int | None]) -> Sequence[Tensor]:
        ids = torch.tensor([sequence.ids])
        arguments = {
            "input_ids": ids,
            "attention_mask": (torch.arange(len(sequence)) < sequence.n_attended).long()[None],
        }
        if self.tokenizer.has_segments:
            arguments["token_type_ids"] = torch.tensor([sequence.type_ids])
        states = self.model(**arguments)[0][0]
        vectors = [
            self.modules.project(state)
            for state, token in zip(states, sequence.ids, strict=True)
            if token not in skipped
        ]
        return [vector / vector.norm() for vector in vectors] if self.is_normalized else vectors
