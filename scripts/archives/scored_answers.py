"""The raw scores of answers to labelled examples, and which of them are right, for each variant of a task's scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from handler import protocol
from handler.confidence import ScoreFunction
from handler.errors import RequestError
from handler.predictor import Predictor
from handler.protocol import JSON, Body
from handler.request_state import Request
from handler.tag_scheme import LabelSpans
from handler.tasks import Task
from scripts.archives import score_fit
from scripts.archives.labelled import LabelledFile, LabelledItem, TaggedSpans
from scripts.archives.score_fit import Numbers
from scripts.cli.console import ScriptError
from scripts.evaluation.calibration import brier_score
from scripts.training.tasks.squad import exact_match

CHUNK = 256  # examples that are answered at once, which bounds the memory
STRATEGIES = ("simple", "first", "average", "max", "none")


@dataclass(frozen=True)
class ScoredAnswers:
    """The raw scores of the answers in one variant, and which are right.

    scores: (examples, labels) of rankings, or (decisions,). targets: (examples,) indices of labels that exclude each
    other; else of the shape of scores, 0..1. strata: (examples,) or (decisions,), kept together by example.
    """

    scores: Numbers
    targets: Numbers
    folds: np.ndarray[tuple[int, ...], np.dtype[np.intp]]
    fit: score_fit.Fit

    @property
    def confidences(self) -> Numbers:
        """The score of each decision: of the best label, or each score by itself."""
        return self.scores.max(-1) if self.is_exclusive else self.scores.ravel()

    @property
    def is_exclusive(self) -> bool:
        """Whether the labels of a ranking exclude each other."""
        return self.fit is score_fit.fit_temperature

    def decisions(self, scores: Numbers) -> tuple[Numbers, Numbers]:
        """Return the confidence of each decision, and whether it is right."""
        if self.is_exclusive:
            return scores.max(-1), (scores.argmax(-1) == self.targets).astype(float)
        return scores.ravel(), self.targets.ravel()

    def brier(self, scores: Numbers) -> float:
        """Return the Brier score: of all labels of a ranking, or of each decision."""
        if self.is_exclusive:
            return brier_score(scores, np.eye(scores.shape[1])[self.targets.astype(np.intp)])
        return brier_score(scores.reshape(-1, 1), self.targets.reshape(-1, 1))


def scored_answers(predictor: Predictor, file: LabelledFile) -> Iterator[tuple[str, ScoredAnswers]]:
    """Yield every variant of the scores of a task, the default one first."""
    task = predictor.task
    if task.name == "token-classification":
        yield from _entity_scores(predictor, file)
    elif task.name == "question-answering":
        yield from _answer_scores(predictor, file)
    elif task.name == "zero-shot-classification":
        yield "softmax", _label_scores(predictor, file, {"candidate_labels": file.labels})
        parameters: dict[str, JSON] = {"candidate_labels": file.labels, "multi_label": True}
        by_itself = _label_scores(predictor, file, parameters)
        truths = np.eye(len(file.labels))[by_itself.targets.astype(np.intp)]
        yield "multi_label", ScoredAnswers(by_itself.scores, truths, by_itself.folds, _fit_flat)
    elif task.name == "next-sentence-prediction":
        yield "softmax", _label_scores(predictor, file, {})
    elif task.name == "rerank":
        answers = _answers(predictor, file.items, {"raw_scores": True})
        yield _relevance_variant(task), _relevance(file, [answer[0]["score"] for answer in answers], are_logits=True)
    else:
        yield from _classification_scores(predictor, file)


def _classification_scores(predictor: Predictor, file: LabelledFile) -> Iterator[tuple[str, ScoredAnswers]]:
    task = predictor.task
    function = task.parameters["function_to_apply"].default
    if function == "softmax":
        yield function, _label_scores(predictor, file, {"top_k": None})
        return
    if len(task.labels) > 1 and function == "none":
        raise ScriptError("--calibrate-scores: the scores of this model are logits by its folder, not probabilities")
    answers = _answers(predictor, file.items, {"top_k": None})
    if len(task.labels) == 1:
        scores = [answer[0]["score"] for answer in answers]
        yield function, _relevance(file, scores, are_logits=function == "none")
        return
    targets = np.array([example.target for example in file.items])
    folds = score_fit.fold_numbers(targets.argmax(-1).tolist())
    yield function, ScoredAnswers(vectors(answers, task.labels), targets, folds, score_fit.fit_labels)


def _relevance_variant(task: Task) -> str:
    return "none" if task.model.activation == "none" else "sigmoid"


def _relevance(file: LabelledFile, scores: Sequence[float], *, are_logits: bool) -> ScoredAnswers:
    numbers = np.array(scores)
    if are_logits:
        numbers = 1 / (1 + np.exp(-np.clip(numbers, -500, 500)))
    targets = np.array([example.target for example in file.items])
    folds = score_fit.fold_numbers((targets[:, 0] >= 0.5).astype(int).tolist())
    return ScoredAnswers(numbers[:, None], targets, folds, score_fit.fit_labels)


def _label_scores(predictor: Predictor, file: LabelledFile, parameters: Mapping[str, JSON]) -> ScoredAnswers:
    """Return the scores of labels that exclude each other."""
    scores = vectors(_answers(predictor, file.items, parameters), file.labels)
    targets = [example.target for example in file.items]
    return ScoredAnswers(scores, np.array(targets), score_fit.fold_numbers(targets), score_fit.fit_temperature)


def vectors(answers: Sequence[JSON], labels: Sequence[str]) -> Numbers:
    by_label = [{ranked["label"]: ranked["score"] for ranked in answer} for answer in answers]
    return np.array([[scores[label] for label in labels] for scores in by_label])


def _entity_scores(predictor: Predictor, file: LabelledFile) -> Iterator[tuple[str, ScoredAnswers]]:
    model_tags = set(predictor.task.labels)
    file_tags = {tag for item in file.items for tag in item.target.tags.values()}
    groups = set(LabelSpans.from_labels(predictor.task.labels).groups)
    if unknown := {kind for item in file.items for *_, kind in item.target.entities} - groups:
        raise ScriptError(f"{file.name}: {len(unknown)} types of entities are none of the model's")
    items = [example.item for example in file.items]
    by_strategy = raw_answers_by(predictor, items, [{"aggregation_strategy": strategy} for strategy in STRATEGIES])
    for strategy, answers in zip(STRATEGIES, by_strategy, strict=True):
        if strategy == "none" and not file_tags <= model_tags:
            continue  # another scheme of tags: a token cannot be held against its word
        scored = [
            (index, entity["score"], hit)
            for index, (example, answer) in enumerate(zip(file.items, answers, strict=True))
            for entity in answer
            if (hit := _is_right(entity, example.target)) is not None
        ]
        if not scored:
            raise ScriptError(f"{file.name}: the model finds no entity, so there is no score to calibrate")
        folds = np.array([index % score_fit.N_FOLDS for index, _, _ in scored])
        scores, hits = (np.array(column, dtype=float) for column in list(zip(*scored, strict=True))[1:])
        yield strategy, ScoredAnswers(scores, hits, folds, score_fit.fit_platt)


def _is_right(entity: JSON, target: TaggedSpans) -> bool | None:
    """Return whether an entity, or the label of a token, is right; None for a token within a word."""
    if "entity_group" in entity:
        return (entity["start"], entity["end"], entity["entity_group"]) in target.entities
    tag = target.tags.get(entity["start"])
    return None if tag is None else tag == entity["entity"]


def _answer_scores(predictor: Predictor, file: LabelledFile) -> Iterator[tuple[str, ScoredAnswers]]:
    items = [example.item for example in file.items]
    choices: list[dict[str, JSON]] = [{"handle_impossible_answer": may_be_none} for may_be_none in (False, True)]
    by_variant = raw_answers_by(predictor, items, choices)
    for variant, answers in zip(("answer", "handle_impossible_answer"), by_variant, strict=True):
        hits = [
            max(exact_match(answer["answer"], text) for text in example.target or [""])
            for example, answer in zip(file.items, answers, strict=True)
        ]
        folds = score_fit.fold_numbers([int(bool(example.target)) for example in file.items])
        scores = np.array([answer["score"] for answer in answers])
        yield variant, ScoredAnswers(scores, np.array(hits), folds, score_fit.fit_platt)


def _fit_flat(scores: Numbers, targets: Numbers) -> ScoreFunction:
    return score_fit.fit_platt(scores.ravel(), targets.ravel())


def _answers(predictor: Predictor, items: Sequence[LabelledItem], parameters: Mapping[str, JSON]) -> list[JSON]:
    return raw_answers(predictor, [example.item for example in items], parameters)


def raw_answers(predictor: Predictor, items: Sequence[JSON], parameters: Mapping[str, JSON]) -> list[JSON]:
    """Return answers as they are served without calibration."""
    return raw_answers_by(predictor, items, [parameters])[0]


def raw_answers_by(
    predictor: Predictor, items: Sequence[JSON], choices: Sequence[Mapping[str, JSON]]
) -> list[list[JSON]]:
    """Return the answers under each choice of parameters, which are decoded from one forward pass of each item."""
    answers: list[list[JSON]] = [[] for _ in choices]
    for start in range(0, len(items), CHUNK):
        values = [{"instances": [item], "parameters": dict(choices[0])} for item in items[start : start + CHUNK]]
        bodies = [protocol.serialize_value(value) for value in values]
        batch = predictor.preprocess([Request(Body(body, "application/json")) for body in bodies])
        predictor.inference(batch)
        for request in batch.requests:
            if request.error:
                raise ScriptError(f"an example cannot be answered: {request.error}")
        for task, query, state in batch.pending():
            outputs = state.sequence_outputs()
            for chosen, decoded in zip(choices, answers, strict=True):
                parameters = task.read_parameters(chosen)
                try:
                    decoded.append(task.decode(replace(query, parameters=parameters), outputs))
                except RequestError as error:
                    raise ScriptError(f"an example cannot be answered: {error}") from None
    return answers
