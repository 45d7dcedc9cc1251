"""Vectors of the tokens of a text, and the scores of documents for a query from them (MaxSim), as ColBERT models have.

A query and documents are encoded each in its own way: `handler.late_interaction` says how.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from handler.config import Overflow, ServingConfig
from handler.errors import ConfigError, ModelMismatch
from handler.late_interaction import Expansion, Role
from handler.model_folder import ModelFolder
from handler.protocol import JSON
from handler.sentence_layers import Layer
from handler.sentence_router import INPUT_TYPES, InputType
from handler.sequences import Encoding, EncodingOptions, Filling
from handler.tasks.base import Task
from handler.tasks.embedding import SIMILARITY_FUNCTIONS
from handler.tasks.feature_extraction import FeatureExtraction
from handler.tasks.parameters import Boolean, Choice, Integer
from handler.tasks.queries import Output, Pooler, Query, RaggedOutput, SequenceOutput
from handler.tasks.rerank import RankingTask
from handler.tasks.sentence_similarity import SentenceSimilarity
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from transformers.utils.generic import ModelOutput

    from handler.batching import Batch

QUERY, DOCUMENT = INPUT_TYPES
ALL_OR_NOTHING = ("deberta", "deberta-v2")  # families in which a token that is not attended to attends to none itself


class TokenPooler(Pooler):
    """Compute the vector of every token of a text."""

    forward_scope = "encoder"

    def __init__(self, project: Layer) -> None:
        """Apply `project` to the outputs of the tokens."""
        self._project = project

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        """Return the vectors (tokens, width)."""
        return RaggedOutput(self._project(batch.tokens(output[0])), batch.counts)


class RoleEncoding(NamedTuple):
    """How the texts of a role are encoded, and which tokens have no vector."""

    prompt: str
    options: EncodingOptions
    skipped: NDArray[np.intp]  # ids


class TokenEmbedder:
    """What the vectors of tokens are made of, and how those of two texts are compared."""

    def __init__(self, task: Task) -> None:
        """Find the tokens of both roles.

        Raises:
            ModelMismatch: the tokenizer lacks a token that the folder names, or the encoder an attention.
            ConfigError: `max_length` leaves no room for the tokens behind a query.
        """
        model = task.model
        if model.embedding.late is None:
            raise ModelMismatch("the folder is none of late interaction")
        self._task, self._tokenizer = task, task.tokenizer
        self.pooler = TokenPooler(model.embedding.project)
        self._similarity = SIMILARITY_FUNCTIONS[model.embedding.similarity]
        queries_overflow: Overflow = "refuse" if task.overflow == "refuse" else "truncate"  # one query is no two
        query, document = model.embedding.late.query, model.embedding.late.document
        self.roles = {
            QUERY: self._encoding(query, EncodingOptions(queries_overflow), "query_prefix"),
            DOCUMENT: self._encoding(document, EncodingOptions(task.overflow, stride=0), "document_prefix"),
        }

    def text(self, text: str, role: InputType) -> tuple[str, None]:
        """Return a text with the prompt of its role; raises RequestError."""
        prompt = self.roles[role].prompt
        return (self._task.read_text(prompt + text) if prompt else text), None

    def compare(self, source: str, others: Sequence[str], parameters: Mapping[str, JSON]) -> Query:
        """Return what is computed for the scores of documents for a query."""
        texts = (self.text(source, QUERY), *(self.text(other, DOCUMENT) for other in others))
        query, document = self.roles[QUERY].options, self.roles[DOCUMENT].options
        return Query(texts, parameters, document, self.pooler, (query, self.pooler))

    def similarities(self, query: Query, windows: Sequence[SequenceOutput]) -> list[float]:
        """Return the scores of the documents of `compare`; of a long one those of all its windows together."""
        by_text: list[list[SequenceOutput]] = [[] for _ in query.texts]
        for window in windows:
            by_text[window.text_index].append(window)
        source = self.vectors(by_text[0], QUERY)
        return [self._similarity(source, self.vectors(other, DOCUMENT)) for other in by_text[1:]]

    def vectors(self, windows: Sequence[SequenceOutput], role: InputType) -> Output:
        """Return the vectors (tokens, width) of a text."""
        values = np.concatenate([window.values for window in windows])
        kept: Output = values[self.kept(windows, role)]
        return kept

    def kept(self, windows: Sequence[SequenceOutput], role: InputType) -> NDArray[np.bool_]:
        """Tell which of the tokens of all windows have a vector (tokens,)."""
        ids = [token for window in windows for token in window.encoding.ids]
        return np.isin(ids, self.roles[role].skipped, invert=True)

    def _encoding(self, role: Role, options: EncodingOptions, name: str) -> RoleEncoding:
        prefix_id = None
        if role.prefix is not None:
            prefix_id = self._tokenizer.token_to_id(role.prefix)
            if prefix_id is None:
                raise ModelMismatch(
                    f"{name} is {role.prefix!r}, which is no token of the tokenizer: load the model with PyLate and "
                    "save it again"
                )
        filling = None if role.expansion is None else self._filling(role.expansion)
        ids = [self._tokenizer.token_to_id(word) for word in role.skiplist]
        skipped = np.array([token_id for token_id in ids if token_id is not None], dtype=np.intp)
        max_length = role.max_length or self._tokenizer.declared_length
        options = replace(options, max_length=max_length, prefix_id=prefix_id, filling=filling)
        return RoleEncoding(role.prompt, options, skipped)

    def _filling(self, expansion: Expansion) -> Filling:
        length, limit, config = expansion.length, self._tokenizer.max_length, self._task.model_config
        if length > limit:
            raise ConfigError(f"queries have {length} tokens in this model, more than the {limit} of max_length")
        window = getattr(config, "sliding_window", None)
        if not expansion.attended and (config.model_type in ALL_OR_NOTHING or (window and length > window)):
            raise ModelMismatch(
                f"queries have {length} tokens, of which some are not attended to: {config.model_type} "
                + (f"attends to {window} tokens on each side" if window else "lets these attend to nothing themselves")
            )
        token_id = self._tokenizer.mask_id if self._tokenizer.mask_id is not None else self._tokenizer.eos_id
        if expansion.token is not None:
            token_id = self._tokenizer.token_to_id(expansion.token)
        if token_id is None:
            raise ModelMismatch(f"the tokenizer has no token {expansion.token or '[MASK]'} to expand queries with")
        return Filling(length, token_id, expansion.attended)


class LateInteraction(Task):
    """late-interaction: of the folder of PyLate, of colbert-ai or of a MultiVectorEncoder."""

    name = "late-interaction"
    operation = "embed-multi-vector"
    hub_task = "feature-extraction"
    forward_scope = "encoder"
    overflows = ("truncate", "window", "refuse")
    self_test_items = (
        *FeatureExtraction.self_test_items,
        {"text": "Where is my parcel?", "input_type": QUERY},
        {"text": "again and " * 600, "input_type": QUERY},
    )

    def __init__(self, model: ModelFolder, config: ServingConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model, config, tokenizer)
        self.embedder = TokenEmbedder(self)
        description = "what texts are; an item may have its own"
        self.input_types = Choice(accepted=INPUT_TYPES, default=DOCUMENT, description=description)
        self.parameters = {
            "input_type": self.input_types,
            "return_tokens": Boolean(default=False, description="whether to name the token of each vector"),
        }

    @classmethod
    def supports(cls, model: ModelFolder) -> bool:
        return model.embedding.late is not None

    def parse(self, value: JSON, parameters: Mapping[str, JSON]) -> Query:
        (text, own), values = self.read_typed_item(value, self.input_types), self.read_parameters(parameters)
        if own is not None:
            values = {**values, "input_type": own}
        role = values["input_type"]
        options = self.embedder.roles[role].options
        return Query((self.embedder.text(text, role),), values, options, self.embedder.pooler)

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        return self.embedder.pooler.pool(output, batch)

    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        role = query.parameters["input_type"]
        vectors = self.embedder.vectors(windows, role)
        if not query.parameters["return_tokens"]:
            return vectors
        ids = np.array([token for window in windows for token in window.encoding.ids])
        tokens = [self.tokenizer.id_to_token(token) for token in ids[self.embedder.kept(windows, role)].tolist()]
        return [{"token": token, "embedding": vector} for token, vector in zip(tokens, vectors, strict=True)]

    def schema(self) -> dict[str, JSON]:
        vector = {"type": "array", "items": {"type": "number", "format": "float"}}
        named = {"type": "object", "properties": {"token": {"type": "string"}, "embedding": vector}}
        return {
            "item": self.typed_item_schema(self.input_types),
            "answer": {
                "oneOf": [
                    {"type": "array", "items": vector},
                    {"type": "array", "items": {**named, "required": ["token", "embedding"]}},
                ]
            },
            "example": "My parcel has not arrived yet.",
        }


class LateSimilarity(SentenceSimilarity):
    """sentence-similarity, of late interaction: the source sentence is the query, the others are documents."""

    def __init__(self, model: ModelFolder, config: ServingConfig, tokenizer: Tokenizer) -> None:
        Task.__init__(self, model, config, tokenizer)
        self.tokens = TokenEmbedder(self)

    def parse(self, value: JSON, parameters: Mapping[str, JSON]) -> Query:
        source, sentences = self.read_sentences(value)
        return self.tokens.compare(source, sentences, self.read_parameters(parameters))

    def token_positions(self, encoding: Encoding) -> Sequence[int] | None:
        return self.tokens.pooler.token_positions(encoding)

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        return self.tokens.pooler.pool(output, batch)

    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        return self.tokens.similarities(query, windows)


class LateRerank(RankingTask):
    """rerank, of late interaction: by MaxSim, which has no sigmoid."""

    forward_scope = "encoder"
    overflows = ("truncate", "window", "refuse")

    def __init__(self, model: ModelFolder, config: ServingConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model, config, tokenizer)
        self.tokens = TokenEmbedder(self)
        self.parameters = {
            "top_k": Integer(description="the best so many; all by default"),
            "return_text": Boolean(default=False, description="whether to repeat each text"),
        }

    def parse(self, value: JSON, parameters: Mapping[str, JSON]) -> Query:
        query, texts = self.read_ranking(value)
        return self.tokens.compare(query, texts, self.read_parameters(parameters))

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        return self.tokens.pooler.pool(output, batch)

    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        scores = np.array(self.tokens.similarities(query, windows))
        prompt = self.tokens.roles[DOCUMENT].prompt
        return self.ranked(query, scores, scores, [text.removeprefix(prompt) for text, _ in query.texts[1:]])
