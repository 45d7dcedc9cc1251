"""A model of made-up sentences about animals that answers by their verbs, with faults that a test can plant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from handler.protocol import JSON
from scripts.evaluation.models import EvaluatedModel
from tests.support.animals import ANIMALS

LABELS = sorted(ANIMALS)


class KeywordModel(EvaluatedModel):
    """Answers the animal of the verb that a text holds, with `confidence`; `fault` says which texts it gets wrong."""

    concurrency = 1
    n_bytes = 1000

    def __init__(
        self, fault: Callable[[str], bool] = lambda _: False, *, name: str = "keywords", confidence: float = 0.9
    ) -> None:
        self.name, self.version = name, "1.0"
        self.fault, self.confidence = fault, confidence
        self.n_answers = self.n_explanations = 0
        self.description = {
            "task": "text-classification",
            "labels": LABELS,
            "problem_type": "single_label_classification",
            "operations": {"classify": "text-classification"},
            "precision": "fp32",
            "device": "cpu",
            "model_hash": f"{name}{confidence}",
            "explained": True,
        }

    def answer(self, items: Sequence[JSON], parameters: Mapping[str, JSON]) -> list[JSON]:
        self.n_answers += len(items)
        rankings = [self.ranking(item) for item in items]
        return [ranking[: parameters.get("top_k")] if isinstance(ranking, list) else ranking for ranking in rankings]

    def ranking(self, text: str) -> JSON:
        """Return the labels of one text; a text without a verb gets them all alike."""
        words = text.lower().split()
        found = [index for index, label in enumerate(LABELS) if set(ANIMALS[label].split()) & set(words)]
        if not found:
            return [{"label": label, "score": 1 / len(LABELS)} for label in LABELS]
        best = (found[0] + self.fault(text)) % len(LABELS)
        rest = (1 - self.confidence) / (len(LABELS) - 1)
        scores = {label: self.confidence if index == best else rest for index, label in enumerate(LABELS)}
        return [{"label": label, "score": score} for label, score in sorted(scores.items(), key=lambda item: -item[1])]

    def explain(self, item: JSON, parameters: Mapping[str, JSON]) -> JSON:
        self.n_explanations += 1
        top = self.ranking(item)[0]
        words, at = [], 0
        for word in item.split():
            start = item.index(word, at)
            at = start + len(word)
            verb = any(word.lower() in verbs.split() for verbs in ANIMALS.values())
            words.append({"word": word, "start": start, "end": at, "attribution": float(verb)})
        return {**top, "baseline_score": 1 / len(LABELS), "words": words, "convergence_delta": 0.0, "n_steps": 32}
