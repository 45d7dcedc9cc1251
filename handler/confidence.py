"""What the scores of a model are worth: calibration, label sets with a coverage, and the reference of its inputs.

`scripts/package.py --calibrate-scores` fits all of it on answers as they are served, and keeps it in the archive
(`calibration.json`). Here it is only applied. No text is in it.

A calibration maps the scores of an answer, after windows were merged, to scores that are probabilities of being right:

* scores that exclude one another (softmax) by a temperature (Guo et al. 2017, "On Calibration of Modern Neural
  Networks"): softmax(log(score) / T), which is softmax(logits / T) for a text of one window;
* scores that stand alone (sigmoid, entities, answers) by Platt's method (Platt 1999, "Probabilistic Outputs for Support
  Vector Machines"): sigmoid(slope * logit(score) + intercept).

A label set holds every label whose calibrated score is at least that of the `coverage` quantile of right labels: split
conformal prediction (Vovk, Gammerman, Shafer 2005; Lei, Wasserman 2014), by label where it has enough examples
(Sadinle, Lei, Wasserman 2019, "Least Ambiguous Set-Valued Classifiers").
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handler.errors import ModelMismatch
from handler.protocol import JSON
from handler.sequences import Encoding

MIN_SCORE = 2.0**-24  # float32 does not distinguish a score nearer to 1 from 1
MIN_EXCLUSIVE_SCORE = 1e-38  # about the smallest normal float32


class ScoreFunction(ABC):
    """A function from the scores of an answer to calibrated scores."""

    @abstractmethod
    def __call__(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Return calibrated scores, of the shape of `scores`."""

    @property
    @abstractmethod
    def gain(self) -> float:
        """The largest factor by which a difference of logits grows."""

    @abstractmethod
    def to_json(self) -> dict[str, JSON]:
        """Return the parameters, which `score_function` reads."""


@dataclass(frozen=True)
class Temperature(ScoreFunction):
    """Softmax over the last axis with a temperature.

    >>> Temperature(2.0)([0.8, 0.2]).round(4).tolist()
    [0.6667, 0.3333]
    """

    value: float

    def __call__(self, scores: ArrayLike) -> NDArray[np.float64]:
        logits = np.log(np.maximum(np.asarray(scores, dtype=np.float64), MIN_EXCLUSIVE_SCORE)) / self.value
        exponentials = np.exp(logits - logits.max(-1, keepdims=True))
        calibrated: NDArray[np.float64] = exponentials / exponentials.sum(-1, keepdims=True)
        return calibrated

    @property
    def gain(self) -> float:
        return 1 / self.value

    def to_json(self) -> dict[str, JSON]:
        return {"temperature": self.value}


@dataclass(frozen=True)
class Platt(ScoreFunction):
    """Sigmoid of a line over the logits of scores: one slope and intercept, or one of each for each label.

    Slopes are above 0. With several labels the order of labels within an answer can change.

    >>> Platt((1.0,), (0.0,))([0.25, 0.75]).round(6).tolist()
    [0.25, 0.75]
    """

    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]

    def __call__(self, scores: ArrayLike) -> NDArray[np.float64]:
        line = np.array(self.slopes) * logit(scores) + np.array(self.intercepts)
        calibrated: NDArray[np.float64] = 1 / (1 + np.exp(-line))
        return calibrated

    @property
    def gain(self) -> float:
        return max(self.slopes)

    def to_json(self) -> dict[str, JSON]:
        return {"slopes": [*self.slopes], "intercepts": [*self.intercepts]}


def logit(scores: ArrayLike) -> NDArray[np.float64]:
    """Return log(p / (1 - p)); scores nearer to 0 or 1 than float32 distinguishes count as that near."""
    p = np.clip(np.asarray(scores, dtype=np.float64), MIN_SCORE, 1 - MIN_SCORE)
    values: NDArray[np.float64] = np.log(p) - np.log1p(-p)
    return values


def score_function(value: Mapping[str, JSON]) -> ScoreFunction:
    """Read a score function, the inverse of its `to_json`."""
    if "temperature" in value:
        return Temperature(float(value["temperature"]))
    return Platt(tuple(map(float, value["slopes"])), tuple(map(float, value["intercepts"])))


