"""The engine for GPUs on a CPU: the pipeline of batches, token budgets and comparisons at load.

tests/support/fake_gpu.py replaces what only a GPU has; tests/handler/engine/test_cuda.py runs on one.
"""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handler import loading
from handler.engine import cuda, device, memory
from handler.engine.cuda import CudaEngine
from handler.engine.torch_engine import TorchEngine
from handler.errors import DeviceLost, InternalError, ModelMismatch, OutOfMemory, Overloaded
from handler.predictor import Predictor
from handler.sequences import Encoding
from tests.support.clock import Clock
from tests.support.encodings import logits_of
from tests.support.fake_gpu import SEVERAL, FakeEvent, FakeGpuEngine, load_fake_gpu
from tests.support.samples import TEXTS, ask, response_json

pytestmark = pytest.mark.usefixtures("one_thread")  # models this small are no faster with two

CPU = torch.device("cpu")


@pytest.fixture
def engine(model_folder: Path, predictor: Predictor) -> FakeGpuEngine:
    """Return a fake GPU engine that plans a batch for nearly every sequence."""
    return load_fake_gpu(model_folder, predictor, compile="never", max_batch_tokens=10)


def test_the_engine_is_chosen_by_the_device() -> None:
    """A machine without a GPU never imports the code for one."""
    assert loading.torch_engine_for(device.CPU) is TorchEngine
    assert loading.torch_engine_for(torch.device("cuda", 1)) is CudaEngine


# --- pipeline ------------------------------------------------------------------------------------------------------


def test_no_product_is_rounded_to_tf32(model_folder: Path, predictor: Predictor) -> None:
    """Neither of matrices nor of convolutions, whatever an image has set; nor are partial sums rounded to 16 bits."""
    products = torch.backends.cuda.matmul
    names = "allow_tf32", "allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction"
    switches: list[tuple[Any, str]] = [(torch.backends.cudnn, "allow_tf32"), *((products, name) for name in names)]
    before = [getattr(*switch) for switch in switches]
    try:
        for owner, name in switches:
            setattr(owner, name, True)
        load_fake_gpu(model_folder, predictor, compile="never")
        assert not any(getattr(*switch) for switch in switches)
    finally:
        for (owner, name), value in zip(switches, before, strict=True):
            setattr(owner, name, value)


def test_a_batch_is_launched_before_the_previous_one_is_waited_for(engine: FakeGpuEngine, predictor: Predictor) -> None:
    """The order of launches and waits, and the outputs of the plain engine in the order of the texts."""
    logits = logits_of(engine.run(SEVERAL))
    n = engine.log.count("launched")
    assert n > 3
    assert engine.log == ["launched", *["launched", "waited"] * (n - 1), "waited"]
    np.testing.assert_allclose(logits, logits_of(predictor.engine.run(SEVERAL)), atol=1e-5)


