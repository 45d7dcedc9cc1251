"""Entities in a text: labels of tokens, joined into words and entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np
from torch import Tensor

from handler.batching import Batch
from handler.config import ServingConfig
from handler.errors import InvalidInput
from handler.protocol import JSON
from handler.sequences import EncodingOptions, Tokens, join_windows
from handler.tasks.base import (
    AttributionTarget,
    Output,
    Query,
    RaggedOutput,
    SequenceOutput,
    Task,
    alike,
    labels_of,
    locate,
    softmax,
)
from handler.tasks.parameters import Choice, Integer, StringList
from handler.tasks.tag_scheme import Places, Scheme
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.utils.generic import ModelOutput

Which: TypeAlias = tuple[int, int, str]  # the first and the last token of an entity, and what it is called
STRATEGIES = ("none", "simple", "first", "average", "max")
MANY = "Ada Lovelace wrote to Charles Babbage in London. "


class TokenClassification(Task):
    """token-classification.

    Answers equal those of the pipeline of transformers. Windows over a long text are put together token by token, each
    as the window says that shows most around it, so that nothing is told twice and no entity ends where a window does.
    Where windows disagree this is better than the pipeline, which keeps the longer of two overlapping entities, however
    near to an edge, and loses what the shorter one had beside it. Where they agree it is equal: of an entity that
    several windows tell alike the highest score counts. With strategy `none` there is no counterpart.
    """

    name = "token-classification"
    operation = "entities"
    auto_classes = ("AutoModelForTokenClassification",)
    overflows = ("window", "truncate", "refuse")
    golden_items = (
        "Ada Lovelace wrote to Charles Babbage in London.",
        "no",
        "Élodie Müller-Łukasz, 北京大学, Анна из Москвы и محمد: pneumonoultramicroscopic 🙂 👩‍👩‍👧‍👦",
        MANY * 60,
    )
    golden_parameters: ClassVar = {"aggregation_strategy": "none", "ignore_labels": []}  # every token counts

    def __init__(self, model_config: PretrainedConfig, config: ServingConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model_config, config, tokenizer)
        self.labels = labels_of(model_config)
        self.scheme = Scheme.of(self.labels)
        self.parameters = {
            "aggregation_strategy": Choice(accepted=STRATEGIES, default="simple"),
            "ignore_labels": StringList(default=["O"]),
            "stride": Integer(least=0, default=config.stride, about="tokens that windows share, at most half of one"),
        }

    def parse(self, value: JSON, given: Mapping[str, JSON]) -> Query:
        text, options = self.read_item(value), self.read_parameters(given)
        return Query(((text, None),), options, EncodingOptions(self.overflow, stride=options["stride"], spans=True))

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        return RaggedOutput(batch.tokens(output["logits"]), batch.counts)

    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        entities = self._tell(query, windows)
        if len(windows) > 1 and query.options["aggregation_strategy"] != "none":
            best: dict[Which, dict[str, JSON]] = {}
            for which, entity in (one for window in windows for one in self._tell(query, [window]).items()):
                if which in entities and entity["score"] > best.get(which, {"score": 0})["score"]:
                    best[which] = entity
            entities |= best
        return list(entities.values())

    def _tell(self, query: Query, windows: Sequence[SequenceOutput]) -> dict[Which, dict[str, JSON]]:
        """Return the entities, or with strategy `none` the tokens, that windows show together."""
        text, strategy = query.texts[0][0], query.options["aggregation_strategy"]
        ignored = query.options["ignore_labels"]
        tokens = join_windows([window.encoding for window in windows])
        if not len(tokens.ids):
            return {}
        scores = softmax(np.concatenate([window.values for window in windows])[tokens.at])
        words = self._spell(text, tokens)
        if strategy == "none":
            return self._tokens(tokens, words, scores, ignored)
        firsts = np.arange(len(words)) if strategy == "simple" else self._words(text, tokens, words)
        votes = vote(scores, firsts, strategy)
        labels, best = votes.argmax(-1), votes.max(-1)
        begins = self.scheme.begins(labels)
        ends = np.append(begins[1:], len(labels))
        sums = np.add.reduceat(best.astype(np.float64), begins)
        firsts = np.append(firsts, len(words))  # of units of tokens
        entities: dict[Which, dict[str, JSON]] = {}
        for begin, end, total in zip(begins.tolist(), ends.tolist(), sums.tolist(), strict=True):
            group = self.scheme.groups[labels[begin]]
            if group in ignored:
                continue
            units = [words[firsts[unit] : firsts[unit + 1]] for unit in range(begin, end)]
            spelled = [unit[0] for unit in units] if strategy == "simple" else [*map(self.tokenizer.join, units)]
            first, last = int(firsts[begin]), int(firsts[end]) - 1
            entities[int(tokens.places[first]), int(tokens.places[last]), group] = {
                "entity_group": group,
                "score": total / (end - begin),
                "word": self.tokenizer.join(spelled),
                "start": int(tokens.starts[first]),
                "end": int(tokens.ends[last]),
            }
        return entities

    def _tokens(
        self, tokens: Tokens, words: list[str], scores: Output, ignored: Sequence[str]
    ) -> dict[Which, dict[str, JSON]]:
        """Return every token that is not ignored; `index` is its place in the whole text, special tokens included."""
        labels = [self.labels[label] for label in scores.argmax(-1)]
        columns = (scores.max(-1), tokens.places, tokens.starts, tokens.ends)
        rows = zip(labels, *(column.tolist() for column in columns), words, strict=True)
        return {
            (at, at, label): {"entity": label, "score": score, "index": at, "word": word, "start": start, "end": end}
            for label, score, at, start, end, word in rows
            if label not in ignored
        }

    def _spell(self, text: str, tokens: Tokens) -> list[str]:
        """Return each token as the vocabulary has it, an unknown one as the text has it."""
        spelled = {token: self.tokenizer.token(token) for token in set(tokens.ids.tolist())}
        unknown = self.tokenizer.unknown_id
        triples = zip(tokens.ids.tolist(), tokens.starts.tolist(), tokens.ends.tolist(), strict=True)
        return [text[start:end] if token == unknown else spelled[token] for token, start, end in triples]

    def _words(self, text: str, tokens: Tokens, spelled: list[str]) -> Places:
        """Return where words begin, as the pipeline sees it: by WordPiece's prefixes, else by spaces."""
        spans = zip(spelled, tokens.ids.tolist(), tokens.starts.tolist(), tokens.ends.tolist(), strict=True)
        if self.tokenizer.joins_words_by_prefix:
            begins = [len(word) == end - start for word, _, start, end in spans]
        else:
            unknown = self.tokenizer.unknown_id
            begins = [
                start == 0 or " " in text[start - 1 : start + 1] or token == unknown for _, token, start, _ in spans
            ]
        return np.flatnonzero([True, *begins[1:]])

    def attribution_targets(
        self, query: Query, windows: Sequence[SequenceOutput], target: JSON
    ) -> list[AttributionTarget]:
        """Explain why the tokens of an entity have their labels: the mean of the scores of those labels.

        Args:
            target: a character of the entity or, where none is, of the word; or {"start": character, "label": label}
                for the score of another label of the word there. By default the entity of the best score.
        """
        tokens = join_windows([window.encoding for window in windows])
        scores = softmax(np.concatenate([window.values for window in windows])[tokens.at])
        labels = scores.argmax(-1)
        begins = self.scheme.begins(labels)
        entities = np.searchsorted(begins, np.arange(len(labels)), side="right")  # of which entity a token is
        ignored = [self.scheme.groups[label] in query.options["ignore_labels"] for label in labels]
        if target is None:
            best = scores.max(-1) - np.array(ignored)
            chosen = np.flatnonzero(entities == entities[int(best.argmax())])
        else:
            start, label = self._read_target(target)
            there = np.flatnonzero((tokens.starts <= start) & (start < tokens.ends))
            if not len(there):
                raise InvalidInput(f"target is character {start}, where text has no word")
            same = tokens.words if label is not None or ignored[there[0]] else entities
            chosen = np.flatnonzero(same == same[there[0]])
            labels = labels if label is None else np.full_like(labels, self.labels.index(label))
        window, first = locate(windows, int(tokens.at[chosen[0]]))
        places = [first + int(at - tokens.at[chosen[0]]) for at in tokens.at[chosen]]
        shown = [place for place in places if place < len(windows[window].encoding)]  # an entity may leave its window
        wanted = labels[chosen[: len(shown)]].tolist()

        def score(output: ModelOutput, batch: Batch) -> Tensor:
            logits = batch.tokens(output["logits"]).reshape(len(batch.lengths), -1, len(self.labels))
            of_tokens: Tensor = logits.softmax(-1)[:, shown, wanted]
            return of_tokens.mean(-1)

        name = self.scheme.groups[wanted[0]] if target is None or isinstance(target, int) else self.labels[wanted[0]]
        return [AttributionTarget(name, window, score)]

    def _read_target(self, target: JSON) -> tuple[int, str | None]:
        start, label = (target.get("start"), target.get("label")) if isinstance(target, dict) else (target, None)
        if type(start) is not int or not (label is None or label in self.labels):
            raise InvalidInput(
                'target must be a character, or {"start": character, "label": label} with one of the labels: '
                + ", ".join(self.labels)
            )
        return start, label

    def agree(self, expected: JSON, answer: JSON, tolerance: float) -> bool:
        """Compare entity by entity; with strategy `none`, a token may take another label of nearly the same score.

        Scores that each lie within the tolerance let the best two labels of a token change places only where their
        scores are as near, and then both are half at most.
        """
        if len(expected) != len(answer):
            return False
        return all(_agree(*pair, tolerance) for pair in zip(expected, answer, strict=True))

    def schema(self) -> dict[str, JSON]:
        number, character = {"type": "number"}, {"type": "integer", "minimum": 0}
        place = {"word": {"type": "string"}, "start": character, "end": character}
        group = {"type": "string", "enum": list(dict.fromkeys(self.scheme.groups))}
        entity = {"entity_group": group, "score": number, **place}
        label = {"type": "string", "enum": self.labels}
        token = {"entity": label, "score": number, "index": character, **place}
        kinds = [{"type": "object", "properties": kind, "required": [*kind]} for kind in (entity, token)]
        return {
            "item": self.item_schema(),
            "answer": {"type": "array", "items": {"oneOf": kinds}},
            "example": "Ada Lovelace lived in London.",
        }