@dataclass(frozen=True)
class LabelSets:
    """The nonconformity of examples with a known label, 1 - the calibrated score of that label.

    >>> sets = LabelSets.from_scores(["a", "b"], {"a": [0.1, 0.2, 0.3, 0.4], "b": [0.6]})
    >>> sets.threshold("a", 0.8), sets.threshold("b", 0.6), sets.threshold("b", 0.9)
    (0.4, 0.6, inf)
    """

    by_label: Mapping[str, list[float]]  # ascending
    pooled: list[float]  # ascending

    @classmethod
    def from_scores(cls, labels: Sequence[str], by_label: Mapping[str, Iterable[float]]) -> LabelSets:
        """Sort the nonconformity scores of the examples of each label."""
        ascending = {label: sorted(by_label.get(label, ())) for label in labels}
        return cls(ascending, sorted(score for scores in ascending.values() for score in scores))

    def threshold(self, label: str, coverage: float) -> float:
        """Return the largest nonconformity with which a label is in the set; it never falls with the coverage.

        It is the ceil((n + 1) * coverage)-th smallest of the n examples of the label. Where that is more than n, it is
        the one of all examples, but no less than the largest of the label; infinite where it is more than all of them.
        """
        own = self.by_label[label]
        threshold = _quantile(own, coverage)
        return threshold if threshold < math.inf else max(_quantile(self.pooled, coverage), *own[-1:], 0.0)

    def choose(self, labels: Sequence[str], scores: Sequence[float], coverage: float) -> list[str]:
        """Return the labels of a set, best first; it can be empty.

        Args:
            labels: of the model.
            scores: of these labels, calibrated.
            coverage: the probability that a right label is in the set.
        """
        best = sorted(range(len(labels)), key=lambda index: -scores[index])
        return [labels[i] for i in best if 1 - scores[i] <= self.threshold(labels[i], coverage)]


def _quantile(ascending: list[float], coverage: float) -> float:
    rank = math.ceil(round((len(ascending) + 1) * coverage, 9))
    return ascending[rank - 1] if rank <= len(ascending) else math.inf


@dataclass(frozen=True)
class AbstentionScore:
    """The confidence that `min_confidence` is compared with, where it is another than the best calibrated score.

    It is sigmoid(slope * x + intercept), for a text whose labels exclude each other, with x

    * `raw`: the logit of the best score before calibration,
    * `energy`: log(sum(exp(logits))), the negative energy of Liu et al. 2020, "Energy-based Out-of-distribution
      Detection"; of a text in windows of the logits that `function_to_apply` none merges.

    >>> AbstentionScore("raw", 2.0, 0.0)(np.array([0.7, 0.3]), np.array([1.0, 0.15])).round(4).item()
    0.8448
    """

    kind: str  # of ABSTENTION_SCORES
    slope: float  # above 0
    intercept: float

    def __call__(self, scores: ArrayLike, logits: ArrayLike) -> NDArray[np.float64]:
        """Return the confidence (...,) of answers.

        Args:
            scores: (..., labels), before calibration.
            logits: (..., labels), of the same answers.
        """
        line = self.slope * ABSTENTION_SCORES[self.kind](scores, logits) + self.intercept
        confidence: NDArray[np.float64] = 1 / (1 + np.exp(-line))
        return confidence

    def to_json(self) -> dict[str, JSON]:
        """Return the score as a JSON value, which `AbstentionScore(**value)` reads."""
        return {"kind": self.kind, "slope": self.slope, "intercept": self.intercept}


def _best_logit(scores: ArrayLike, _: ArrayLike) -> NDArray[np.float64]:
    return logit(np.asarray(scores).max(-1))


def _negative_energy(_: ArrayLike, logits: ArrayLike) -> NDArray[np.float64]:
    numbers = np.asarray(logits, dtype=np.float64)
    highest = numbers.max(-1)
    energy: NDArray[np.float64] = highest + np.log(np.exp(numbers - highest[..., None]).sum(-1))
    return energy