def test_busy_time_is_counted_once(engine: FakeGpuEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second a batch here; every call starts from zero."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3, 10))
    engine.device_usage()
    engine.run(SEVERAL)
    usage = engine.device_usage()
    assert usage is not None
    assert usage == ("0", 0.5 * engine.log.count("launched"), 7)
    assert engine.device_usage() == ("0", 0.0, 7)
    engine.mark_device_failed()
    assert engine.device_usage() is None


def test_out_of_memory_at_launch_is_halved_in_its_turn(engine: FakeGpuEngine, predictor: Predictor) -> None:
    """Batches in flight are waited for first; the outputs of the other sequences are right."""
    engine.max_batch_tokens = 60
    engine.error_of = lambda encodings: torch.OutOfMemoryError("no memory") if len(encodings) > 1 else None
    np.testing.assert_allclose(logits_of(engine.run(SEVERAL)), logits_of(predictor.engine.run(SEVERAL)), atol=1e-5)
    engine.error_of = lambda _: torch.OutOfMemoryError("no memory")
    assert {type(result) for result in engine.run(SEVERAL)} == {OutOfMemory}


def test_a_failure_at_launch_stays_with_its_row(engine: FakeGpuEngine, predictor: Predictor) -> None:
    """As in the plain engine."""
    failing = SEVERAL[2].ids
    engine.max_batch_tokens = 60
    engine.error_of = lambda encodings: KeyError("x") if failing in [encoding.ids for encoding in encodings] else None
    results = engine.run(SEVERAL)
    assert isinstance(results.pop(2), InternalError)
    rest = [*SEVERAL[:2], *SEVERAL[3:]]
    np.testing.assert_allclose(logits_of(results), logits_of(predictor.engine.run(rest)), atol=1e-5)


@pytest.mark.parametrize("where", ["launch", "wait"])
def test_a_failed_gpu_is_reported_to_every_row_without_an_output(
    engine: FakeGpuEngine, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short ones first: finished ones keep their outputs, the others get 507, now and later."""
    error, longest = torch.AcceleratorError("device-side assert"), SEVERAL[5]
    if where == "launch":
        engine.error_of = lambda encodings: error if longest in encodings else None
    else:

        def synchronize(event: FakeEvent) -> None:
            event.log.append("waited")
            if event.log.count("launched") == len(SEVERAL):
                raise error

        monkeypatch.setattr(FakeEvent, "synchronize", synchronize)
        engine.max_batch_tokens = 1
    launched: list[weakref.ref[Any]] = []
    launch = engine.launch

    def remember(pooler: Any, encodings: Any) -> Any:
        in_flight = launch(pooler, encodings)
        launched.append(weakref.ref(in_flight))
        return in_flight

    monkeypatch.setattr(engine, "launch", remember)
    results = engine.run(SEVERAL)
    assert launched[0]() is None
    assert (launched[-1]() is not None) == (where == "wait"), "its pinned memory must not be released any more"
    assert isinstance(results[5], DeviceLost)
    assert isinstance(results[0], np.ndarray)
    assert engine.device_failed
    assert {type(result) for result in engine.run(SEVERAL)} == {DeviceLost}


def test_after_the_deadline_nothing_is_launched(engine: FakeGpuEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches in flight are answered, the rest refused, in the order of the texts."""
    launch, clock, engine.max_batch_tokens = FakeGpuEngine.launch, Clock(), 1
    monkeypatch.setattr(cuda, "time", clock)

    def slow(engine: FakeGpuEngine, pooler: Any, encodings: Any) -> Any:
        clock.sleep(0.2)
        return launch(engine, pooler, encodings)

    engine.launch = slow.__get__(engine)  # type: ignore[method-assign]
    results = engine.run(SEVERAL, deadline=clock.monotonic() + 0.3)
    late = [isinstance(result, Overloaded) for result in results]
    assert late == [False, True, False, True, True, True, True]


# --- the token budget -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("free", "fits"), [(80 << 30, 65536), (1 << 28, 2048)])
def test_the_budget_fits_into_the_free_memory(
    free: int, fits: int, model_folder: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every budget that fits is measured, and the smallest that is nearly as fast as the fastest is kept."""
    peaks = {8: 50_000, 100: 20_000}  # bytes of a token, by the length of its sequence
    engine = load_fake_gpu(model_folder, predictor, compile="never")
    measured: list[int] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 80 << 30))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(engine, "_bytes_per_token", peaks.__getitem__)

    def seconds(encodings: list[Encoding]) -> float:
        measured.append(engine.max_batch_tokens)
        assert max(map(len, encodings)) == 100
        return 1.0 if engine.max_batch_tokens >= 8192 else 2.0

    monkeypatch.setattr(engine, "_seconds", seconds)
    assert engine.measure_budget(100, engine.bytes_per_token(100)) == min(8192, fits)
    assert max(measured) == fits
    assert set(measured) == {budget for budget in memory.BUDGETS if budget <= fits}


def test_the_memory_of_a_token_is_measured(
    model_folder: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peak of one forward pass, beyond what was there before, over its tokens."""
    engine = load_fake_gpu(model_folder, predictor, compile="never")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 1000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 1000 + 2000 * 7)
    assert engine._bytes_per_token(500) == 7
    assert engine._bytes_per_token(8) == 2000 * 7 / 2048


def test_an_engine_far_from_fp32_is_refused(
    model_folder: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that is wrong on this hardware keeps the worker from becoming ready."""

    def broken(_: FakeGpuEngine, encoder: Any, *__: Any) -> None:
        encoder.prepack(torch.float32, CPU)
        encoder.layers.reverse()

    monkeypatch.setattr(TorchEngine, "prepack", broken)
    with pytest.raises(ModelMismatch, match="far from itself in fp32"):
        load_fake_gpu(model_folder, predictor, compile="never")


def test_a_predictor_over_the_gpu_engine(
    model_folder: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The predictor over this engine answers as over the plain one, and reports what the GPU did."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3, 10))
    gpu = Predictor(
        predictor.operations,
        predictor.tokenizer,
        load_fake_gpu(model_folder, predictor, compile="never"),
        predictor.model,
    )
    for response, expected in zip(ask(gpu, *TEXTS), ask(predictor, *TEXTS), strict=True):
        assert predictor.task.answers_match(response_json(response), response_json(expected), 1e-4)
