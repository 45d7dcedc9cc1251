"""Quantize a model to int8: the ranges of its activations, measured on examples, and what that costs in accuracy.

Half of the examples is run in fp32, and an observer at each quantization point chooses the range with the least error.
The other half, or a file of its own, is answered in fp32 and in int8. Where examples have labels, accuracy is compared;
where they have none, the answers in fp32 are the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from handler.config import ServingConfig
from handler.engine import int8, int8_file, int8_weights
from handler.engine.encoder import Layer, PackedEncoder
from handler.engine.families import encoder_of
from handler.engine.int8 import LayerQuantParams
from handler.engine.int8_weights import POINTS, SMOOTHED
from handler.engine.native_encoder import READS
from handler.engine.probe import HiddenStates
from handler.errors import RequestError
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.sequences import Encoding
from handler.tasks import Task
from scripts.archives.comparison import Comparison, compare
from scripts.archives.examples import DEFAULT_COLUMNS, ColumnOptions, Example, encodings_of, examples_of
from scripts.archives.observer import HistogramObserver
from scripts.cli.console import ScriptError, say
from scripts.readers.formats import TABLES
from scripts.readers.tables import read

MAX_EXAMPLES = 512  # for calibration
MAX_SPLIT_CHANNELS = 16  # additional intermediate channels of a layer, for values beyond the range

LayerObservers = dict[str, HistogramObserver]  # by POINTS


@dataclass(frozen=True)
class Calibration:
    """The examples for int8 or fp8, and the accuracy that must be kept."""

    examples: Path
    evaluation: Path | None = None
    min_accuracy_ratio: float = 0.99
    columns: ColumnOptions = DEFAULT_COLUMNS


def quantize(folder: Path, config: ServingConfig, calibration: Calibration) -> Comparison:
    """Write int8.safetensors into a model folder, and compare its answers with those in fp32.

    Raises:
        ScriptError: a family without int8, examples that the task refuses, or too low an accuracy.
    """
    if not int8_weights.supported(torch.device("cpu")):
        raise ScriptError(
            "int8 cannot be tried here: there are no compiled kernels for this CPU: run scripts/setup.sh (x86)"
        )
    exact = load_predictor(folder, replace(config, precision="fp32"))
    calibration_set, evaluation_set = _split(calibration, exact.task)
    model = exact.engine.model
    if reason := int8.unsupported_reason(encoder_of(model.base_model) or model):
        raise ScriptError(f"a {type(model).__name__} has no int8: {reason}; pack it with --precision fp32 or bf16")
    say(f"calibrating on {len(calibration_set)} examples")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same sums in the same order every time
    try:
        params = calibrate(exact, encodings_of(exact, calibration_set))
        int8_file.write(folder / int8_weights.FILE, model, params)
    finally:
        torch.set_num_threads(threads)
    quantized = load_predictor(folder, replace(config, precision="int8"))
    comparison = compare(exact, quantized, evaluation_set, len(calibration_set))
    comparison.require(calibration.min_accuracy_ratio)
    return comparison


def calibrate(predictor: Predictor, encodings: list[Encoding]) -> list[LayerQuantParams]:
    """Return how the activations of every layer are quantized, over all tokens of some encodings."""
    encoder = encoder_of(predictor.engine.model.base_model)
    if not isinstance(encoder, PackedEncoder):
        raise TypeError(f"{type(predictor.engine.model).__name__} has no packed encoder")
    observers: list[LayerObservers] = [{point: HistogramObserver() for point in POINTS} for _ in encoder.layers]

    def observe_range(layer: int, point: str, x: torch.Tensor) -> None:
        observers[layer][point].observe_range(x)

    def count(layer: int, point: str, x: torch.Tensor) -> None:
        observers[layer][point].count(x)

    with encoder.observed_by(observe_range):
        _run(predictor, encodings)
    for layer, layer_observers in zip(encoder.layers, observers, strict=True):
        _set_bounds(layer, layer_observers)
    with encoder.observed_by(count):
        _run(predictor, encodings)
    return [_layer_quant_params(*pair) for pair in zip(encoder.layers, observers, strict=True)]


def _run(predictor: Predictor, encodings: list[Encoding]) -> None:
    for result in predictor.engine.run(encodings, [HiddenStates()] * len(encodings)):
        if isinstance(result, RequestError):
            raise ScriptError(f"an example cannot be computed: {result}")


def _set_bounds(layer: Layer, observers: LayerObservers) -> None:
    weights = {name: linear.dense()[0] for name, linear in layer.linears.items()}
    for point, observer in observers.items():
        readers = [weight for name, weight in weights.items() if READS[name] == point]
        splits = point == "intermediate" and "gate" not in layer.linears
        if not splits:
            observer.smooth(torch.cat(readers))
        observer.set_bounds(MAX_SPLIT_CHANNELS if splits else 0)


def _layer_quant_params(layer: Layer, observers: LayerObservers) -> LayerQuantParams:
    params = {point: observer.calculate_qparams() for point, observer in observers.items()}
    smoothed = POINTS if "gate" in layer.linears else SMOOTHED
    smoothing = {point: observers[point].divisor for point in smoothed}
    return LayerQuantParams(params, smoothing, *observers["intermediate"].split_outliers(params["intermediate"]))


def _split(calibration: Calibration, task: Task) -> tuple[list[Example], list[Example]]:
    """Return examples for calibration, and others for the comparison."""
    columns = calibration.columns
    examples: Sequence[Example] = examples_of(read(calibration.examples, TABLES), columns)
    if calibration.evaluation is not None:
        evaluation_set = examples_of(read(calibration.evaluation, TABLES), columns)
    else:
        examples, evaluation_set = examples[::2], list(examples[1::2])
    for example in (*examples, *evaluation_set):
        try:
            task.parse(example.item, {})
        except RequestError as error:
            raise ScriptError(f"{example.where} is no question of {task.name}: {error}") from None
    step = -(-len(examples) // MAX_EXAMPLES)
    return list(examples[::step]), evaluation_set  # spread over the file, which may be sorted
