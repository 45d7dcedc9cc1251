"""The base of every evaluation task: the questions of an example, what an answer is worth, the metrics of many.

A task of evaluation takes examples of a training task, so that both read the same files in the same way. It never keeps
a text in an outcome: targets and predictions are labels, types, positions and numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from handler.protocol import JSON
from scripts.cli.console import ScriptError
from scripts.evaluation.statistics import Columns

E = TypeVar("E")


@dataclass(frozen=True)
class TextEdit:
    """A change of a text, and where it happens: "anywhere", so that parts can be changed alone; "before" or "after" the
    text; or at its "end".
    """

    edit: Callable[[str], str]
    where: str = "anywhere"

    def __call__(self, text: str) -> str:
        return self.edit(text)


@dataclass(frozen=True)
class ModelQuestion:
    """One item for the model, and the parameters of its request."""

    item: JSON
    parameters: Mapping[str, JSON]


@dataclass(frozen=True)
class Located(Generic[E]):
    """An example, the row of the file that it begins in, and the columns of that row."""

    row: int
    example: E
    record: Mapping[str, object] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Outcome:
    """What the answer to one example is worth."""

    score: float  # 0 to 1: whether it is right, or by how much
    columns: Mapping[str, float | Sequence[float]]  # numbers that the metrics are computed from
    target: str = ""  # as a person reads it, without a text of the example
    predicted: str = ""
    confidences: Sequence[float] = ()  # of the decisions of this answer
    correct: Sequence[float] = ()  # whether each of these decisions is right
    loss: float | None = None  # negative log-likelihood of the target
    probabilities: Sequence[float] = ()  # of all labels, in the order of the model's
    target_ids: Sequence[int] = ()  # the right labels, as indices of `probabilities`

    @property
    def confidence(self) -> float:
        """The mean confidence of its decisions; NaN without any."""
        return float(np.mean(self.confidences)) if len(self.confidences) else float("nan")


class EvaluationTask(ABC, Generic[E]):
    """How examples of one kind are asked and judged."""

    title: ClassVar[str]
    unit_name: ClassVar[str] = "texts"
    served_as: ClassVar[str]  # the task of the handler that answers
    metric_titles: ClassVar[Mapping[str, str]]  # key of a metric -> title
    main_metric: ClassVar[str]  # which a gate calls "score"
    lower_is_better: ClassVar[frozenset[str]] = frozenset()  # metrics
    score_title: ClassVar[str] = "accuracy"  # what the mean of the scores of examples is
    brief: ClassVar[Mapping[str, JSON]] = {}  # parameters of questions of which score and prediction alone count

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self.index = {label: number for number, label in enumerate(self.labels)}

    @abstractmethod
    def questions(self, example: E) -> list[ModelQuestion]:
        """Return the questions whose answers judge an example."""

    @abstractmethod
    def outcome(self, example: E, answers: Sequence[JSON]) -> Outcome:
        """Judge the answers to the questions of an example."""

    @abstractmethod
    def measure(self, columns: Columns) -> dict[str, float]:
        """Return the metrics of the columns of many outcomes."""

    @abstractmethod
    def texts(self, example: E) -> tuple[str, ...]:
        """Return the texts of an example; the first one is perturbed and sliced by."""

    def edited(self, example: E, edit: TextEdit) -> E | None:
        """Return the example with its first text edited; None where an edit would change what is right."""
        return None

    def details(self, outcomes: Sequence[Outcome]) -> dict[str, JSON]:
        """Return tables of the report beside the metrics: by label, by type, by kind."""
        return {}


def columns_of(outcomes: Sequence[Outcome]) -> dict[str, NDArray[np.float64]]:
    """Return the numbers of outcomes as arrays, one row an outcome."""
    if not outcomes:
        raise ScriptError("no example was answered, so there is nothing to measure")
    return {name: np.array([outcome.columns[name] for outcome in outcomes], float) for name in outcomes[0].columns}


def answer_error(answer: Any, expected: str) -> ScriptError:
    """Return an error about an answer that is not of the task."""
    return ScriptError(f"the model answered {type(answer).__name__}, not {expected}: does --problem fit the model?")
