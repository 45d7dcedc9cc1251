"""Answers to a question: spans of a context, from a score for every token to begin and to end one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handler.batching import Batch
from handler.config import ServingConfig
from handler.errors import InvalidInput
from handler.protocol import JSON
from handler.sequences import EncodingOptions, Tokens, join_windows
from handler.tasks.base import AttributionTarget, Query, RaggedOutput, SequenceOutput, Task, locate, softmax
from handler.tasks.parameters import Boolean, Integer
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.utils.generic import ModelOutput

Shares: TypeAlias = NDArray[np.float64]
PARCEL = "The parcel left Hamburg on Monday, 3 May, and Ms Müller-Łukasz signed for it in 東京 at noon. 🙂 "


class QuestionAnswering(Task):
    """question-answering.

    The score of a span is its first token's share of all starts times its last token's share of all ends, as in the
    pipeline that transformers had up to version 4: shares among the tokens of the context and the first token of the
    sequence, which stands for "no answer". Where this differs from that pipeline:

    Windows over a long context are put together token by token, each as the window says that shows most around it, and
    shares are taken over all of them, with the "no answer" of the window that believes in it least. The pipeline takes
    shares within each window, so that a window without the answer spreads its own whole over nonsense, and a word that
    stands alone in one beats the answer that has a rival beside it in another.

    Several answers never overlap: of spans that share a character only the best is told.
    """

    name = "question-answering"
    operation = "answer"
    auto_classes = ("AutoModelForQuestionAnswering",)
    overflows = ("window", "truncate", "refuse")
    fields = ("question", "context")
    golden_items = (
        {"question": "Who signed for the parcel?", "context": PARCEL},
        {"question": "Où? 🙂", "context": "屏幕坏了 на улице, aux Champs-Élysées: pneumonoultramicroscopic"},
        {"question": "Why?", "context": "no"},
        {"question": "When did the parcel leave? " * 20, "context": PARCEL * 30},
    )
    golden_parameters: ClassVar = {"top_k": 3, "handle_impossible_answer": True}

    def __init__(self, model_config: PretrainedConfig, config: ServingConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model_config, config, tokenizer)
        limit = tokenizer.max_length
        self.parameters = {
            "top_k": Integer(default=1, most=1000, about="answers; more than 1 for a list of them"),
            "doc_stride": Integer(
                least=0, default=config.stride, about="tokens that windows share, at most half of one"
            ),
            "max_answer_len": Integer(default=min(15, limit), most=limit, about="tokens"),
            "max_question_len": Integer(default=64, about="tokens; the rest of the question is cut"),
            "max_seq_len": Integer(default=limit, least=min(16, limit), most=limit, about="tokens of one window"),
            "handle_impossible_answer": Boolean(
                default=False, about="whether an empty answer may say that there is none"
            ),
            "align_to_words": Boolean(default=True, about="whether answers begin and end with a word"),
        }

    def parse(self, value: JSON, given: Mapping[str, JSON]) -> Query:
        fields = self.read_fields(value, "question", "context")
        pair = self.read_text(fields["question"], "question"), self.read_text(fields["context"], "context")
        options = self.read_parameters(given)
        layout = EncodingOptions(
            self.overflow,
            gives="second",
            stride=options["doc_stride"],
            max_length=options["max_seq_len"],
            max_first=options["max_question_len"],
            spans=True,
        )
        return Query((pair,), options, layout)

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        logits = torch.stack((output["start_logits"], output["end_logits"]), -1)
        return RaggedOutput(batch.tokens(logits), batch.counts)

    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        options, context = query.options, query.texts[0][1] or ""
        tokens = join_windows([window.encoding for window in windows], owner=1)
        none = min((window.values[0] for window in windows), key=lambda logits: float(logits.sum()))
        logits = np.concatenate([window.values for window in windows])[tokens.at]
        starts, ends = softmax(np.concatenate((none[None], logits)).T.astype(np.float64))  # (1 + tokens,) each
        blank = [not context[start:end].strip() for start, end in zip(tokens.starts, tokens.ends, strict=True)]
        starts[1:][blank] = ends[1:][blank] = 0  # no answer begins or ends with a blank
        spans = best_spans(starts[1:], ends[1:], tokens, options["max_answer_len"], words=options["align_to_words"])
        answers: list[dict[str, JSON]] = [
            {"answer": context[start:end], "score": score, "start": start, "end": end}
            for start, end, score in islice(spans, options["top_k"])
        ]
        if options["handle_impossible_answer"]:
            answers.append({"answer": "", "score": float(starts[0] * ends[0]), "start": 0, "end": 0})
        if not answers:
            raise InvalidInput("context holds nothing that this model reads")
        ranked = sorted(answers, key=lambda answer: -answer["score"])[: options["top_k"]]
        return ranked if options["top_k"] > 1 else ranked[0]

    def attribution_targets(
        self, query: Query, windows: Sequence[SequenceOutput], target: JSON
    ) -> list[AttributionTarget]:
        """Explain why an answer starts and why it ends where it does: two shares of one window.

        Args:
            target: {"start": character, "end": character} of a span of the context, by default the answer.
        """
        tokens = join_windows([window.encoding for window in windows], owner=1)
        if target is None:
            only = replace(query, options={**query.options, "top_k": 1})
            target = self.decode(only, windows)
        start, end = (target.get("start"), target.get("end")) if isinstance(target, dict) else (None, None)
        if type(start) is not int or type(end) is not int:
            raise InvalidInput('target must be {"start": character, "end": character} of a span of the context')
        inside = np.flatnonzero((tokens.starts < end) & (tokens.ends > start))
        if len(inside) == 0 and (start, end) != (0, 0):
            raise InvalidInput("target is a span in which the context has no word")
        logits = np.concatenate([window.values for window in windows])
        places = tokens.at[inside]
        if not len(places):  # the first token of the window that believes least in "no answer" stands for that
            firsts = np.cumsum([0, *(len(window.encoding) for window in windows[:-1])])
            places = firsts[[logits[firsts].sum(-1).argmin()]]
        edges = enumerate(("start", "end"))
        return [_aim(edge, windows, int(places[logits[places, column].argmax()])) for column, edge in edges]

    def agree(self, expected: JSON, answer: JSON, tolerance: float) -> bool:
        """Compare by span, scores also by their own size, for those of many answers are small.

        A span may be missing from one side where that has another in its place, over it or as the last of its list,
        which is at least nearly as good.
        """
        one, other = (told if isinstance(told, list) else [told] for told in (expected, answer))
        return _bears(one, other, tolerance) and _bears(other, one, tolerance)

    def schema(self) -> dict[str, JSON]:
        text, character = self.text_schema(), {"type": "integer", "minimum": 0}
        span = {"answer": {"type": "string"}, "score": {"type": "number"}, "start": character, "end": character}
        answer = {"type": "object", "properties": span, "required": [*span]}
        return {
            "item": {
                "type": "object",
                "properties": {"question": text, "context": text},
                "required": ["question", "context"],
                "additionalProperties": False,
            },
            "answer": {"oneOf": [answer, {"type": "array", "items": answer}]},
            "example": {"question": "Who wrote the letter?", "context": "Ada wrote the letter in London."},
        }


def _aim(edge: str, windows: Sequence[SequenceOutput], at: int) -> AttributionTarget:
    """Aim at a token's share of all starts, or ends, in its window."""
    window, place = locate(windows, at)
    spans = windows[window].encoding.spans
    owners = spans.owners if spans else []
    context = [place for place, owner in enumerate(owners) if place == 0 or owner == 1]

    def score(output: ModelOutput, batch: Batch) -> Tensor:
        logits = batch.tokens(output[f"{edge}_logits"]).reshape(len(batch.lengths), -1)
        shares: Tensor = logits[:, context].softmax(-1)
        return shares[:, context.index(place)]

    return AttributionTarget(edge, window, score)


