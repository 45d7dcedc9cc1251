"""Entities by type: found, of another type, with other boundaries, missed, made up.

The kinds of error are those of SemEval 2013 task 9.1 (Segura-Bedmar et al.), metrics those of CoNLL. Spans are
characters of the text. A predicted span may be longer than a target by blanks or grapheme marks, which do not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

import numpy as np

from handler.protocol import JSON
from handler.tag_scheme import LabelSpans
from scripts.evaluation.statistics import Columns
from scripts.evaluation.tasks.base import EvaluationTask, ModelQuestion, Outcome, TextEdit, answer_error
from scripts.evaluation.tasks.classification import label_row
from scripts.training.tasks.conll import TaggedText

KINDS = ("correct", "wrong_type", "wrong_boundary", "wrong_both", "missed", "spurious")


class EntitySpan(NamedTuple):
    """The characters of an entity, and its type."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class EntityText:
    """A text and the entities that are in it."""

    text: str
    entities: tuple[EntitySpan, ...]

    @classmethod
    def from_tags(cls, tagged: TaggedText, spans: LabelSpans) -> EntityText:
        """Return the spans that the tags of words mean."""
        ids = np.array([spans.labels.index(tag) for tag in tagged.tags], dtype=np.intp)
        starts = [*spans.starts(ids).tolist(), len(ids)]
        entities = [
            EntitySpan(tagged.words[first][0], tagged.words[last - 1][1], spans.groups[ids[first]])
            for first, last in pairwise(starts)
            if tagged.tags[first] != "O"
        ]
        return cls(tagged.text, tuple(entities))


def matched(targets: Sequence[EntitySpan], predicted: Sequence[EntitySpan]) -> list[tuple[str, int | None, int | None]]:
    """Return (kind of error, index of the target, index of the prediction), each index once.

    Equal spans are matched first, then each prediction with the first free target that it overlaps, of its own type
    before others.

    >>> matched([EntitySpan(0, 4, "A"), EntitySpan(6, 9, "B")], [EntitySpan(0, 4, "A"), EntitySpan(6, 8, "B")])
    [('correct', 0, 0), ('wrong_boundary', 1, 1)]
    """
    matches: list[tuple[str, int | None, int | None]] = []
    free, left = dict(enumerate(targets)), dict(enumerate(predicted))
    rules: list[tuple[str, Callable[[EntitySpan, EntitySpan], bool]]] = [
        ("correct", lambda a, b: a == b),
        ("wrong_type", lambda a, b: a[:2] == b[:2]),
        ("wrong_boundary", lambda a, b: a.kind == b.kind and a.start < b.end and b.start < a.end),
        ("wrong_both", lambda a, b: a.start < b.end and b.start < a.end),
    ]
    for kind, fits in rules:
        for number, span in list(left.items()):
            target = next((index for index, other in free.items() if fits(other, span)), None)
            if target is not None:
                matches.append((kind, target, number))
                del free[target], left[number]
    return matches + [("missed", index, None) for index in free] + [("spurious", None, number) for number in left]


