"""Counts and times of one batch: as response headers, and as measurements for TorchServe's metrics.

The names are declared in metrics.yaml; TorchServe drops a metric that is not declared there. Nothing here holds a text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

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

    def headers(self) -> dict[str, str]:
        """Return the headers that every response of the batch has."""
        return {
            "x-batch-texts": str(self.n_texts),
            "x-batch-tokens": str(self.n_tokens),
            "x-tokenize-ms": f"{self.tokenize_s * 1e3:.2f}",
            "x-inference-ms": f"{self.inference_s * 1e3:.2f}",
        }

    def measurements(self) -> Iterator[Measurement]:
        """Yield the measurements for TorchServe's metrics."""
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
            # TorchServe parses one line per metric: a comma, a bar or a line break in a label would end it.
            yield Measurement("bert_labels_total", "counter", count, (re.sub(r"[^\w .-]", "_", label),))
        for error_type, count in self.refused.items():
            yield Measurement("bert_refused_requests_total", "counter", count, (error_type,))
