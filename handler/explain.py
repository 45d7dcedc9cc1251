"""Why an answer: attributions of words, by integrated gradients.

A score of the model is followed from a baseline, the same sequence with padding tokens in the place of its words, along
a straight line of embeddings to the text; the gradients on the way add up to what each token contributes (Sundararajan,
Taly, Yan 2017, "Axiomatic Attribution for Deep Networks"; computed by captum). Attributions are in units of the score:
together they are the score of the text minus that of the baseline, but for the error of the sum, `convergence_delta`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from handler.engine import Engine, is_out_of_memory
from handler.errors import InternalError, OutOfMemory, Overloaded, RequestError
from handler.protocol import JSON
from handler.sequences import Encoding
from handler.tasks import AttributionTarget, Query, SequenceOutput, Task
from handler.tasks.parameters import AnyValue, Integer, Parameter

logger = logging.getLogger(__name__)

PARAMETERS: dict[str, Parameter] = {
    "target": AnyValue(about="what to explain; by default the answer"),
    "n_steps": Integer(default=32, least=1, most=256, about="points between baseline and text, at first"),
    "top_words": Integer(about="only so many words, those that matter most"),
}
TOLERANCE = 0.02  # of the score's way from the baseline, and of 1: beyond it the steps are doubled
MOST_STEPS = 256


@dataclass(frozen=True)
class Attribution:
    """One score of one window, and what each token contributes to it."""

    aim: AttributionTarget
    window: SequenceOutput
    score: float
    baseline_score: float
    tokens: list[float]  # one of each token of the window
    n_steps: int

    @property
    def convergence_delta(self) -> float:
        """The error of the sum: what the tokens contribute, less the way of the score."""
        return sum(self.tokens) - (self.score - self.baseline_score)

    def within(self, tolerance: float) -> bool:
        """Tell whether the error of the sum is a small part of the way, or of 1 where there is hardly any way."""
        return abs(self.convergence_delta) <= tolerance * max(abs(self.score - self.baseline_score), 0.5)


class Explainer:
    """Explains the answers of one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def explain(
        self,
        task: Task,
        query: Query,
        windows: Sequence[SequenceOutput],
        wanted: dict[str, Any],
        deadline: float = math.inf,
    ) -> list[Attribution] | RequestError:
        """Attribute the scores of a target, given the windows of a query that were computed.

        Args:
            wanted: a value of each of `PARAMETERS`.
            deadline: on the clock of `time.monotonic`, after which no further step is begun.
        """
        try:
            aims = task.attribution_targets(query, windows, wanted["target"])
            return [self._settle(task, aim, windows[aim.window], wanted["n_steps"], deadline) for aim in aims]
        except RequestError as error:
            return error
        except torch.AcceleratorError:
            return self.engine.mark_device_failed()
        except Exception as error:  # noqa: BLE001 - one explanation must not take the batch along
            # The message of an exception may hold a user's text: only its type is told.
            if is_out_of_memory(error):
                return OutOfMemory("not enough memory to explain this text")
            logger.error("unexpected %s while explaining", type(error).__name__)
            return InternalError(f"unexpected {type(error).__name__} while explaining")

    def _settle(
        self, task: Task, aim: AttributionTarget, window: SequenceOutput, n_steps: int, deadline: float
    ) -> Attribution:
        """Double the steps until the sum is right, or there are too many."""
        found = self._attribute(task, aim, window, n_steps, deadline)
        while not found.within(TOLERANCE) and found.n_steps * 2 <= MOST_STEPS:
            found = self._attribute(task, aim, window, found.n_steps * 2, deadline)
        return found

    def _attribute(
        self, task: Task, aim: AttributionTarget, window: SequenceOutput, n_steps: int, deadline: float
    ) -> Attribution:
        from captum.attr import IntegratedGradients  # type: ignore[import-untyped]  # takes a second, and memory: only for those who ask

        encoding = window.encoding
        text, baseline = self._embeddings(encoding)

        def score(embeddings: Tensor) -> Tensor:
            """Return the score (n,) of n variants (n, tokens, width)."""
            if time.monotonic() > deadline:
                raise Overloaded("not enough time to explain this in one batch: ask for fewer or shorter texts at once")
            batch = self.engine.build_batch(task, [encoding] * len(embeddings))
            shaped = embeddings.reshape(*batch.input_ids.shape, -1)
            return aim.score(self.engine.call(task, batch, shaped), batch).float()

        with torch.no_grad():
            end, start = score(torch.stack([text, baseline])).tolist()
        contributions = IntegratedGradients(score).attribute(
            text.unsqueeze(0),
            baseline.unsqueeze(0),
            n_steps=n_steps,
            # A step back needs the states of every layer: a quarter of the tokens of a forward pass at once.
            internal_batch_size=max(1, self.engine.max_batch_tokens // 4 // len(encoding)),
        )
        tokens = contributions[0].sum(-1).tolist()
        return Attribution(aim, window, end, start, tokens, n_steps)

    @torch.no_grad()
    def _embeddings(self, encoding: Encoding) -> tuple[Tensor, Tensor]:
        """Return the embeddings (tokens, width) of a text, and those of padding between its special tokens."""
        own = encoding.spans.sequence_ids if encoding.spans else [None] * len(encoding)
        padded = [
            token if owner is None else self.engine.pad_id for token, owner in zip(encoding.ids, own, strict=True)
        ]
        table: Any = self.engine.model.get_input_embeddings()
        both = table(torch.tensor([encoding.ids, padded], device=self.engine.device)).float()
        return both[0], both[1]


def write(task: Task, query: Query, answer: JSON, found: Sequence[Attribution], top_words: int | None) -> JSON:
    """Put attributions into one JSON value: that of the only score, or the answer and those of each of its scores."""
    written = {one.aim.label: _write(task, query, one, top_words) for one in found}
    return next(iter(written.values())) if len(written) == 1 else {"answer": answer, **written}


def _write(task: Task, query: Query, one: Attribution, top_words: int | None) -> JSON:
    words = _words(task, query, one)
    if top_words is not None:
        heaviest = sorted(range(len(words)), key=lambda index: -abs(words[index]["attribution"]))[:top_words]
        words = [words[index] for index in sorted(heaviest)]
    return {
        "label": one.aim.label,
        "score": one.score,
        "baseline_score": one.baseline_score,
        "words": words,
        "convergence_delta": one.convergence_delta,
        "n_steps": one.n_steps,
    }


def _words(task: Task, query: Query, one: Attribution) -> list[dict[str, JSON]]:
    """Add up the tokens of each word; a word is what the tokenizer takes for one, at its place in the text."""
    spans, texts = one.window.encoding.spans, query.texts[one.window.text_index]
    if spans is None:
        return []
    words: dict[tuple[int, int], list[int]] = {}
    for place, (owner, word) in enumerate(zip(spans.sequence_ids, spans.word_ids, strict=True)):
        if owner is not None:
            words.setdefault((owner, -1 - place if word is None else word), []).append(place)
    found = []
    for (owner, _), places in words.items():
        start, end = _extent(spans.offsets[place] for place in places)
        told: dict[str, JSON] = {"word": (texts[owner] or "")[start:end], "start": start, "end": end}
        if texts[1] is not None:
            told["field"] = task.fields[owner]
        found.append({**told, "attribution": sum(one.tokens[place] for place in places)})
    return found


def _extent(offsets: Iterable[tuple[int, int]]) -> tuple[int, int]:
    starts, ends = zip(*offsets, strict=True)
    return min(starts), max(ends)
