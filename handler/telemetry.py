"""What is counted and timed: headers of an answer, and measurements for TorchServe's metrics.

The names are declared in metrics.yaml; TorchServe drops what is not declared there. Nothing here holds a text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple


class Measurement(NamedTuple):
    """One value of one metric; seconds, bytes or counts."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    value: float
    labels: tuple[str, ...] = ()


@dataclass
class BatchReport:
    """Numbers of one TorchServe batch."""

    n_texts: int = 0
    n_tokens: int = 0
    n_truncated: int = 0
    tokenize_s: float = 0.0
    inference_s: float = 0.0
    explain_s: float = 0.0
    n_unknown: int = 0  # tokens that the vocabulary does not have
    labels: Counter[str] = field(default_factory=Counter)  # the first label of an answer -> answers
    score_sum: float = 0.0  # of those first labels
    refused: Counter[str] = field(default_factory=Counter)  # type of error -> requests
    device: str = ""  # that keeps count of the two below, by its number
    device_s: float = 0.0  # that it computed
    device_bytes: int = 0  # of its memory in use

    def headers(self) -> dict[str, str]:
        """Headers that every answer of the batch carries."""
        return {
            "x-batch-texts": str(self.n_texts),
            "x-batch-tokens": str(self.n_tokens),
            "x-tokenize-ms": f"{self.tokenize_s * 1e3:.2f}",
            "x-inference-ms": f"{self.inference_s * 1e3:.2f}",
        }

    def measurements(self) -> Iterator[Measurement]:
        """Yield what TorchServe's metrics shall see."""
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
            # A comma, a bar or a line break in a label would end the line in which TorchServe reads it.
            yield Measurement("bert_labels_total", "counter", count, (re.sub(r"[^\w .-]", "_", label),))
        for error_type, count in self.refused.items():
            yield Measurement("bert_refused_requests_total", "counter", count, (error_type,))