class EntityEvaluation(EvaluationTask[EntityText]):
    """Entities of a text; an example is right where every entity is."""

    title = "Entities"
    unit_name = "texts"
    served_as = "token-classification"
    metric_titles: ClassVar = {
        "f1": "F1",
        "precision": "precision",
        "recall": "recall",
        "exact_texts": "texts all right",
    }
    main_metric = "f1"
    score_title = "texts all right"

    def questions(self, example: EntityText) -> list[ModelQuestion]:
        return [ModelQuestion(example.text, {})]

    def texts(self, example: EntityText) -> tuple[str, ...]:
        return (example.text,)

    def edited(self, example: EntityText, edit: TextEdit) -> EntityText | None:
        """Edit entities and the text between them one by one, so that entities stay where they are."""
        if edit.where == "end":
            return None
        if edit.where != "anywhere":
            text = edit(example.text)
            shift = len(text) - len(example.text) if edit.where == "before" else 0
            return EntityText(text, tuple(EntitySpan(a + shift, b + shift, kind) for a, b, kind in example.entities))
        parts: list[str] = []
        entities: list[EntitySpan] = []
        at = n_characters = 0
        for span in sorted(example.entities):
            gap, name = edit(example.text[at : span.start]), edit(example.text[span.start : span.end])
            if not name.strip() or name != name.strip():
                return None
            parts += [gap, name]
            start = n_characters + len(gap)
            n_characters = start + len(name)
            entities.append(EntitySpan(start, n_characters, span.kind))
            at = span.end
        text = "".join([*parts, edit(example.text[at:])])
        return EntityText(text, tuple(entities)) if text.strip() else None

    def outcome(self, example: EntityText, answers: Sequence[JSON]) -> Outcome:
        (answer,) = answers
        if not (isinstance(answer, list) and all(isinstance(item, dict) and "entity_group" in item for item in answer)):
            raise answer_error(answer, "entities")
        predicted = [trimmed(example.text, item) for item in answer]
        targets = [trimmed(example.text, span._asdict()) for span in example.entities]
        matches = matched(targets, predicted)
        counts: Counter[tuple[str, str]] = Counter()
        hits = np.zeros(len(predicted))
        for kind, target, number in matches:
            counts[kind, targets[target].kind if target is not None else predicted[number or 0].kind] += 1
            if kind == "correct" and number is not None:
                hits[number] = 1
        columns: dict[str, float | Sequence[float]] = {
            "hits": float(hits.sum()),
            "targets": float(len(targets)),
            "predicted": float(len(predicted)),
            "exact": float(len(targets) == len(predicted) == hits.sum()),
        }
        n_types = [[float(counts[kind, name]) for name in self.labels] for kind in KINDS]
        columns |= dict(zip((f"count_{kind}" for kind in KINDS), n_types, strict=True))
        columns["predicted_types"] = [float(sum(span.kind == name for span in predicted)) for name in self.labels]
        return Outcome(
            float(columns["exact"]),  # type: ignore[arg-type]
            columns,
            described(targets),
            described(predicted),
            [float(item["score"]) for item in answer],
            hits.tolist(),
        )

    def measure(self, columns: Columns) -> dict[str, float]:
        hits, targets, predicted = (float(columns[name].sum()) for name in ("hits", "targets", "predicted"))
        return {
            "f1": 2 * hits / (targets + predicted) if targets + predicted else 1.0,
            "precision": hits / predicted if predicted else float("nan"),
            "recall": hits / targets if targets else float("nan"),
            "exact_texts": float(columns["exact"].mean()),
        }

    def details(self, outcomes: Sequence[Outcome]) -> dict[str, JSON]:
        totals = {kind: np.sum([outcome.columns[f"count_{kind}"] for outcome in outcomes], axis=0) for kind in KINDS}
        predicted = np.sum([outcome.columns["predicted_types"] for outcome in outcomes], axis=0)
        rows = []
        for number, name in enumerate(self.labels):
            counts = {kind: int(totals[kind][number]) for kind in KINDS}
            support = sum(counts.values()) - counts["spurious"]
            if support + predicted[number]:
                rows.append({**label_row(name, counts["correct"], support, int(predicted[number])), **counts})
        return {"labels": sorted(rows, key=lambda row: row["f1"])}


def trimmed(text: str, item: JSON) -> EntitySpan:
    """Return the span of an entity without blanks at its edges."""
    start, end = item["start"], item["end"]
    surface = text[start:end]
    start += len(surface) - len(surface.lstrip())
    end -= len(surface) - len(surface.rstrip())
    return EntitySpan(start, end, item["entity_group"] if "entity_group" in item else item["kind"])


def described(spans: Sequence[EntitySpan]) -> str:
    """Return spans as text: types and characters.

    >>> described([EntitySpan(0, 4, "PERSON")])
    'PERSON 0-4'
    """
    return ", ".join(f"{span.kind} {span.start}-{span.end}" for span in spans) or "none"
