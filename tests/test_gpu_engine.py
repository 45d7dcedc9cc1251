"""The engine for GPUs, where there is none: batches ahead, graphs, budgets and fused steps, all run on the CPU.

What only a GPU has is replaced by what does the same slowly: events by a log, the attention kernel by attention one by
one, recording a graph by keeping the function. tests/test_cuda.py runs the whole on a GPU.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from handler.batching import Batch
from handler.config import ServingConfig
from handler.engine import Engine, attention, cuda, cuda_graphs, engine_for, fusion, memory
from handler.engine.cuda import CudaEngine
from handler.engine.cuda_graphs import BUCKETS, bucket_of, filled
from handler.engine.encoder import PackedEncoder
from handler.engine.probe import HiddenStates
from handler.errors import DeviceLost, InternalError, ModelMismatch, OutOfMemory, Overloaded
from handler.layout import Encoding
from handler.predictor import Predictor
from tests.samples import MODELS, TEXTS, LoadMain, MakeModel, ask, told
from tests.test_encoder import LENGTHS, Chosen, states
from tests.test_engine import FAIRSEQ, encodings, family, logits

pytestmark = pytest.mark.usefixtures("one_thread")  # models this small are no faster with two

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


@pytest.fixture
def ahead(model_folder: Path, predictor: Predictor) -> Ahead:
    """Return an engine that plans a batch for nearly every sequence."""
    return made(model_folder, predictor, compile="never", max_batch_tokens=10)


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


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that PyTorch has its kernel here, and that graphs can be recorded."""
    for module in (attention, cuda):
        monkeypatch.setattr(module, "has_kernel", lambda *_: True)
    monkeypatch.setattr(attention, "varlen_attn", varlen)
    monkeypatch.setattr(cuda, "recorder", lambda: lambda run: run)


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
    ahead.usage()
    ahead.run(SEVERAL)
    usage = ahead.usage()
    assert usage is not None
    assert usage == ("0", 0.5 * ahead.log.count("launched"), 7)
    assert ahead.usage() == ("0", 0.0, 7)
    ahead.lose()
    assert ahead.usage() is None


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
    assert ahead.lost
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


# --- graphs ----------------------------------------------------------------------------------------------------------


def test_a_filled_batch_fills_its_bucket() -> None:
    """Whatever fits: as many tokens and sequences as the bucket says, the batch first, no sequence lost."""
    for n in range(1, 70):
        for length in (1, 2, 9, 15, 31, 300):
            bucket = bucket_of(n * length, n)
            if bucket is None:
                assert n * length >= BUCKETS[-1].tokens or n >= BUCKETS[-1].sequences
                continue
            its = filled(encodings(*[length] * n), bucket)
            assert [len(one) for one in its[:n]] == [length] * n
            assert (sum(map(len, its)), len(its)) == bucket
            assert len(its[-1]) > 0
            assert not any(map(len, its[n:-1]))


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("main", [main for main in MODELS if main != "tokenize"])
def test_replayed_batches_say_what_plain_ones_do(main: str, load_main: LoadMain, make_model: MakeModel) -> None:
    """Every task, alone and in company, whichever tokens it reads; larger batches go the plain way."""
    plain = load_main(main)
    engine: Any = Ahead.load(
        make_model(**MODELS[main]),
        load_class(plain),
        plain.task,
        ServingConfig(compile="never", max_batch_tokens=2048),
        CPU,
    )
    engine._record(512)
    assert len(engine._graphs) == len(BUCKETS)
    used: list[int] = []
    for graph in engine._graphs.values():
        graph._replay = counted(graph._replay, used)
    for its in ([*SEVERAL], [SEVERAL[0]], encodings(*[5] * 30), encodings(512, 400, 200), encodings(15)):
        found, expected = (one.run(its, [plain.task] * len(its)) for one in (engine, plain.engine))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)
    assert len(used) == 4


def load_class(predictor: Predictor) -> str:
    """Return the class of transformers that loads a model with this head."""
    return type(predictor.engine.model).__name__.replace("Bert", "AutoModel", 1).replace("AutoModelModel", "AutoModel")


def counted(run: Callable[[], Any], log: list[int]) -> Callable[[], Any]:
    """Return a function that keeps count of its calls."""

    def call() -> Any:
        log.append(1)
        return run()

    return call


@pytest.mark.usefixtures("kernel")
def test_positions_in_a_graph_are_those_of_the_family(make_model: MakeModel) -> None:
    """RoBERTa counts from past its padding token, and skips one that stands in a text."""
    plain = Predictor.load(family("Roberta", {**FAIRSEQ, "max_position_embeddings": 600}, make_model))
    engine = made(family("Roberta", {**FAIRSEQ, "max_position_embeddings": 600}, make_model), plain, compile="never")
    engine._record(512)
    assert engine._graphs
    odd = Encoding([1000, 1, 1, 1003, 1004], [0] * 5)
    its = [odd, *SEVERAL]
    np.testing.assert_allclose(logits(engine.run(its)), logits(plain.engine.run(its)), atol=1e-4)


