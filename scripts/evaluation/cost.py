"""What answers cost: texts a second, the latency of one text alone, bytes. Measured anew at every run, never kept."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import numpy as np

from handler.protocol import JSON
from scripts.client.bulk import in_batches, in_order
from scripts.evaluation.models import EvaluatedModel
from scripts.evaluation.tasks.base import ModelQuestion

MAX_TEXTS = 512
MAX_SINGLE = 200  # questions asked alone
SECONDS = 20.0  # for these
WARM_UP = 5


def cost(model: EvaluatedModel, questions: Sequence[ModelQuestion], texts_per_request: int) -> dict[str, JSON]:
    """Return throughput with several texts a request, and p50 and p99 of requests of one text, one after the other."""
    same = [question for question in questions if question.parameters == questions[0].parameters][:MAX_TEXTS]
    items, parameters = [question.item for question in same], questions[0].parameters
    for item in items[:WARM_UP]:
        model.answer([item], parameters)
    began = time.perf_counter()
    for _ in in_order(
        lambda batch: model.answer(batch, parameters), in_batches(items, texts_per_request), model.concurrency
    ):
        pass
    seconds = time.perf_counter() - began
    ms: list[float] = []
    deadline = time.perf_counter() + SECONDS
    for item in itertools.islice(itertools.cycle(items), MAX_SINGLE):
        started = time.perf_counter()
        if started > deadline:
            break
        model.answer([item], parameters)
        ms.append(1000 * (time.perf_counter() - started))
    return {
        "texts": len(items),
        "texts_per_second": len(items) / seconds,
        "texts_per_request": texts_per_request,
        "requests_at_once": model.concurrency,
        "single": len(ms),
        "p50_ms": float(np.quantile(ms, 0.5)),
        "p99_ms": float(np.quantile(ms, 0.99)),
        "bytes": model.n_bytes,
    }
