"""The engine for GPUs, where there is none: batches ahead, token budgets and what is proven at load, run on the CPU.

tests/support/fake_gpu.py replaces what only a GPU has; tests/handler/engine/test_cuda.py runs the whole on one.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handler.engine import Engine, engine_for, memory
from handler.engine.cuda import CudaEngine
from handler.errors import DeviceLost, InternalError, ModelMismatch, OutOfMemory, Overloaded
from handler.predictor import Predictor
from handler.sequences import Encoding
from tests.handler.engine.test_engine import logits
from tests.support.fake_gpu import SEVERAL, Ahead, Mark, made
from tests.support.samples import TEXTS, ask, told

pytestmark = pytest.mark.usefixtures("one_thread")  # models this small are no faster with two

CPU = torch.device("cpu")


@pytest.fixture
def ahead(model_folder: Path, predictor: Predictor) -> Ahead:
    """Return an engine that plans a batch for nearly every sequence."""
    return made(model_folder, predictor, compile="never", max_batch_tokens=10)


def test_the_engine_goes_by_the_device() -> None:
    """A machine without a GPU never sees the code for one."""
    assert engine_for(None) is engine_for(CPU) is Engine
    assert engine_for(torch.device("cuda", 1)) is CudaEngine


# --- one batch ahead -----------------------------------------------------------------------------------------------


def test_a_batch_is_launched_before_the_one_ahead_of_it_is_waited_for(ahead: Ahead, predictor: Predictor) -> None:
    """The order of launches and landings, and the values of the plain engine in the order of the texts."""
    found = logits(ahead.run(SEVERAL))
    n = ahead.log.count("launched")
    assert n > 3
    assert ahead.log == ["launched", *["launched", "landed"] * (n - 1), "landed"]
    np.testing.assert_allclose(found, logits(predictor.engine.run(SEVERAL)), atol=1e-5)


def test_busy_time_is_counted_once(ahead: Ahead, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second a batch here; what is told begins anew."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3, 10))
    ahead.device_usage()
    ahead.run(SEVERAL)
    usage = ahead.device_usage()
    assert usage is not None
    assert usage == ("0", 0.5 * ahead.log.count("launched"), 7)
    assert ahead.device_usage() == ("0", 0.0, 7)
    ahead.mark_device_failed()
    assert ahead.device_usage() is None


def test_out_of_memory_ahead_is_halved_in_its_turn(ahead: Ahead, predictor: Predictor) -> None:
    """Whatever was under way lands first; the neighbours' values are right."""
    ahead.max_batch_tokens = 60
    ahead.fails = lambda its: torch.OutOfMemoryError("no room") if len(its) > 1 else None
    np.testing.assert_allclose(logits(ahead.run(SEVERAL)), logits(predictor.engine.run(SEVERAL)), atol=1e-5)
    ahead.fails = lambda _: torch.OutOfMemoryError("no room")
    assert {type(found) for found in ahead.run(SEVERAL)} == {OutOfMemory}


def test_a_failure_ahead_stays_with_its_row(ahead: Ahead, predictor: Predictor) -> None:
    """As in the plain engine."""
    poison = SEVERAL[2].ids
    ahead.max_batch_tokens = 60
    ahead.fails = lambda its: KeyError("x") if poison in [one.ids for one in its] else None
    found = ahead.run(SEVERAL)
    assert isinstance(found.pop(2), InternalError)
    rest = [*SEVERAL[:2], *SEVERAL[3:]]
    np.testing.assert_allclose(logits(found), logits(predictor.engine.run(rest)), atol=1e-5)


@pytest.mark.parametrize("where", ["launch", "landing"])
def test_a_lost_gpu_is_told_to_every_row_that_is_not_answered(
    ahead: Ahead, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short ones first: those that had landed keep their values, the others get 507, now and later."""
    error, longest = torch.AcceleratorError("device-side assert"), SEVERAL[5]
    if where == "launch":
        ahead.fails = lambda its: error if longest in its else None
    else:

        def sync(mark: Mark) -> None:
            mark.log.append("landed")
            if mark.log.count("launched") == len(SEVERAL):
                raise error

        monkeypatch.setattr(Mark, "synchronize", sync)
        ahead.max_batch_tokens = 1
    found = ahead.run(SEVERAL)
    assert isinstance(found[5], DeviceLost)
    assert isinstance(found[0], np.ndarray)
    assert ahead.device_failed
    assert {type(one) for one in ahead.run(SEVERAL)} == {DeviceLost}


def test_after_the_deadline_nothing_is_launched(ahead: Ahead) -> None:
    """What is under way is answered, the rest refused, each in its place."""
    launch, ahead.max_batch_tokens = Ahead._launch, 1

    def slow(engine: Ahead, use: Any, its: Any) -> Any:
        time.sleep(0.2)
        return launch(engine, use, its)

    ahead._launch = slow.__get__(ahead)  # type: ignore[method-assign]
    found = ahead.run(SEVERAL, deadline=time.monotonic() + 0.3)
    late = [isinstance(one, Overloaded) for one in found]
    assert late == [False, True, False, True, True, True, True]


# --- the token budget -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("free", "fits"), [(80 << 30, 65536), (1 << 28, 2048)])
def test_the_budget_fits_into_the_free_memory(
    free: int, fits: int, model_folder: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every budget that fits is tried, and the smallest that is nearly as fast as the fastest is kept."""
    peaks = {8: 50_000, 100: 20_000}  # bytes of a token, by the length of its sequence
    engine = made(model_folder, predictor, compile="never")
    tried: list[int] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 80 << 30))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(engine, "_bytes_per_token", peaks.__getitem__)

    def seconds(its: list[Encoding]) -> float:
        tried.append(engine.max_batch_tokens)
        assert max(map(len, its)) == 100
        return 1.0 if engine.max_batch_tokens >= 8192 else 2.0

    monkeypatch.setattr(engine, "_seconds", seconds)
    assert engine._find_budget(100) == min(8192, fits)
    assert max(tried) == fits
    assert set(tried) == {budget for budget in memory.BUDGETS if budget <= fits}


def test_the_memory_of_a_token_is_measured(
    model_folder: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peak of one forward pass, beyond what was there before, over its tokens."""
    engine = made(model_folder, predictor, compile="never")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 1000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 1000 + 2000 * 7)
    assert engine._bytes_per_token(500) == 7
    assert engine._bytes_per_token(8) == 2000 * 7 / 2048


def test_an_engine_far_from_fp32_is_refused(
    model_folder: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a kernel does wrong on this hardware shows before the worker is ready."""
    monkeypatch.setattr(CudaEngine, "_round", lambda *_: None)

    def broken(_: Ahead, encoder: Any) -> None:
        encoder.settle(torch.float32, CPU)
        encoder.layers.reverse()

    monkeypatch.setattr(Engine, "_settle", broken)
    with pytest.raises(ModelMismatch, match="far from itself in fp32"):
        made(model_folder, predictor, compile="never")


def test_texts_through_the_whole(model_folder: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The predictor over this engine answers as over the plain one, and reports what the GPU did."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3, 10))
    gpu = Predictor(
        predictor.operations, predictor.tokenizer, made(model_folder, predictor, compile="never"), predictor.model
    )
    for one, other in zip(ask(gpu, *TEXTS), ask(predictor, *TEXTS), strict=True):
        assert predictor.task.answers_match(told(one), told(other), 1e-4)
