"""A model in eight-bit integers: the scales of its activations, found on examples, and what that costs in accuracy.

One half of the examples shows which numbers stand before each product; their range is cut where rounding would lose
more than cutting does. The other half, or a file of its own, is answered in fp32 and in int8. Where examples have
labels, the right answers are counted; where they have none, fp32 is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handler import protocol
from handler.config import ServingConfig
from handler.engine import int8
from handler.engine.encoder import Layer, PackedEncoder, encoder_name
from handler.engine.int8 import PLACES, READS, SMOOTHED, Scales
from handler.engine.probe import HiddenStates
from handler.errors import RequestError
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.protocol import JSON, Body
from handler.request_state import Request
from handler.sequences import Encoding
from handler.tasks import Task
from scripts.archives.observer import Histogram
from scripts.cli.console import ScriptError, say
from scripts.client.predictions import predicted_label
from scripts.readers.formats import TABLES
from scripts.readers.tables import Table, read

MOST = 512  # examples that are looked at for ranges
ANSWERS = {"label", "labels", "answers", "answer", "tags", "entities", "id"}  # columns that are no part of a question
CONTINUED = 16  # channels at most that are added to the hidden ones, for what lies beyond the range


@dataclass(frozen=True)
class Calibration:
    """From what a model is made int8, and how good it must be then."""

    examples: Path
    evaluation: Path | None = None
    least_ratio: float = 0.99
    label_column: str = "label"


@dataclass(frozen=True)
class Example:
    """A question, and its label where that is known."""

    item: JSON
    label: str | None


@dataclass(frozen=True)
class Report:
    """How eight bits answer where fp32 answers so."""

    n_calibration: int
    n_evaluation: int
    agreement: float  # mean, 0..1, of how like the answers are
    n_flips: int  # answers that say something else
    accuracy: tuple[float, float] | None  # of fp32 and of eight bits, where labels are known
    precision: str = "int8"

    @property
    def ratio(self) -> float:
        """Accuracy in eight bits over that in fp32; without labels, the agreement."""
        if self.accuracy is None:
            return self.agreement
        return self.accuracy[1] / self.accuracy[0] if self.accuracy[0] else 0.0

    def lines(self) -> list[str]:
        """Write it for the console and the model card."""
        told = [f"- calibrated on {self.n_calibration} examples, evaluated on {self.n_evaluation} others"]
        if not self.n_calibration:
            told = [f"- evaluated on {self.n_evaluation} examples"]
        if self.accuracy is not None:
            exact, rounded = self.accuracy
            told.append(f"- accuracy: fp32 {exact:.4f}, {self.precision} {rounded:.4f} (ratio {self.ratio:.4f})")
        agreed = f"- agreement with fp32: {self.agreement:.4f}"
        return [*told, f"{agreed}; {self.n_flips} of {self.n_evaluation} answers say something else"]


def quantise(folder: Path, config: ServingConfig, calibration: Calibration) -> Report:
    """Write int8.safetensors into a model folder and tell how it answers.

    Raises:
        ScriptError: a family that has no int8, examples that are no questions of the task, or answers too different.
    """
    if not int8.supported(torch.device("cpu")):
        raise ScriptError(
            "int8 cannot be tried here: this CPU has no instructions for it (AVX-512 VNNI, AVX-VNNI, AMX)"
        )
    exact = load_predictor(folder, _with(config, "fp32"))
    seen, asked = _split(calibration, exact.task)
    model = exact.engine.model
    if not isinstance(getattr(model.base_model, encoder_name(model.base_model) or "", None), PackedEncoder):
        raise ScriptError(f"a {type(model).__name__} has no int8: pack it with --precision fp32 or bf16")
    say(f"calibrating on {len(seen)} examples")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same sums in the same order every time
    try:
        int8.write(folder / int8.FILE, model, scales(exact, encodings(exact, seen)))
    finally:
        torch.set_num_threads(threads)
    report = compare(exact, load_predictor(folder, _with(config, "int8")), asked, len(seen))
    hold(report, calibration.least_ratio)
    return report


def hold(report: Report, least_ratio: float) -> None:
    """Tell how eight bits answer; raises ScriptError where they answer too differently."""
    say("\n".join(report.lines()))
    if report.ratio < least_ratio:
        what = "accuracy" if report.accuracy else "agreement"
        raise ScriptError(
            f"{report.precision} keeps {report.ratio:.4f} of the {what} of fp32, less than --min-accuracy-ratio "
            f"{least_ratio:g}: give more, and more typical, examples, or pack with --precision bf16"
        )


def examples_of(table: Table, label_column: str = "label") -> list[Example]:
    """Return the rows of a table as questions: one text, or an object of all columns that are no answers."""
    answers = {*ANSWERS, label_column}
    found = []
    for _, record in table.rows:
        item: JSON = {name: cell for name, cell in record.items() if name not in answers and cell is not None}
        label = record.get(label_column)
        found.append(Example(item["text"] if item.keys() == {"text"} else item, None if label is None else str(label)))
    if len(found) < 2:
        raise ScriptError(f"{table.name}: {len(found)} rows; calibration needs two at least")
    return found


def encodings(predictor: Predictor, examples: Sequence[Example]) -> list[Encoding]:
    """Return what the model would see of the examples; raises ScriptError for one that is no question."""
    requests = [
        Request(Body(protocol.serialize_value({"instances": [one.item]}), "application/json")) for one in examples
    ]
    batch = predictor.preprocess(requests)
    for index, request in enumerate(batch.requests):
        if request.error:
            raise ScriptError(f"example {index} is no question of {predictor.task.name}: {request.error}")
    return batch.encodings()


def scales(predictor: Predictor, seen: list[Encoding]) -> list[Scales]:
    """Return how every layer is rounded, over all tokens of what is seen."""
    base: Any = predictor.engine.model.base_model
    encoder: PackedEncoder = getattr(base, encoder_name(base) or "")
    encoder.fills = False  # rows of no text are not to be seen
    found = [{place: Histogram() for place in PLACES} for _ in encoder.layers]
    watched = [
        (product, histograms[READS[name]])
        for layer, histograms in zip(encoder.layers, found, strict=True)
        for name, product in layer.products().items()
        if name != "query"  # it reads what the other states of the last layer read
    ]
    for look in (Histogram.widen, Histogram.count):
        if look is Histogram.count:
            for layer, histograms in zip(encoder.layers, found, strict=True):
                _settle(layer, histograms)
        for product, histogram in watched:
            product.watch = lambda x, histogram=histogram, look=look: look(histogram, x)
        failed = [
            one for one in predictor.engine.run(seen, [HiddenStates()] * len(seen)) if isinstance(one, RequestError)
        ]
        if failed:
            raise ScriptError(f"an example cannot be computed: {failed[0]}")
    encoder.fills = True
    for product, _ in watched:
        product.watch = None
    return [_scales_of(histograms) for histograms in found]


def _settle(layer: Layer, histograms: dict[str, Histogram]) -> None:
    weights = {name: product.plain()[0] for name, product in layer.products().items()}
    for place, histogram in histograms.items():
        readers = [weight for name, weight in weights.items() if READS[name] == place]
        if place in SMOOTHED:
            histogram.smooth(torch.cat(readers))
        histogram.settle(CONTINUED if place == "hidden" else 0)


def _scales_of(histograms: dict[str, Histogram]) -> Scales:
    ranges = {place: histogram.range() for place, histogram in histograms.items()}
    smoothing = {place: histograms[place].divisor for place in SMOOTHED}
    return Scales(ranges, smoothing, *histograms["hidden"].continuation(ranges["hidden"]))


def compare(exact: Predictor, rounded: Predictor, examples: Sequence[Example], n_calibration: int) -> Report:
    """Answer examples in fp32 and in int8."""
    items = [one.item for one in examples]
    expected, found = (_answers(predictor, items) for predictor in (exact, rounded))
    likes = [likeness(exact.task, *pair) for pair in zip(expected, found, strict=True)]
    labels = [one.label for one in examples]
    accuracy = None
    if all(label in exact.task.labels for label in labels):
        right = [
            float(np.mean([predicted_label(answer) == label for answer, label in zip(answers, labels, strict=True)]))
            for answers in (expected, found)
        ]
        accuracy = right[0], right[1]
    n_flips = sum(like < (0.99 if _is_vector(answer) else 1) for like, answer in zip(likes, expected, strict=True))
    return Report(n_calibration, len(examples), float(np.mean(likes)), n_flips, accuracy)


def likeness(task: Task, expected: JSON, answer: JSON) -> float:
    """Return 1 for two answers that say the same, 0 for others; of vectors the cosine."""
    if _is_vector(expected):
        one, other = np.array(expected), np.array(answer)
        return float(one @ other / max(1e-12, float(np.linalg.norm(one) * np.linalg.norm(other))))
    if task.model_config.problem_type == "regression":
        return float(task.answers_match(expected, answer, 0.05))
    if task.model_config.problem_type == "multi_label_classification":
        chosen = [{one["label"] for one in ranked if one["score"] >= 0.5} for ranked in (expected, answer)]
        return float(chosen[0] == chosen[1])
    return float(predicted_label(expected) == predicted_label(answer))


def _answers(predictor: Predictor, items: Sequence[JSON]) -> list[JSON]:
    """Answer in pieces that bound the memory."""
    return [one for start in range(0, len(items), 256) for one in predictor.answer_items(items[start : start + 256])]


def _split(calibration: Calibration, task: Task) -> tuple[list[Example], list[Example]]:
    """Return examples for the ranges, and others for the comparison."""
    column = calibration.label_column
    examples = examples_of(read(calibration.examples, TABLES), column)
    if calibration.evaluation is not None:
        asked = examples_of(read(calibration.evaluation, TABLES), column)
    else:
        examples, asked = examples[::2], examples[1::2]
    for one in (*examples, *asked):
        try:
            task.parse(one.item, {})
        except RequestError as error:
            raise ScriptError(f"an example is no question of {task.name}: {error}") from None
    return examples[:: -(-len(examples) // MOST)], asked  # spread over the file, which may be sorted


def _with(config: ServingConfig, precision: Any) -> ServingConfig:
    return replace(config, precision=precision)


def _is_vector(answer: JSON) -> bool:
    return isinstance(answer, list) and len(answer) > 1 and all(isinstance(number, float) for number in answer)
