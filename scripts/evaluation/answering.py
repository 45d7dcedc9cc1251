"""Ask a model questions, each once: answers are kept in a file, so that an interrupted evaluation goes on.

The file has one JSON line an answer or explanation, with a hash of model, parameters and question. Texts that some of
them repeat are left out; errors are not kept, so the next run asks again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from handler.protocol import JSON
from scripts.cli.console import ScriptError, progress, say
from scripts.client.answers import is_error
from scripts.client.bulk import in_batches, in_order
from scripts.client.predictions import scores
from scripts.evaluation.models import EvaluatedModel
from scripts.evaluation.tasks.base import ModelQuestion

ANSWERS_FILE = "answers.jsonl"  # in the output folder
TEXT_FIELDS = frozenset({"word", "sequence", "answer", "token_str"})
CHECKED = 8  # kept answers that are asked again
ROUNDING = 0.02  # of scores in int8 or bf16, whose batches differ
UNKNOWN_TOKENS = ("[UNK]", "<unk>")


class AnswerCache:
    """Answers by key, in memory and in a file to which each new one is added.

    In memory an answer is JSON too: 77 labels with scores are 4 kB so, and 18 kB as objects.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, bytes] = {}
        if path.is_file():
            whole = 0
            with path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n") and line[:2] == b'["'[: len(line)]:  # cut short by an interruption
                        break
                    try:
                        key, answer = json.loads(line)
                    except (ValueError, TypeError):
                        raise ScriptError(f"{path} is no file of kept answers: choose another --output") from None
                    self.answers[key] = to_bytes(answer)
                    whole += len(line)
            with path.open("r+b") as file:
                file.truncate(whole)
        self.file = path.open("ab")

    def put(self, key: str, answer: JSON) -> None:
        """Keep an answer."""
        content = self.answers[key] = to_bytes(answer)
        self.file.write(b'["%s",%s]\n' % (key.encode(), content))

    def get(self, key: str) -> JSON:
        """Return an answer that is kept."""
        return json.loads(self.answers[key])

    def clear(self) -> None:
        """Forget every answer."""
        self.answers.clear()
        self.file.truncate(0)

    def close(self) -> None:
        """Write what is buffered."""
        self.file.close()


def to_bytes(answer: JSON) -> bytes:
    """Return an answer as compact JSON."""
    return json.dumps(answer, separators=(",", ":")).encode()


