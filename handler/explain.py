"""Explanations of answers: attributions of words, by integrated gradients.

The gradients of a score are integrated along a straight line of embeddings, from a baseline (the same sequence with
padding tokens instead of its words) to the text; the integral is the contribution of each token (Sundararajan, Taly,
Yan 2017, "Axiomatic Attribution for Deep Networks"). Attributions are in units of the score: their sum is the score of
the text minus that of the baseline, up to the error of the sum, `convergence_delta`.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from handler.engine import Engine, is_device_failure, is_out_of_memory
from handler.errors import InternalError, OutOfMemory, RequestError, StartupError
from handler.protocol import JSON
from handler.sequences import join_windows
from handler.spans import align_to_text
from handler.tasks import AttributionTarget, Query, SequenceOutput, Task
from handler.tasks.parameters import AnyValue, Integer, Parameter

logger = logging.getLogger(__name__)

MAX_STEPS = 256
RTOL = 0.02  # of the score's difference from the baseline: beyond it the steps are doubled
MIN_DIFFERENCE = 0.5  # of the score from the baseline, that the error is compared with at least

PARAMETERS: dict[str, Parameter] = {
    "target": AnyValue(description="what to explain; by default the answer"),
    "n_steps": Integer(default=32, ge=1, le=MAX_STEPS, description="points between baseline and text, at first"),
    "top_words": Integer(description="only so many words, those that matter most"),
}


@dataclass(frozen=True)
class Attribution:
    """One score of one sequence, and the contribution of each token to it."""

    target: AttributionTarget
    sequence: SequenceOutput
    score: float
    baseline_score: float
    tokens: list[float]  # one contribution for each token of the sequence
    n_steps: int

    @property
    def convergence_delta(self) -> float:
        """The error of the sum: the contributions of the tokens minus the score's difference from the baseline."""
        return sum(self.tokens) - (self.score - self.baseline_score)

    @property
    def converged(self) -> bool:
        """Whether the error of the sum is small beside the score's difference from the baseline."""
        return abs(self.convergence_delta) <= RTOL * max(abs(self.score - self.baseline_score), MIN_DIFFERENCE)


