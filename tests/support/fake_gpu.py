"""A fake GPU on the CPU: events are a log, and the varlen kernel is attention sequence by sequence."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from handler.config import ServingConfig
from handler.engine.cuda import CudaEngine
from handler.engine.encoder import PackedEncoder
from handler.predictor import Predictor
from handler.sequences import Encoding
from tests.support.encodings import random_words

CPU = torch.device("cpu")
SEVERAL = random_words(3, 9, 4, 40, 7, 100, 20)


class FakeEvent:
    """An event that has always happened."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def synchronize(self) -> None:
        self.log.append("waited")

    def elapsed_time(self, _: FakeEvent) -> float:
        return 500.0  # ms


class FakeGpuEngine(CudaEngine):
    """The engine for GPUs on the CPU; a launch may be made to fail."""

    log: list[str]
    error_of: Callable[[list[Encoding]], BaseException | None] = staticmethod(lambda _: None)

    def __init__(self, *args: Any, **options: Any) -> None:
        self.log = []
        with pytest.MonkeyPatch.context() as patch:  # a GPU has layers, no encoder in one call
            patch.setattr(PackedEncoder, "_is_native", lambda *_: False)
            super().__init__(*args, **options)

    def record_event(self) -> Any:
        return FakeEvent(self.log)

    def launch(self, pooler: Any, encodings: Any) -> Any:
        self.log.append("launched")
        if error := self.error_of(encodings):
            raise error
        return super().launch(pooler, encodings)


def load_fake_gpu(folder: Path, predictor: Predictor, **settings: Any) -> FakeGpuEngine:
    """Load a model into the engine for GPUs."""
    engine: Any = FakeGpuEngine.load(
        folder, "AutoModelForSequenceClassification", predictor.task, ServingConfig(**settings), CPU
    )
    engine.log.clear()
    return engine  # type: ignore[no-any-return]


def fake_varlen_attn(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_q: int, max_k: int
) -> Tensor:
    """Attend within each sequence, as `torch.nn.attention.varlen.varlen_attn` does."""
    output = torch.full_like(q, torch.nan)  # as the kernel leaves rows that belong to no sequence
    for (a, b), (c, d) in zip(pairwise(cu_seqlens_q), pairwise(cu_seqlens_k), strict=True):
        assert b - a <= max_q
        assert d - c <= max_k
        query, key, value = (x.transpose(0, 1)[None] for x in (q[a:b], k[c:d], v[c:d]))
        output[a:b] = functional.scaled_dot_product_attention(query, key, value)[0].transpose(0, 1) if d > c else 0
    return output