def best_spans(
    starts: Shares, ends: Shares, tokens: Tokens, longest: int, *, words: bool
) -> Iterator[tuple[int, int, float]]:
    """Yield spans (start, end, score) in characters, best first; none overlaps one before it.

    Args:
        starts, ends: (tokens,), how likely a span begins or ends with a token; 0 for never.
        longest: tokens of a span, before it is extended to words.
        words: whether spans are extended to whole words.
    """
    best, reach = _best_ends(starts, ends, longest)
    taken = np.zeros(len(starts), dtype=np.bool_)
    while len(best) and not best[first := int(best.argmax())] <= 0:  # a NaN goes on, to be found when it is written
        last, score = first + int(reach[first]), float(best[first])
        if words and tokens.words[first] >= 0 and tokens.words[last] >= 0:
            first = int(np.flatnonzero(tokens.words == tokens.words[first])[0])
            last = int(np.flatnonzero(tokens.words == tokens.words[last])[-1])
        start, end = int(tokens.starts[first]), int(tokens.ends[last])
        yield start, end, score
        now = (tokens.starts < end) & (tokens.ends > start)
        now[first : last + 1] = True
        taken |= now
        best[taken] = 0
        begin = int(now.argmax())
        for row in range(max(0, begin - longest), begin):  # whose best span may run into what is taken now
            if best[row] > 0 and taken[row : row + int(reach[row]) + 1].any():
                free = ends[row : row + int(taken[row:].argmax())]
                reach[row] = free.argmax()
                best[row] = starts[row] * free.max()


def _best_ends(starts: Shares, ends: Shares, longest: int) -> tuple[Shares, NDArray[np.intp]]:
    """Return for each token the score of the best span that begins with it, and how many tokens further that ends.

    >>> _best_ends(np.array([0.5, 0.5]), np.array([0.1, 0.9]), longest=2)[1].tolist()
    [1, 0]
    """
    best, reach = starts * ends, np.zeros(len(starts), dtype=np.intp)
    for further in range(1, min(longest, len(starts))):
        scores = starts[:-further] * ends[further:]
        better = scores > best[:-further]
        best[:-further][better] = scores[better]
        reach[:-further][better] = further
    return best, reach


def _bears(expected: Sequence[JSON], answer: Sequence[JSON], tolerance: float) -> bool:
    """Tell whether each expected span is among the answers, or has its better there."""
    told = {(one["start"], one["end"]): one for one in answer}
    for one in expected:
        same = told.get((one["start"], one["end"]))
        if same and not (same["answer"] == one["answer"] and _near(same["score"], one["score"], tolerance)):
            return False
        rivals = [its["score"] for its in answer if its["start"] < one["end"] and one["start"] < its["end"]]
        best = max([*rivals, *(its["score"] for its in answer[-1:])], default=0.0)
        if not same and best < one["score"] and not _near(best, one["score"], tolerance):
            return False
    return True


def _near(one: float, other: float, tolerance: float) -> bool:
    return abs(one - other) <= tolerance * min(1.0, 10 * max(one, other))
