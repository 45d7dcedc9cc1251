"""What only a GPU has, done by the CPU, slowly: events by a log, the attention kernel by attention one by one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from handler.config import ServingConfig
from handler.engine.cuda import CudaEngine
from handler.predictor import Predictor
from handler.sequences import Encoding
from tests.handler.engine.test_engine import encodings

CPU = torch.device("cpu")
SEVERAL = encodings(3, 9, 4, 40, 7, 100, 20)


class Mark:
    """An event that has always happened."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def synchronize(self) -> None:
        self.log.append("landed")

    def elapsed_time(self, _: Mark) -> float:
        return 500.0  # ms


class Ahead(CudaEngine):
    """The engine for GPUs on the CPU; a launch may be made to fail."""

    log: list[str]
    fails: Callable[[list[Encoding]], BaseException | None] = staticmethod(lambda _: None)

    def __init__(self, *args: Any, **options: Any) -> None:
        self.log = []
        super().__init__(*args, **options)

    def _mark(self) -> Any:
        return Mark(self.log)

    def _launch(self, use: Any, encodings: Any) -> Any:
        self.log.append("launched")
        if error := self.fails(encodings):
            raise error
        return super()._launch(use, encodings)


def made(folder: Path, predictor: Predictor, **settings: Any) -> Ahead:
    """Load a model into the engine for GPUs."""
    engine: Any = Ahead.load(
        folder, "AutoModelForSequenceClassification", predictor.task, ServingConfig(**settings), CPU
    )
    engine.log.clear()
    return engine  # type: ignore[no-any-return]


def varlen(q: Tensor, k: Tensor, v: Tensor, ends_q: Tensor, ends_k: Tensor, most_q: int, most_k: int) -> Tensor:
    """Attend within each sequence, as PyTorch's kernel for several lengths does."""
    answer = torch.full_like(q, torch.nan)  # as the kernel leaves what belongs to no sequence
    for (a, b), (c, d) in zip(*(pairwise(ends) for ends in (ends_q, ends_k)), strict=True):
        assert b - a <= most_q
        assert d - c <= most_k
        query, key, value = (its.transpose(0, 1)[None] for its in (q[a:b], k[c:d], v[c:d]))
        answer[a:b] = functional.scaled_dot_product_attention(query, key, value)[0].transpose(0, 1) if d > c else 0
    return answer
