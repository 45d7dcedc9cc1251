"""Counts and times of one batch: as response headers, and as measurements for TorchServe's metrics.

The names are declared in metrics.yaml; TorchServe drops a metric that is not declared there. Nothing here holds a text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from handler.confidence import DriftReference
from handler.sequences import Encoding


class Measurement(NamedTuple):
    """One value of one metric, in seconds, bytes or counts."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    value: float
    labels: tuple[str, ...] = ()


@dataclass
class BatchReport:
    """Counts and times of one TorchServe batch."""

    n_texts: int = 0  # encodings
    n_tokens: int = 0
    n_truncated: int = 0  # tokens cut off
    tokenize_s: float = 0.0
    inference_s: float = 0.0
    explain_s: float = 0.0
    n_unknown: int = 0  # tokens that are the vocabulary's unknown token
    labels: Counter[str] = field(default_factory=Counter)  # first label of an answer -> number of answers
    score_sum: float = 0.0  # of those first labels
    refused: Counter[str] = field(default_factory=Counter)  # type of error -> number of requests
    device: str = ""  # index of the GPU that the next two belong to; empty: none
    device_s: float = 0.0  # seconds that it computed
    device_bytes: int = 0  # bytes of its memory in use
    n_judged: int = 0  # answers to requests with min_confidence
    n_abstained: int = 0  # of these, answers of which no part is confident enough
    observed: Counter[tuple[str, str]] = field(default_factory=Counter)  # feature and bin -> number
    confidence_sum: float = 0.0  # of the calibrated scores among `observed`

    @classmethod
    def join(cls, reports: Sequence[BatchReport]) -> BatchReport:
        """Return the report of requests that were tokenised one by one and computed in the same batches."""
        joined = cls(inference_s=max((report.inference_s for report in reports), default=0.0))
        for report in reports:
            joined.n_texts += report.n_texts
            joined.n_tokens += report.n_tokens
            joined.n_truncated += report.n_truncated
            joined.n_unknown += report.n_unknown
            joined.tokenize_s += report.tokenize_s
        return joined

    def count_tokens(self, encodings: Sequence[Encoding], unknown_id: int | None) -> None:
        """Count the encodings of the batch and their tokens; `unknown_id` is None if every token is known."""
        self.n_texts = len(encodings)
        self.n_tokens = sum(map(len, encodings))
        self.n_truncated = sum(encoding.n_truncated for encoding in encodings)
        if unknown_id is not None:
            self.n_unknown = sum(encoding.ids.count(unknown_id) for encoding in encodings)

    def observe(self, features: Iterable[tuple[str, float | str]], reference: DriftReference) -> None:
        """Count properties of inputs and answers by the bins of a reference."""
        for name, value in features:
            if name in reference.features:
                self.observed[name, reference.features[name].bin(value)] += 1
            if name == "score" and isinstance(value, float):
                self.confidence_sum += value

    def headers(self) -> dict[str, str]:
        """Return the headers that every response of the batch has."""
        return {
            "x-batch-texts": str(self.n_texts),
            "x-batch-tokens": str(self.n_tokens),
            "x-tokenize-ms": f"{self.tokenize_s * 1e3:.2f}",
            "x-inference-ms": f"{self.inference_s * 1e3:.2f}",
        }

    def measurements(self, version: str = "") -> Iterator[Measurement]:
        """Yield the measurements for TorchServe's metrics; `version` is that of the model."""
        yield Measurement("bert_batches_total", "counter", 1)
        if self.n_texts:
            yield Measurement("bert_tokenize_seconds", "histogram", self.tokenize_s)
            yield Measurement("bert_inference_seconds", "histogram", self.inference_s)
            yield Measurement("bert_texts_total", "counter", self.n_texts)
            yield Measurement("bert_tokens_total", "counter", self.n_tokens)
        if self.device:
            yield Measurement("bert_device_seconds_total", "counter", self.device_s, (self.device,))
            yield Measurement("bert_device_memory_bytes", "gauge", self.device_bytes, (self.device,))
        if self.explain_s:
            yield Measurement("bert_explain_seconds", "histogram", self.explain_s)
        if self.n_truncated:
            yield Measurement("bert_truncated_tokens_total", "counter", self.n_truncated)
        if self.n_unknown:
            yield Measurement("bert_unknown_tokens_total", "counter", self.n_unknown)
        if self.labels:
            yield Measurement("bert_top_score_total", "counter", self.score_sum)
        for label, count in self.labels.items():
            yield Measurement("bert_labels_total", "counter", count, (metric_label(label),))
        if self.n_judged:
            yield Measurement("bert_judged_answers_total", "counter", self.n_judged)
        if self.n_abstained:
            yield Measurement("bert_abstained_answers_total", "counter", self.n_abstained)
        if self.confidence_sum:
            yield Measurement("bert_confidence_total", "counter", self.confidence_sum, (version,))
        for (feature, bin_name), count in self.observed.items():
            yield Measurement("bert_observed_total", "counter", count, (version, feature, metric_label(bin_name)))
        for error_type, count in self.refused.items():
            yield Measurement("bert_refused_requests_total", "counter", count, (error_type,))


def reference_measurements(reference: DriftReference, version: str) -> Iterator[Measurement]:
    """Yield the reference for drift as measurements, and a 0 of each bin, so that every series exists."""
    yield Measurement("bert_reference_examples", "gauge", reference.n_examples, (version,))
    yield Measurement("bert_reference_accuracy", "gauge", reference.accuracy, (version,))
    yield Measurement("bert_confidence_total", "counter", 0, (version,))
    for name, feature in reference.features.items():
        for bin_name, share in feature.shares.items():
            labels = (version, name, metric_label(bin_name))
            yield Measurement("bert_reference_share", "gauge", share, labels)
            yield Measurement("bert_observed_total", "counter", 0, labels)


def metric_label(name: str) -> str:
    """Return a name as the value of a label: TorchServe parses one line per metric, which a comma or a bar would end.

    >>> metric_label("a,b|c")
    'a_b_c'
    """
    return re.sub(r"[^\w .-]", "_", name)