def vote(scores: Output, firsts: Places, strategy: str) -> Output:
    """Return the scores of words, (words, labels), from those of their tokens, (tokens, labels).

    first: of a word's first token. average: the mean. max: of its surest token, the first of several.

    Args:
        firsts: (words,), the first token of each word.

    >>> vote(np.array([[0.6, 0.4], [0.2, 0.8], [0.5, 0.5]]), np.array([0, 2]), "max").tolist()
    [[0.2, 0.8], [0.5, 0.5]]
    """
    if strategy == "first" or len(firsts) == len(scores):
        return scores[firsts]
    counts = np.diff(np.append(firsts, len(scores)))
    if strategy == "average":
        means: Output = (np.add.reduceat(scores, firsts) / counts[:, None]).astype(np.float32)
        return means
    best = scores.max(-1)
    surest = np.flatnonzero(best == np.repeat(np.maximum.reduceat(best, firsts), counts))
    return scores[surest[np.searchsorted(surest, firsts)]]


def _agree(expected: JSON, answer: JSON, tolerance: float) -> bool:
    if "entity" in expected and "entity" in answer and expected["entity"] != answer["entity"]:
        near = expected["score"] + answer["score"] <= 1 + tolerance
        return near and alike({**expected, "entity": answer["entity"]}, answer, tolerance)
    return alike(expected, answer, tolerance)
