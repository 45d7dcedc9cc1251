"""Answer a question with a span of a context, from the logits of each token as the start and the end of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from handler.activations import softmax
from handler.arrays import namespace
from handler.config import ServingConfig
from handler.errors import InvalidInput
from handler.model_folder import ModelFolder
from handler.protocol import JSON
from handler.sequences import EncodingOptions, Tokens, join_windows
from handler.spans import align_to_text, best_spans
from handler.tasks.base import Task
from handler.tasks.parameters import Boolean, Integer
from handler.tasks.queries import AttributionTarget, Query, RaggedOutput, SequenceOutput, locate_token
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.utils.generic import ModelOutput

    from handler.batching import Batch

SAMPLE_CONTEXT = "The parcel left Hamburg on Monday, 3 May, and Ms Müller-Łukasz signed for it in 東京 at noon. 🙂 "


class QuestionAnswering(Task):
    """question-answering.

    The score of a span is the probability of its first token as start times that of its last token as end, as in the
    pipeline that transformers had up to version 4: a softmax over the tokens of the context and the first token of the
    sequence, which stands for "no answer". Differences from that pipeline:

    The windows over a long context are joined, each token with the logits of the window that has most context around
    it, and the softmax is over all of them, with the lowest "no answer" of all windows. The pipeline takes the softmax
    within each window. A window without the answer then distributes a whole probability among wrong spans, and one of
    these can have a higher score than the answer in another window.

    Several answers never overlap: of spans that share a character only the best is returned.
    """

    name = "question-answering"
    operation = "answer"
    auto_classes = ("AutoModelForQuestionAnswering",)
    overflows = ("window", "truncate", "refuse")
    fields = ("question", "context")
    calibrated_parameters = ("raw", "min_confidence")
    self_test_items = (
        {"question": "Who signed for the parcel?", "context": SAMPLE_CONTEXT},
        {"question": "Où? 🙂", "context": "屏幕坏了 на улице, aux Champs-Élysées: pneumonoultramicroscopic"},
        {"question": "Why?", "context": "no"},
        {"question": "When did the parcel leave? " * 20, "context": SAMPLE_CONTEXT * 30},
    )
    self_test_parameters: ClassVar = {"top_k": 3, "handle_impossible_answer": True}

    def __init__(self, model: ModelFolder, config: ServingConfig, tokenizer: Tokenizer) -> None:
        super().__init__(model, config, tokenizer)
        limit = tokenizer.max_length
        self.parameters = {
            "top_k": Integer(default=1, le=1000, description="answers; more than 1 for a list of them"),
            "doc_stride": Integer(
                ge=0, default=config.stride, description="tokens that windows share, at most half of one"
            ),
            "max_answer_len": Integer(default=min(15, limit), le=limit, description="tokens"),
            "max_question_len": Integer(default=64, description="tokens; the rest of the question is cut"),
            "max_seq_len": Integer(default=limit, ge=min(16, limit), le=limit, description="tokens of one window"),
            "handle_impossible_answer": Boolean(
                default=False, description="whether an empty answer may say that there is none"
            ),
            "align_to_words": Boolean(default=True, description="whether answers begin and end with a word"),
        }

    def parse(self, value: JSON, parameters: Mapping[str, JSON]) -> Query:
        fields = self.read_fields(value, "question", "context")
        pair = self.read_text(fields["question"], "question"), self.read_text(fields["context"], "context")
        values = self.read_parameters(parameters)
        options = EncodingOptions(
            self.overflow,
            fields=self.fields,
            truncation_strategy="only_second",
            stride=values["doc_stride"],
            max_length=values["max_seq_len"],
            max_first=values["max_question_len"],
            return_spans=True,
        )
        return Query((pair,), values, options)

    def pool(self, output: ModelOutput, batch: Batch) -> RaggedOutput:
        edges = output["start_logits"], output["end_logits"]
        logits = namespace(edges[0]).stack(edges, -1)
        return RaggedOutput(batch.tokens(logits), batch.counts)

    def decode(self, query: Query, windows: Sequence[SequenceOutput]) -> JSON:
        parameters, context = query.parameters, query.texts[0][1] or ""
        tokens = self._context_tokens(query, windows)
        no_answer = min((window.values[0] for window in windows), key=lambda logits: float(logits.sum()))
        logits = np.concatenate([window.values for window in windows])[tokens.indices]
        starts, ends = softmax(np.concatenate((no_answer[None], logits)).T.astype(np.float64))  # (1 + tokens,) each
        is_blank = tokens.starts == tokens.ends
        starts[1:][is_blank] = ends[1:][is_blank] = 0  # no answer begins or ends with a blank
        spans = best_spans(
            starts[1:], ends[1:], tokens, parameters["max_answer_len"], align_to_words=parameters["align_to_words"]
        )
        answers: list[dict[str, JSON]] = [
            {"answer": context[start:end], "score": score, "start": start, "end": end}
            for start, end, score in islice(spans, parameters["top_k"])
        ]
        if parameters["handle_impossible_answer"]:
            answers.append({"answer": "", "score": float(starts[0] * ends[0]), "start": 0, "end": 0})
        if not answers:
            raise InvalidInput("context holds nothing that this model reads")
        ranked = sorted(answers, key=lambda answer: -answer["score"])[: parameters["top_k"]]
        scores = self.calibrated(np.array([answer["score"] for answer in ranked]), query, _variant(query))
        for answer, score in zip(ranked, scores.tolist(), strict=True):
            answer |= {"score": score, **self.abstains(query, score)}
        return ranked if parameters["top_k"] > 1 else ranked[0]

    def judgements(self, query: Query, answer: JSON) -> list[tuple[str | None, float]]:
        best = answer[0] if isinstance(answer, list) else answer
        label = "answer" if best["answer"] else "no answer"
        return [(label, best["score"])] if self.is_calibrated(query, _variant(query)) else []

    def attribution_targets(
        self, query: Query, windows: Sequence[SequenceOutput], target: JSON
    ) -> list[AttributionTarget]:
        """Return the probabilities of the start and of the end of an answer, each in one window.

        Args:
            target: {"start": character, "end": character} of a span of the context, by default the answer.
        """
        tokens = self._context_tokens(query, windows)
        if target is None:
            target = self.decode(replace(query, parameters={**query.parameters, "top_k": 1}), windows)
        start, end = (target.get("start"), target.get("end")) if isinstance(target, dict) else (None, None)
        if type(start) is not int or type(end) is not int:
            raise InvalidInput('target must be {"start": character, "end": character} of a span of the context')
        inside = np.flatnonzero((tokens.starts < end) & (tokens.ends > start))
        if len(inside) == 0 and (start, end) != (0, 0):
            raise InvalidInput("target is a span in which the context has no word")
        logits = np.concatenate([window.values for window in windows])
        indices = tokens.indices[inside]
        if not len(indices):  # "no answer" is the first token of the window where that has the lowest logits
            firsts = np.cumsum([0, *(len(window.encoding) for window in windows[:-1])])
            indices = firsts[[logits[firsts].sum(-1).argmin()]]
        return [
            _edge_target(edge, windows, int(indices[logits[indices, column].argmax()]))
            for column, edge in enumerate(("start", "end"))
        ]

    def _context_tokens(self, query: Query, windows: Sequence[SequenceOutput]) -> Tokens:
        """Return the tokens of the context, with spans and words of whole characters."""
        tokens = join_windows([window.encoding for window in windows], sequence_id=1)
        marks_split_words = not self.tokenizer.has_subword_prefix
        return align_to_text(tokens, query.texts[0][1] or "", marks_split_words=marks_split_words)

    def answers_match(self, expected: JSON, answer: JSON, tolerance: float) -> bool:
        """Compare by span; scores relative to their size too, since those of many answers are small.

        A span may be missing from one side if that has another with at least nearly its score: one that overlaps it,
        or the last of the list.
        """
        rankings = [value if isinstance(value, list) else [value] for value in (expected, answer)]
        return _contains(rankings[0], rankings[1], tolerance) and _contains(rankings[1], rankings[0], tolerance)

    def schema(self) -> dict[str, JSON]:
        text, character = self.text_schema(), {"type": "integer", "minimum": 0}
        span = {"answer": {"type": "string"}, "score": {"type": "number"}, "start": character, "end": character}
        answer = {"type": "object", "properties": span | self.abstained_schema(), "required": [*span]}
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


def _variant(query: Query) -> str:
    """Return which scores are calibrated: those of questions that may have no answer, or that have one."""
    return "handle_impossible_answer" if query.parameters["handle_impossible_answer"] else "answer"


def _edge_target(edge: str, windows: Sequence[SequenceOutput], index: int) -> AttributionTarget:
    """Return the probability of a token as the start, or the end, in its window."""
    window, position = locate_token(windows, index)
    spans = windows[window].encoding.spans
    sequence_ids = spans.sequence_ids if spans else []
    context = [position for position, owner in enumerate(sequence_ids) if position == 0 or owner == 1]

    def score(output: ModelOutput, batch: Batch) -> Tensor:
        logits = batch.tokens(output[f"{edge}_logits"]).reshape(len(batch.seq_lens), -1)
        probabilities: Tensor = logits[:, context].softmax(-1)
        return probabilities[:, context.index(position)]

    return AttributionTarget(edge, window, score)


def _contains(ranking: Sequence[JSON], spans: Sequence[JSON], tolerance: float) -> bool:
    """Return whether each span is in a ranking, or is replaced there by one with nearly its score or more."""
    by_span = {(item["start"], item["end"]): item for item in ranking}
    for span in spans:
        same = by_span.get((span["start"], span["end"]))
        if same and not (same["answer"] == span["answer"] and _scores_close(same["score"], span["score"], tolerance)):
            return False
        overlapping = [item["score"] for item in ranking if item["start"] < span["end"] and span["start"] < item["end"]]
        best = max([*overlapping, *(item["score"] for item in ranking[-1:])], default=0.0)
        if not same and best < span["score"] and not _scores_close(best, span["score"], tolerance):
            return False
    return True


def _scores_close(score: float, other: float, tolerance: float) -> bool:
    return abs(score - other) <= tolerance * min(1.0, 10 * max(score, other))