ABSTENTION_SCORES: Mapping[str, Callable[[ArrayLike, ArrayLike], NDArray[np.float64]]] = {
    "raw": _best_logit,
    "energy": _negative_energy,
}


@dataclass(frozen=True)
class Feature:
    """The histogram of one property of inputs or answers: numbers by the upper edges of bins, or names."""

    shares: Mapping[str, float]  # of each bin, by its name
    edges: tuple[float, ...] = ()  # upper and included, one less than bins; empty: the bins are names

    def bin(self, value: float | str) -> str:
        """Return the name of the bin of a value; a name that the reference has not seen is in the last bin.

        >>> Feature({"5": 0.5, "9": 0.3, "more": 0.2}, (5, 9)).bin(9)
        '9'
        """
        names = [*self.shares]
        if isinstance(value, str):
            return value if value in self.shares else names[-1]
        return names[bisect_left(self.edges, value)]


@dataclass(frozen=True)
class DriftReference:
    """What inputs and answers of the calibration file were like: histograms, and the accuracy of the answers."""

    features: Mapping[str, Feature]
    n_examples: int
    accuracy: float

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DriftReference:
        """Read a reference as `to_json` writes it."""
        features = {
            name: Feature(dict(feature["shares"]), tuple(feature["edges"]))
            for name, feature in value["features"].items()
        }
        return cls(features, int(value["n_examples"]), float(value["accuracy"]))

    def to_json(self) -> dict[str, JSON]:
        """Return the reference as a JSON value."""
        features = {
            name: {"edges": [*feature.edges], "shares": dict(feature.shares)} for name, feature in self.features.items()
        }
        return {"n_examples": self.n_examples, "accuracy": self.accuracy, "features": features}


@dataclass(frozen=True)
class ScoreCalibration:
    """The content of `calibration.json` that is for one precision."""

    task: str  # whose scores were calibrated
    functions: Mapping[str, ScoreFunction]  # by the variant of the scores that the parameters of a request choose
    label_sets: LabelSets | None = None
    reference: DriftReference | None = None
    report: Mapping[str, JSON] = field(default_factory=dict)  # for people: ECE before and after, coverage seen
    abstention: AbstentionScore | None = None  # None: `min_confidence` is compared with calibrated scores

    @property
    def gain(self) -> float:
        """The largest factor by which calibration can enlarge a difference of scores, at least 1."""
        return max([1.0, *(function.gain for function in self.functions.values())])

    @classmethod
    def from_json(cls, value: JSON) -> ScoreCalibration:
        """Read a calibration; raises ModelMismatch where it cannot be read."""
        try:
            functions = {name: score_function(function) for name, function in value["functions"].items()}
            sets, reference = value["nonconformity"], value["reference"]
            return cls(
                value["task"],
                functions,
                LabelSets.from_scores([*sets], sets) if sets is not None else None,
                DriftReference.from_json(reference) if reference is not None else None,
                value["report"],
                AbstentionScore(**value["abstention"]) if value.get("abstention") is not None else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelMismatch(f"calibration.json cannot be read ({type(error).__name__}): pack again") from error

    def to_json(self) -> dict[str, JSON]:
        """Return the calibration as a JSON value."""
        return {
            "task": self.task,
            "functions": {name: function.to_json() for name, function in self.functions.items()},
            "nonconformity": None if self.label_sets is None else dict(self.label_sets.by_label),
            "reference": None if self.reference is None else self.reference.to_json(),
            "report": dict(self.report),
            **({} if self.abstention is None else {"abstention": self.abstention.to_json()}),
        }


def input_features(encodings: Iterable[Encoding], unknown_id: int | None) -> Iterator[tuple[str, float]]:
    """Yield the name and the value of each property of each sequence that the model reads."""
    for encoding in encodings:
        yield "tokens", len(encoding)
        if unknown_id is not None:
            yield "unknown_share", encoding.ids.count(unknown_id) / max(1, len(encoding))


def answer_features(judgements: Iterable[tuple[str | None, float]]) -> Iterator[tuple[str, float | str]]:
    """Yield the name and the value of each property of what answers say: labels and their calibrated scores."""
    for label, score in judgements:
        yield "score", score
        if label is not None:
            yield "label", label