class Explainer:
    """Explains the answers of one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def load(self) -> None:
        """Load what computes gradients, which takes seconds once; where it fails, so will each explanation."""
        with contextlib.suppress(Exception):
            self.engine.with_gradients()

    def explain(
        self,
        task: Task,
        query: Query,
        sequences: Sequence[SequenceOutput],
        options: dict[str, Any],
        deadline: float = math.inf,
    ) -> list[Attribution] | RequestError:
        """Attribute the scores of a target, given the computed sequences of a query.

        Args:
            options: a value of each of `PARAMETERS`.
            deadline: on the clock of `time.monotonic`, after which no further step is begun.
        """
        try:
            targets = task.attribution_targets(query, sequences, options["target"])
            self._check_gradients()
            return [
                self._converge(task, target, sequences[target.window], options["n_steps"], deadline)
                for target in targets
            ]
        except RequestError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a failed explanation must not fail the batch
            if is_device_failure(error):
                return self.engine.mark_device_failed()
            # The message of an exception may contain a user's text: only its type is logged.
            if is_out_of_memory(error):
                return OutOfMemory("not enough memory to explain this text")
            logger.error("unexpected %s while explaining", type(error).__name__)
            return InternalError(f"unexpected {type(error).__name__} while explaining")

    def _check_gradients(self) -> None:
        """Load what computes gradients; raises InternalError that says what failed and what to do."""
        try:
            self.engine.with_gradients()
        except Exception as error:
            if is_device_failure(error) or is_out_of_memory(error):
                raise
            logger.error("explanations: %s", loading_failure(error, with_message=True))
            raise InternalError(f"{loading_failure(error)}; predictions go on") from error

    def _converge(
        self, task: Task, target: AttributionTarget, sequence: SequenceOutput, n_steps: int, deadline: float
    ) -> Attribution:
        """Double the steps until the attribution has converged, up to `MAX_STEPS`."""
        attribution = self._attribute(task, target, sequence, n_steps, deadline)
        while not attribution.converged and attribution.n_steps * 2 <= MAX_STEPS:
            attribution = self._attribute(task, target, sequence, attribution.n_steps * 2, deadline)
        return attribution

    def _attribute(
        self, task: Task, target: AttributionTarget, sequence: SequenceOutput, n_steps: int, deadline: float
    ) -> Attribution:
        from handler.engine.gradients import integrate  # and with it PyTorch

        computed = integrate(self.engine.with_gradients(), task, target.score, sequence.encoding, n_steps, deadline)
        return Attribution(target, sequence, *computed, n_steps)


def loading_failure(error: Exception, *, with_message: bool = False) -> str:
    """Return why explanations cannot be computed, and what an operator does.

    Args:
        with_message: for a log: of an error that names files or settings. No text of a user is known where models load.
    """
    names_files = isinstance(error, StartupError | ImportError | OSError)
    reason = f"{type(error).__name__}: {error}" if with_message and names_files else type(error).__name__
    is_library = isinstance(error, ImportError) or (isinstance(error, OSError) and error.errno is None)  # of a library
    advice = (
        "PyTorch cannot be imported: install it again, as scripts/setup.sh does, and restart the server"
        if is_library
        else "register the archive again, and pack it again if that does not help"
    )
    return f"explanations load the model once more, by PyTorch, which failed ({reason}): {advice}"


def to_json(task: Task, query: Query, answer: JSON, attributions: Sequence[Attribution], top_words: int | None) -> JSON:
    """Return an explanation: of the only score, or of each score beside the answer."""
    by_label = {
        attribution.target.label: _attribution_to_json(task, query, attribution, top_words)
        for attribution in attributions
    }
    return next(iter(by_label.values())) if len(by_label) == 1 else {"answer": answer, **by_label}


def _attribution_to_json(task: Task, query: Query, attribution: Attribution, top_words: int | None) -> JSON:
    words = _words(task, query, attribution)
    if top_words is not None:
        ranking = sorted(range(len(words)), key=lambda index: -abs(words[index]["attribution"]))
        words = [words[index] for index in sorted(ranking[:top_words])]
    return {
        "label": attribution.target.label,
        "score": attribution.score,
        "baseline_score": attribution.baseline_score,
        "words": words,
        "convergence_delta": attribution.convergence_delta,
        "n_steps": attribution.n_steps,
    }


def _words(task: Task, query: Query, attribution: Attribution) -> list[dict[str, JSON]]:
    """Sum the contributions of the tokens of each word, as the tokenizer divides the text into words."""
    encoding, texts = attribution.sequence.encoding, query.texts[attribution.sequence.text_index]
    words: list[dict[str, JSON]] = []
    for sequence_id, text in enumerate(texts):
        if text is None or encoding.spans is None:
            continue
        marks_split_words = not task.tokenizer.has_subword_prefix
        tokens = align_to_text(join_windows([encoding], sequence_id), text, marks_split_words=marks_split_words)
        # A token in no word is one by itself.
        keys = [-1 - index if word < 0 else word for index, word in enumerate(tokens.word_ids.tolist())]
        for key in dict.fromkeys(keys):
            members = [index for index, other in enumerate(keys) if other == key]
            visible = [index for index in members if tokens.starts[index] < tokens.ends[index]] or members
            start, end = int(tokens.starts[visible].min()), int(tokens.ends[visible].max())
            field = {} if texts[1] is None else {"field": task.fields[sequence_id]}
            contribution = sum(attribution.tokens[index] for index in tokens.indices[members].tolist())
            word = {"word": text[start:end], "start": start, "end": end}
            words.append({**word, **field, "attribution": contribution})
    return words