@pytest.mark.usefixtures("kernel")
def test_other_uses_go_the_plain_way_or_share_the_graphs(model_folder: Path, predictor: Predictor) -> None:
    """Hidden states of all tokens have no graph of a classifier, which reads one of each sequence."""
    engine = made(model_folder, predictor, compile="never")
    engine._record(512)
    for use in (HiddenStates(), Chosen(0), Chosen(0, 5)):
        for one, other in zip(states(engine, use, SEVERAL), states(predictor.engine, use, SEVERAL), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("fault", ["fails", "differs"])
def test_graphs_that_do_not_work_are_left_out(
    fault: str,
    model_folder: Path,
    predictor: Predictor,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With one line in the log, and the plain way from then on."""

    def record(run: Callable[[], Any]) -> Callable[[], Any]:
        if fault == "fails":
            raise RuntimeError("operation not permitted when stream is capturing")
        batch, output = run()  # and never again: answers to what lay there at first
        return lambda: (batch, output)

    monkeypatch.setattr(cuda, "recorder", lambda: record)
    engine = made(model_folder, predictor, compile="never")
    engine._record(512)
    assert not engine._graphs
    assert len([line for line in caplog.messages if "not replayed as graphs" in line]) == 1
    np.testing.assert_allclose(logits(engine.run(SEVERAL)), logits(predictor.engine.run(SEVERAL)), atol=1e-4)


def test_a_part_of_a_padded_batch_is_refused() -> None:
    """Graphs are of packed batches alone."""
    with pytest.raises(ValueError, match="not a packed batch"):
        cuda_graphs.part_of(Batch.padded(encodings(3, 4), CPU, 0), (3,))


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


# --- steps between products ------------------------------------------------------------------------------------------


def fused(backend: str, layer: Any) -> list[fusion.Step] | None:
    """Fuse the step of a layer."""
    return fusion.fused([(fusion.normed, fusion.example_of(layer, torch.float32))], backend)


@pytest.fixture
def encoder(model_folder: Path) -> PackedEncoder:
    """Return the settled encoder of a small model."""
    found = Predictor.load(model_folder).engine.model.base_model.encoder
    assert isinstance(found, PackedEncoder)
    return found


def test_fused_layers_say_what_plain_ones_do(encoder: PackedEncoder, predictor: Predictor, model_folder: Path) -> None:
    """Whatever the number of rows, with nothing compiled after the first trials; gradients take the plain step."""
    steps = fused("aot_eager", encoder.layers[0])
    assert steps is not None
    engine = made(model_folder, predictor, compile="never")
    ours: Any = engine.model.base_model.encoder
    ours.layers = [fusion.FusedLayer(layer, *steps) for layer in ours.layers]
    counters = torch._dynamo.utils.counters
    before = counters["stats"]["unique_graphs"]
    for its in (SEVERAL, [SEVERAL[0]], encodings(*LENGTHS), encodings(1), encodings(2, 2)):
        for use in (HiddenStates(), Chosen(0), Chosen(0, 5)):
            for one, other in zip(states(engine, use, its), states(predictor.engine, use, its), strict=True):
                np.testing.assert_allclose(one, other, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == before
    batch = engine.lay_out(predictor.task, SEVERAL)
    words = engine.model.get_input_embeddings()(batch.input_ids).requires_grad_(True)
    (gradient,) = torch.autograd.grad(engine.call(predictor.task, batch, words)["logits"].sum(), words)
    assert (gradient.abs().sum(-1) > 0).all()
    with torch.no_grad():
        engine.call(predictor.task, batch, words)
    assert counters["stats"]["unique_graphs"] == before


def nothing(*_: Any) -> Any:
    """Compile nothing: there is no compiler."""
    raise RuntimeError("Failed to find C compiler")


def zeros(graph: Any, _: Any) -> Any:
    """Compile to something else."""
    return lambda *args: tuple(torch.zeros_like(one) for one in graph(*args))


@pytest.mark.parametrize(("backend", "reason"), [(nothing, "C compiler"), (zeros, "something else")])
def test_steps_that_cannot_be_fused_stay_plain(
    backend: Any, reason: str, encoder: PackedEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    """With one line in the log that says why."""
    with caplog.at_level(logging.WARNING):
        assert fused(backend, encoder.layers[0]) is None
    torch._dynamo.reset()
    assert len(caplog.records) == 1
    assert reason in caplog.text


@pytest.mark.parametrize(("bad", "tolerance"), [(torch.nan, 9.0), (2.0, 0.5)])
def test_near_tells_garbage(bad: float, tolerance: float) -> None:
    """One row that is far away, or no number, is enough."""
    rows = torch.ones(4, 8)
    assert fusion.near(rows * 1.01, rows, 0.02)
    wrong = rows.clone()
    wrong[2] *= bad
    assert not fusion.near(wrong, rows, tolerance)


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
        assert predictor.task.agree(told(one), told(other), 1e-4)
