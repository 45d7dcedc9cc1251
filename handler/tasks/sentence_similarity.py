"""Compute the similarity of one sentence to others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from handler.config import ServingConfig
from handler.model_folder import ModelFolder
from handler.protocol import JSON
from handler.sentence_router import INPUT_TYPES, InputType
from handler.sequences import Encoding
from handler.tasks.base import Task
from handler.tasks.embedding import SIMILARITY_FUNCTIONS, Embedder, embedding_options
from handler.tasks.queries import Query, RaggedOutput, SequenceOutput
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from transformers.utils.generic import ModelOutput

    from handler.batching import Batch


class SentenceSimilarity(Task):
    """sentence-similarity: cosines between embeddings, or the similarity function that the model's folder names."""

    name = "sentence-similarity"
    operation = "similarity"
    forward_scope = "encoder"
    overflows = ("truncate", "window", "refuse")
    self_test_items = (
        {
            "source_sentence": "My parcel has not arrived.",
            "sentences": ["Where is my order?", "no", "L'écran est rayé, 屏幕坏了 🙂", "again and " * 600],
        },
    )

    def __init__(self, model: ModelFolder, config: ServingConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model, config, tokenizer)
        self.embedder = Embedder(model, tokenizer)
        self.parameters = self.embedder.parameters()
        self.encoding_options = embedding_options(self)
        # Of the source and of the others, where one is embedded unlike the other: a query beside documents.
        self.input_types: tuple[InputType | None, InputType | None] = (None, None)
        if self.embedder.modules.table:
            self.input_types = INPUT_TYPES

    def parse(self, value: JSON, parameters: Mapping[str, JSON]) -> Query:
        (source, sentences), values = self.read_sentences(value), self.read_parameters(parameters)
        if self.input_types == (None, None):
            prompt = self.embedder.prompt(values)
            return Query(
                tuple((self._prefixed(prompt, text), None) for text in (source, *sentences)),
                values,
                self.encoding_options,
                self.embedder.pooler(values, prompt),
            )
        of_source, of_others = (self.embedder.prompt(values, kind) for kind in self.input_types)
        texts = [self._prefixed(of_source, source), *(self._prefixed(of_others, text) for text in sentences)]
        first, others = (self.embedder.reading(self.encoding_options, kind) for kind in self.input_types)
        return Query(tuple((text, None) for text in texts), values, *others, first)

    def read_sentences(self, value: JSON) -> tuple[str, list[str]]:
        """Return the source and the others of an item; raises RequestError."""
        fields = self.read_fields(value, "source_sentence", "sentences")
        source = self.read_text(fields["source_sentence"], "source_sentence")
        return source, self.read_texts(fields["sentences"], "sentences")

    def _prefixed(self, prompt: str, text: str) -> str:
        return self.read_text(prompt + text) if prompt else text

    def token_positions(self, encoding: Encoding) -> Sequence[int] | None:
        return self.embedder.pooler().token_positions(encoding)

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        return self.embedder.pooler().pool(output, batch)

    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        by_text: list[list[SequenceOutput]] = [[] for _ in query.texts]
        for window in windows:
            by_text[window.text_index].append(window)
        modules, (of_source, of_others) = self.embedder.modules, self.input_types
        embeddings = (
            self.embedder.embed(windows, of_others if index else of_source) for index, windows in enumerate(by_text)
        )
        source, *others = (self.embedder.keep(embedding, modules.n_kept) for embedding in embeddings)
        similarity = SIMILARITY_FUNCTIONS[modules.similarity]
        return [similarity(source, other) for other in others]

    def schema(self) -> dict[str, JSON]:
        text = self.text_schema()
        max_sentences = max(1, self.config.max_texts - 1)
        properties = {
            "source_sentence": text,
            "sentences": {"type": "array", "items": text, "minItems": 1, "maxItems": max_sentences},
        }
        return {
            "item": {
                "type": "object",
                "properties": properties,
                "required": [*properties],
                "additionalProperties": False,
            },
            "answer": {"type": "array", "items": {"type": "number"}},
            "example": {
                "source_sentence": "Where is my parcel?",
                "sentences": ["It has not arrived.", "It is broken."],
            },
        }
