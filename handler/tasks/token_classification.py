"""Find the entities of a text: labels of tokens, aggregated to words and entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np

from handler.activations import softmax
from handler.config import ServingConfig
from handler.errors import InvalidInput
from handler.labels import label_names
from handler.model_folder import ModelFolder
from handler.protocol import JSON
from handler.sequences import EncodingOptions, Tokens, join_windows
from handler.spans import align_to_text
from handler.tag_scheme import LabelIds, LabelSpans
from handler.tasks.base import Task
from handler.tasks.parameters import Choice, Integer, StringList
from handler.tasks.queries import AttributionTarget, Output, Query, RaggedOutput, SequenceOutput, locate_token
from handler.tasks.scores import values_allclose
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.utils.generic import ModelOutput

    from handler.batching import Batch

EntityKey: TypeAlias = tuple[int, int, str]  # positions of the first and the last token, and the group
AGGREGATION_STRATEGIES = ("none", "simple", "first", "average", "max")
SAMPLE_SENTENCE = "Ada Lovelace wrote to Charles Babbage in London. "


class TokenClassification(Task):
    """token-classification.

    Answers equal those of the pipeline of transformers. The windows over a long text are joined, each token with the
    logits of the window that has most context around it, so that no entity is returned twice or ends at the edge of a
    window. Where windows disagree the pipeline keeps the longer of two overlapping entities, however near to an edge,
    and drops the tokens that only the shorter one has. Where they agree answers are equal: an entity that several
    windows have gets its highest score. With strategy `none` the pipeline has no counterpart.
    """

    name = "token-classification"
    operation = "entities"
    auto_classes = ("AutoModelForTokenClassification",)
    overflows = ("window", "truncate", "refuse")
    calibrated_parameters = ("raw", "min_confidence")
    self_test_items = (
        "Ada Lovelace wrote to Charles Babbage in London.",
        "no",
        "Élodie Müller-Łukasz, 北京大学, Анна из Москвы и محمد: pneumonoultramicroscopic 🙂 👩‍👩‍👧‍👦",
        SAMPLE_SENTENCE * 60,
    )
    self_test_parameters: ClassVar = {"aggregation_strategy": "none", "ignore_labels": []}  # every token counts

    def __init__(self, model: ModelFolder, config: ServingConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model, config, tokenizer)
        self.labels = label_names(model.config)
        self.spans = LabelSpans.from_labels(self.labels)
        self.parameters = {
            "aggregation_strategy": Choice(accepted=AGGREGATION_STRATEGIES, default="simple"),
            "ignore_labels": StringList(default=["O"]),
            "stride": Integer(
                ge=0, default=config.stride, description="tokens that windows share, at most half of one"
            ),
        }

    def parse(self, value: JSON, parameters: Mapping[str, JSON]) -> Query:
        text, values = self.read_item(value), self.read_parameters(parameters)
        options = EncodingOptions(self.overflow, stride=values["stride"], return_spans=True)
        return Query(((text, None),), values, options)

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        return RaggedOutput(batch.tokens(output["logits"]), batch.counts)

    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        entities = self._entities(query, windows)
        if len(windows) > 1 and query.parameters["aggregation_strategy"] != "none":
            best: dict[EntityKey, dict[str, JSON]] = {}
            of_windows = [self._entities(query, [window]) for window in windows]
            for key, entity in (pair for of_window in of_windows for pair in of_window.items()):
                if key in entities and entity["score"] > best.get(key, {"score": 0})["score"]:
                    best[key] = entity
            entities |= best
        answer = list(entities.values())
        if answer:
            strategy = query.parameters["aggregation_strategy"]
            scores = self.calibrated(np.array([entity["score"] for entity in answer]), query, strategy)
            for entity, score in zip(answer, scores.tolist(), strict=True):
                entity |= {"score": score, **self.abstains(query, score)}
        return answer

    def judgements(self, query: Query, answer: JSON) -> list[tuple[str | None, float]]:
        strategy = query.parameters["aggregation_strategy"]
        if strategy == "none" or not self.is_calibrated(query, strategy):
            return []
        return [(entity["entity_group"], entity["score"]) for entity in answer]

    def _entities(self, query: Query, windows: Sequence[SequenceOutput]) -> dict[EntityKey, dict[str, JSON]]:
        """Return the entities of joined windows, or with strategy `none` the tokens."""
        text, strategy = query.texts[0][0], query.parameters["aggregation_strategy"]
        ignored = query.parameters["ignore_labels"]
        tokens = join_windows([window.encoding for window in windows])
        strings = self._token_strings(text, tokens)
        aligned = self._align(tokens, text, to_graphemes=strategy != "none")
        logits = np.concatenate([window.values for window in windows])
        if strategy == "none":
            return self._token_answers(aligned, strings, softmax(logits[tokens.indices]), ignored)
        visible = np.flatnonzero(aligned.ends > aligned.starts)  # a token of blanks alone is no part of an entity
        if not len(visible):
            return {}
        # Units are tokens with the strategy `simple`, else words.
        word_ids = aligned.word_ids[visible]
        is_word_start = np.diff(word_ids, prepend=-2) != 0
        unit_starts = np.arange(len(visible)) if strategy == "simple" else np.flatnonzero(is_word_start)
        unit_scores = aggregate(softmax(logits[tokens.indices[visible]]), unit_starts, strategy)
        labels, best = unit_scores.argmax(-1), unit_scores.max(-1)
        begins = self.spans.starts(labels)
        ends = np.append(begins[1:], len(labels))
        sums = np.add.reduceat(best.astype(np.float64), begins)
        unit_starts = np.append(unit_starts, len(visible))
        entities: dict[EntityKey, dict[str, JSON]] = {}
        for begin, end, total in zip(begins.tolist(), ends.tolist(), sums.tolist(), strict=True):
            group = self.spans.groups[labels[begin]]
            if group in ignored:
                continue
            first, last = int(visible[unit_starts[begin]]), int(visible[unit_starts[end] - 1])
            entities[int(tokens.positions[first]), int(tokens.positions[last]), group] = {
                "entity_group": group,
                "score": total / (end - begin),
                "word": self.tokenizer.tokens_to_string(strings[first : last + 1]),
                "start": int(aligned.starts[first]),
                "end": int(aligned.ends[last]),
            }
        return entities

    def _align(self, tokens: Tokens, text: str, *, to_graphemes: bool = True) -> Tokens:
        """Return tokens with spans and words of whole characters."""
        marks_split_words = not self.tokenizer.has_subword_prefix
        return align_to_text(tokens, text, to_graphemes=to_graphemes, marks_split_words=marks_split_words)

    def _token_answers(
        self, tokens: Tokens, strings: list[str], scores: Output, ignored: Sequence[str]
    ) -> dict[EntityKey, dict[str, JSON]]:
        """Return every token that is not ignored; `index` is its position in the text, special tokens included."""
        labels = [self.labels[label] for label in scores.argmax(-1)]
        columns = (scores.max(-1), tokens.positions, tokens.starts, tokens.ends)
        rows = zip(labels, *(column.tolist() for column in columns), strings, strict=True)
        return {
            (index, index, label): {
                "entity": label,
                "score": score,
                "index": index,
                "word": word,
                "start": start,
                "end": end,
            }
            for label, score, index, start, end, word in rows
            if label not in ignored
        }

    def _token_strings(self, text: str, tokens: Tokens) -> list[str]:
        """Return each token as the vocabulary has it, an unknown one as the text has it."""
        strings = {token: self.tokenizer.id_to_token(token) for token in set(tokens.ids.tolist())}
        unknown = self.tokenizer.unknown_id
        triples = zip(tokens.ids.tolist(), tokens.starts.tolist(), tokens.ends.tolist(), strict=True)
        return [text[start:end] if token == unknown else strings[token] for token, start, end in triples]

    def attribution_targets(
        self, query: Query, windows: Sequence[SequenceOutput], target: JSON
    ) -> list[AttributionTarget]:
        """Return the mean of the scores of the labels of an entity's tokens.

        Args:
            target: a character of an entity, or of a word in no entity; or {"start": character, "label": label} for
                the score of any label of the word there. By default the entity with the best score.
        """
        tokens = self._align(join_windows([window.encoding for window in windows]), query.texts[0][0])
        tokens = tokens.take(np.flatnonzero(tokens.ends > tokens.starts))
        if not len(tokens.ids):
            raise InvalidInput("text holds nothing that this model reads")
        scores = softmax(np.concatenate([window.values for window in windows])[tokens.indices])
        labels = scores.argmax(-1)
        begins = self.spans.starts(labels)
        entities = np.searchsorted(begins, np.arange(len(labels)), side="right")  # index of each token's entity
        ignored = [self.spans.groups[label] in query.parameters["ignore_labels"] for label in labels]
        if target is None:
            best = scores.max(-1) - np.array(ignored)
            chosen = np.flatnonzero(entities == entities[int(best.argmax())])
        else:
            start, label = self._read_target(target)
            at_start = np.flatnonzero((tokens.starts <= start) & (start < tokens.ends))
            if not len(at_start):
                raise InvalidInput(f"target is character {start}, where text has no word")
            groups = tokens.word_ids if label is not None or ignored[at_start[0]] else entities
            chosen = np.flatnonzero(groups == groups[at_start[0]])
            labels = labels if label is None else np.full_like(labels, self.labels.index(label))
        window, first = locate_token(windows, int(tokens.indices[chosen[0]]))
        positions = [first + int(index - tokens.indices[chosen[0]]) for index in tokens.indices[chosen]]
        # An entity may extend beyond its window.
        positions = [position for position in positions if position < len(windows[window].encoding)]
        label_ids = labels[chosen[: len(positions)]].tolist()

        def score(output: ModelOutput, batch: Batch) -> Tensor:
            logits = batch.tokens(output["logits"]).reshape(len(batch.seq_lens), -1, len(self.labels))
            scores: Tensor = logits.softmax(-1)[:, positions, label_ids]
            return scores.mean(-1)

        names = self.spans.groups if target is None or isinstance(target, int) else self.labels
        name = names[label_ids[0]]
        return [AttributionTarget(name, window, score)]

    def _read_target(self, target: JSON) -> tuple[int, str | None]:
        start, label = (target.get("start"), target.get("label")) if isinstance(target, dict) else (target, None)
        if type(start) is not int or not (label is None or label in self.labels):
            raise InvalidInput(
                'target must be a character, or {"start": character, "label": label} with one of the labels: '
                + ", ".join(self.labels)
            )
        return start, label

    def answers_match(self, expected: JSON, answer: JSON, tolerance: float) -> bool:
        """Compare entity by entity; with strategy `none`, a token may have another label of nearly the same score.

        If every score is within the tolerance, the best two labels of a token change places only if their scores
        differ by no more than that, so both are at most a half.
        """
        if len(expected) != len(answer):
            return False
        return all(_entities_match(*pair, tolerance) for pair in zip(expected, answer, strict=True))

    def schema(self) -> dict[str, JSON]:
        number, character = {"type": "number"}, {"type": "integer", "minimum": 0}
        span = {"word": {"type": "string"}, "start": character, "end": character}
        group = {"type": "string", "enum": list(dict.fromkeys(self.spans.groups))}
        entity = {"entity_group": group, "score": number, **span}
        label = {"type": "string", "enum": self.labels}
        token = {"entity": label, "score": number, "index": character, **span}
        schemas = [
            {"type": "object", "properties": item | self.abstained_schema(), "required": [*item]}
            for item in (entity, token)
        ]
        return {
            "item": self.item_schema(),
            "answer": {"type": "array", "items": {"oneOf": schemas}},
            "example": "Ada Lovelace lived in London.",
        }


def aggregate(scores: Output, word_starts: LabelIds, strategy: str) -> Output:
    """Return the scores of words, (words, labels), from those of their tokens, (tokens, labels).

    first: those of the first token. average: the mean. max: those of the token with the highest score, the first one
    of several.

    Args:
        scores: of tokens.
        word_starts: (words,), the first token of each word.
        strategy: the aggregation strategy.

    >>> aggregate(np.array([[0.6, 0.4], [0.2, 0.8], [0.5, 0.5]]), np.array([0, 2]), "max").tolist()
    [[0.2, 0.8], [0.5, 0.5]]
    """
    if strategy == "first" or len(word_starts) == len(scores):
        return scores[word_starts]
    counts = np.diff(np.append(word_starts, len(scores)))
    if strategy == "average":
        means: Output = (np.add.reduceat(scores, word_starts) / counts[:, None]).astype(np.float32)
        return means
    best = scores.max(-1)
    highest = np.flatnonzero(best == np.repeat(np.maximum.reduceat(best, word_starts), counts))
    return scores[highest[np.searchsorted(highest, word_starts)]]


def _entities_match(expected: JSON, answer: JSON, tolerance: float) -> bool:
    if "entity" in expected and "entity" in answer and expected["entity"] != answer["entity"]:
        nearly_equal = expected["score"] + answer["score"] <= 1 + tolerance
        return nearly_equal and values_allclose({**expected, "entity": answer["entity"]}, answer, tolerance)
    return values_allclose(expected, answer, tolerance)
