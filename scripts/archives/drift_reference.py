"""The reference for drift: histograms of inputs and answers of the calibration file, as they are served by default."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from handler import protocol
from handler.confidence import DriftReference, Feature, answer_features, input_features
from handler.predictor import Predictor
from handler.protocol import JSON, Body
from handler.request_state import Request
from scripts.archives.labelled import LabelledFile
from scripts.archives.scored_answers import CHUNK

MAX_EXAMPLES = 2000
UNKNOWN_EDGES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)
N_BINS = 10


def reference_of(predictor: Predictor, file: LabelledFile, accuracy: float) -> DriftReference:
    """Return histograms of inputs and answers, as the calibrated predictor serves them by default."""
    items = file.items[:: -(-len(file.items) // MAX_EXAMPLES)]
    parameters: dict[str, JSON] = (
        {"candidate_labels": file.labels} if predictor.task.name == "zero-shot-classification" else {}
    )
    values: dict[str, list[float | str]] = {}
    for start in range(0, len(items), CHUNK):
        for name, value in _features(predictor, [item.item for item in items[start : start + CHUNK]], parameters):
            values.setdefault(name, []).append(value)
    histograms: dict[str, Callable[[list[float | str]], Feature]] = {
        "tokens": _quantile_bins,
        "unknown_share": lambda numbers: _histogram(numbers, UNKNOWN_EDGES),
        "score": _quantile_bins,
        "label": _names,
    }
    features = {name: histograms[name](observed) for name, observed in values.items()}
    return DriftReference(features, len(items), round(accuracy, 5))


def _features(
    predictor: Predictor, items: Sequence[JSON], parameters: Mapping[str, JSON]
) -> Iterator[tuple[str, float | str]]:
    bodies = [protocol.serialize_value({"instances": [item], "parameters": dict(parameters)}) for item in items]
    batch = predictor.preprocess([Request(Body(body, "application/json")) for body in bodies])
    predictor.inference(batch)
    yield from input_features(batch.encodings(), predictor.tokenizer.unknown_id)
    for task, query, state in batch.pending():
        answer = task.decode(query, state.sequence_outputs())
        yield from answer_features(task.judgements(query, answer))


def _quantile_bins(values: list[float | str]) -> Feature:
    """Return bins with about equally many of the numbers."""
    numbers = np.array(values, dtype=float)
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, N_BINS + 1)[1:-1], method="inverted_cdf"))
    return _histogram(values, tuple(float(f"{edge:.6g}") for edge in edges[edges < numbers.max()].tolist()))


def _histogram(values: list[float | str], edges: tuple[float, ...]) -> Feature:
    names = [*(f"{edge:g}" for edge in edges), "more"]
    counts = np.bincount(np.searchsorted(edges, np.array(values, dtype=float)), minlength=len(names))
    return Feature(_shares(dict(zip(names, counts.tolist(), strict=True))), edges)


def _names(values: list[float | str]) -> Feature:
    counts = Counter(str(value) for value in values)
    return Feature(_shares({name: counts[name] for name in sorted(counts)}))


def _shares(counts: dict[str, int]) -> dict[str, float]:
    total = sum(counts.values())
    return {name: round(count / total, 6) for name, count in counts.items()}