class Asker:
    """Asks one model; equal questions are asked once."""

    def __init__(self, model: EvaluatedModel, cache: AnswerCache, texts_per_request: int) -> None:
        self.model = model
        self.identity = model.identity
        self.cache = cache
        self.texts_per_request = texts_per_request
        self.n_asked = 0
        self.is_checked = False
        self.keeps_explanations: bool | None = None  # None: not compared yet

    def ask(self, questions: Sequence[ModelQuestion], title: str) -> list[JSON]:
        """Return the answers to questions, in their order; `title` names them in the progress bar."""
        keys = [self.key(question) for question in questions]
        self._check_kept(dict(zip(keys, questions, strict=True)))
        missing = {
            key: question for key, question in zip(keys, questions, strict=True) if key not in self.cache.answers
        }
        errors: dict[str, JSON] = {}
        pending = iter(self._batches(missing))
        with progress() as bar:
            task = bar.add_task(title, total=len(missing))
            for batch, answers in in_order(self._answer, pending, self.model.concurrency):
                for (key, _), answer in zip(batch, answers, strict=True):
                    if is_error(answer):
                        errors[key] = answer
                    else:
                        self.cache.put(key, without_text(answer))
                self.cache.file.flush()
                self.n_asked += len(batch)
                bar.update(task, advance=len(batch))
        return [errors[key] if key in errors else self.cache.get(key) for key in keys]

    def explain(self, question: ModelQuestion) -> JSON:
        """Return the explanation of an answer, without the text of its words.

        The first one that is kept is computed again; where it differs, all of them are.
        """
        key = self.key(question, "explain")
        kept = self.cache.get(key) if key in self.cache.answers else None
        if kept is not None and self.keeps_explanations:
            return kept
        explanation = without_text(self.model.explain(question.item, question.parameters))
        if kept is not None and self.keeps_explanations is None:
            self.keeps_explanations = same_explanation(kept, explanation)
            if not self.keeps_explanations:
                say(f"{self.cache.path}: {self.model.title} explains otherwise now; all texts are explained again")
        if explanation != kept and not is_error(explanation):
            self.cache.put(key, explanation)
        return explanation

    def _check_kept(self, questions: dict[str, ModelQuestion]) -> None:
        """Ask a few kept questions again: a model that was packed anew may answer otherwise under its old name.

        Where an answer differs, every kept answer is forgotten.
        """
        kept = [key for key in questions if key in self.cache.answers]
        if self.is_checked or not kept:
            return
        self.is_checked = True
        for key in kept[:: max(1, len(kept) // CHECKED)][:CHECKED]:
            (answer,) = self._answer([(key, questions[key])])
            if not same(self.cache.get(key), without_text(answer)):
                say(f"{self.cache.path}: {self.model.title} answers otherwise now; everything is asked again")
                self.cache.clear()
                return

    def key(self, question: ModelQuestion, *request: str) -> str:
        """Return the key of a question to this model; `request` is what is asked for instead of an answer."""
        content = [self.identity, dict(question.parameters), question.item, *request]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:40]

    def _batches(self, missing: dict[str, ModelQuestion]) -> Iterator[list[Any]]:
        """Yield lists of (key, question) with equal parameters."""
        groups: dict[str, list[tuple[str, ModelQuestion]]] = {}
        for key, question in missing.items():
            groups.setdefault(json.dumps(dict(question.parameters), sort_keys=True), []).append((key, question))
        for group in groups.values():
            yield from in_batches(group, self.texts_per_request)

    def _answer(self, batch: list[Any]) -> list[JSON]:
        questions = [question for _, question in batch]
        return self.model.answer([question.item for question in questions], questions[0].parameters)


def same(kept: JSON, answer: JSON) -> bool:
    """Return whether two answers say the same, with scores that differ by rounding at most.

    >>> same([{"label": "a", "score": 0.9}], [{"label": "a", "score": 0.9001}])
    True
    """
    before, after = dict(scores(kept)), dict(scores(answer))
    return before.keys() == after.keys() and all(abs(before[key] - after[key]) <= ROUNDING for key in before)


def same_explanation(kept: JSON, explanation: JSON) -> bool:
    """Return whether two explanations give the same words of the same label the same share, up to rounding.

    >>> kept = {"label": "a", "words": [{"start": 0, "end": 4, "attribution": 0.5}]}
    >>> same_explanation(kept, {"label": "a", "words": [{"start": 0, "end": 4, "attribution": 0.51}]})
    True
    >>> same_explanation(kept, {"label": "a", "words": []}), same_explanation(kept, {"error": {"type": "Overloaded"}})
    (False, False)
    """
    before, after = attributions(kept), attributions(explanation)
    return before.keys() == after.keys() and all(abs(before[key] - after[key]) <= ROUNDING for key in before)


def attributions(explanation: JSON) -> dict[tuple[str, int, int], float]:
    """Return the attribution of each word, by label and position."""
    words = explanation.get("words", [])
    return {(explanation["label"], word["start"], word["end"]): word["attribution"] for word in words}


def without_text(answer: JSON) -> JSON:
    """Return an answer without the texts that it repeats; of tokens, their number and how many are unknown.

    >>> without_text({"answer": "two years", "score": 0.5, "start": 78, "end": 87})
    {'score': 0.5, 'start': 78, 'end': 87}
    """
    if isinstance(answer, list):
        return [without_text(item) for item in answer]
    if isinstance(answer, dict):
        if "tokens" in answer:
            n_unknown = sum(token in UNKNOWN_TOKENS for token in answer["tokens"])
            return {"n_tokens": answer["n_tokens"] + answer["n_truncated"], "n_unknown": n_unknown}
        return {key: without_text(value) for key, value in answer.items() if key not in TEXT_FIELDS}
    return answer
