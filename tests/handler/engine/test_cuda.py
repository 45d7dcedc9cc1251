"""On a GPU: answers of every precision against fp32 on a CPU, in any order and company, and what makes them fast.

Selected by `pytest -m cuda`; deselected where PyTorch sees no GPU. tests/handler/engine/test_gpu_engine.py and
its like hold the same code on a CPU.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handler.config import ServingConfig
from handler.engine import fp8, fusion, memory
from handler.engine.attention import Attention, attend, has_kernel
from handler.engine.cuda import CudaEngine
from handler.engine.cuda_graphs import BUCKETS
from handler.engine.precision import supported
from handler.engine.probe import HiddenStates
from handler.errors import OutOfMemory
from handler.loading import load_predictor
from handler.predictor import Predictor
from scripts.archives.fp8 import round_off
from tests.handler.engine.test_encoder import LENGTHS, Chosen, states
from tests.handler.engine.test_engine import FAMILIES, PADDED_FAMILIES, encodings, family, logits, reference
from tests.support.samples import MODELS, ROOT, TEXTS, LoadMain, MakeModel, ask, told

pytestmark = pytest.mark.cuda

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")
# Of a hidden state's length, and of a score: how far a precision on a GPU may lie from fp32 on a CPU.
TOLERANCES = {"fp32": (1e-4, 1e-4), "fp16": (5e-3, 1e-2), "bf16": (3e-2, 5e-2), "fp8": (1e-1, 1e-1)}


def precisions() -> list[str]:
    """Return all that this GPU has; none where there is no GPU, and nothing is run."""
    if not torch.cuda.is_available():
        return ["fp32"]
    return [*supported(GPU), *(["fp8"] if fp8.supported(GPU) else [])]


def on_gpu(folder: Path, precision: Any, **settings: Any) -> Predictor:
    """Load a model on the GPU."""
    return load_predictor(folder, ServingConfig(precision=precision, **settings), GPU)


def engine_of(predictor: Predictor) -> CudaEngine:
    """Return the engine of a predictor on the GPU."""
    assert isinstance(predictor.engine, CudaEngine)
    return predictor.engine


@pytest.fixture(scope="module", params=precisions())
def gpu(request: pytest.FixtureRequest, model_folder: Path) -> Predictor:
    """Return a predictor at each precision."""
    return on_gpu(model_folder, request.param)


def test_scores_are_those_of_fp32(gpu: Predictor, predictor: Predictor) -> None:
    """Of texts that have tripped tokenizers, within the stated tolerance."""
    tolerance = TOLERANCES[gpu.engine.precision.name][1]
    for one, other in zip(ask(gpu, *TEXTS), ask(predictor, *TEXTS), strict=True):
        assert predictor.task.answers_match(told(other), told(one), tolerance)


def test_hidden_states_are_those_of_fp32(gpu: Predictor, predictor: Predictor) -> None:
    """Of all tokens, of the first ones, and of several; of more sequences than a graph holds, too."""
    tolerance = TOLERANCES[gpu.engine.precision.name][0]
    for its in (encodings(*LENGTHS), encodings(*LENGTHS * 12), encodings(1)):
        for use in (HiddenStates(), Chosen(0), Chosen(0, 5)):
            pairs = zip(states(gpu.engine, use, its), states(predictor.engine, use, its), strict=True)
            for one, other in pairs:
                assert np.linalg.norm(one - other) <= tolerance * np.linalg.norm(other)


@pytest.mark.parametrize("budget", [300, 4000])
def test_order_and_company_do_not_change_an_answer(gpu: Predictor, budget: int) -> None:
    """The same scores alone, in any batch and at any place, whether by a graph or not."""
    engine, tolerance = gpu.engine, TOLERANCES[gpu.engine.precision.name][1] / 2
    before, engine.max_batch_tokens = engine.max_batch_tokens, budget
    try:
        alone = [told(reply) for text in TEXTS for reply in ask(gpu, text)]
        together = [told(reply) for reply in ask(gpu, *TEXTS)]
        turned = [told(reply) for reply in ask(gpu, *TEXTS[::-1])][::-1]
    finally:
        engine.max_batch_tokens = before
    for one, two, three in zip(alone, together, turned, strict=True):
        assert gpu.task.answers_match(one, two, tolerance)
        assert gpu.task.answers_match(one, three, tolerance)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # DeBERTa's own module
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *((name, precision) for name in FAMILIES for precision in precisions() if precision != "fp8"),
        *((name, "fp32") for name in PADDED_FAMILIES),
    ],
)
def test_every_family_equals_transformers(name: str, precision: str, make_model: MakeModel) -> None:
    """Packed where it can be, padded otherwise."""
    folder = family(name, {**FAMILIES, **PADDED_FAMILIES}[name], make_model)
    engine = on_gpu(folder, precision).engine
    assert engine.packed == (name in FAMILIES)
    its = encodings(3, 20, 20, 7, 50, 20)
    found, expected = logits(engine.run(its)), reference(folder, its)
    assert np.abs(found - expected).max() <= 3 * TOLERANCES[precision][0] * np.abs(expected).max()


@pytest.mark.parametrize("main", [main for main in MODELS if main != "tokenize"])
def test_every_task_answers_as_on_a_cpu(main: str, load_main: LoadMain, make_model: MakeModel) -> None:
    """Its golden questions, by graphs and without, at the fastest precision that needs no look at the accuracy."""
    plain = load_main(main)
    fast = on_gpu(make_model(**MODELS[main]), supported(GPU)[0], task=main)
    items, parameters = plain.task.self_test_items, plain.task.self_test_parameters
    pairs = zip(plain.answer_items(items, parameters), fast.answer_items(items, parameters), strict=True)
    assert all(plain.task.answers_match(*pair, fast.engine.precision.tolerance) for pair in pairs)


# --- what makes it fast ------------------------------------------------------------------------------------------


def test_the_kernel_attends_as_one_by_one_does() -> None:
    """PyTorch's own for several lengths, to all tokens and to one of each sequence."""
    from handler.batching import Batch

    assert has_kernel(GPU, torch.float16)
    torch.manual_seed(0)
    for lengths in (LENGTHS, (512, 1, 300), (1,)):
        parts = torch.randn(sum(lengths), 3, 4, 64, device=GPU).half()
        packing = Batch.packed(encodings(*lengths), GPU).varlen
        firsts = Batch.packed(encodings(*lengths), GPU, reads=[[0]] * len(lengths)).varlen
        assert packing is not None
        assert firsts is not None
        found = Attention(packing, 4, torch.float16)(parts.flatten(1))
        q, k, v = (parts[:, index].float() for index in range(3))
        exact = attend(q, k, v, packing).flatten(1)
        torch.testing.assert_close(found.float(), exact, atol=5e-3, rtol=5e-3)
        query = parts[packing.offsets[:-1].long(), 0].flatten(1)
        read = Attention(firsts, 4, torch.float16)(parts[:, 1:].flatten(1), query)
        torch.testing.assert_close(read, found[packing.offsets[:-1].long()], atol=5e-3, rtol=5e-3)


def test_steps_are_fused_and_small_batches_replayed(gpu: Predictor) -> None:
    """Here everything works; and after the warm-up nothing is compiled, whatever comes."""
    engine = engine_of(gpu)
    layer = engine.model.base_model.encoder.layers[0]
    if engine.precision.name == "fp8":
        assert layer._steps.normed is not fp8.normed
    else:
        assert isinstance(layer, fusion.FusedLayer)
    if has_kernel(GPU, engine.precision.dtype):
        assert len(engine._graphs) == len(BUCKETS)
    counters = torch._dynamo.utils.counters
    before = dict(counters["stats"])
    for lengths in ([1], [2], [1, 1], LENGTHS, [512] * 3, list(range(1, 200, 7)), [300] * 100):
        logits(engine.run(encodings(*lengths)))
    assert dict(counters["stats"]) == before


def test_graphs_say_what_the_plain_way_says(gpu: Predictor) -> None:
    """Of every size of batch, again and again, in any order."""
    engine = engine_of(gpu)
    graphs, tolerance = engine._graphs, TOLERANCES[engine.precision.name][0]
    for lengths in ([3], [9], [15], [3, 4], [20] * 3, [100, 3, 60], [5] * 40, [512], [400, 400, 100], [7]):
        its = encodings(*lengths)
        replayed = logits(engine.run(its))
        engine._graphs = {}
        plain = logits(engine.run(its))
        engine._graphs = graphs
        assert np.abs(replayed - plain).max() <= 3 * tolerance * np.abs(plain).max()


def test_without_extras_it_answers_the_same(model_folder: Path, gpu: Predictor) -> None:
    """`compile: never` is the plain way."""
    plain = on_gpu(model_folder, gpu.engine.precision.name, compile="never")
    assert not engine_of(plain)._graphs
    for one, other in zip(ask(gpu, *TEXTS), ask(plain, *TEXTS), strict=True):
        assert gpu.task.answers_match(told(one), told(other), TOLERANCES[gpu.engine.precision.name][1])


def test_the_budget_is_one_of_those_tried(gpu: Predictor) -> None:
    """And fits into the memory."""
    assert gpu.engine.max_batch_tokens in memory.BUDGETS
    budget = gpu.engine.max_batch_tokens
    assert logits(gpu.engine.run(encodings(*[64] * (budget // 64)))).shape == (budget // 64, 4)


def test_the_gpu_keeps_count(gpu: Predictor) -> None:
    """Of its busy time and its memory, as the metrics tell them."""
    gpu.engine.device_usage()
    gpu.engine.run(encodings(*LENGTHS))
    usage = gpu.engine.device_usage()
    assert usage is not None
    assert usage.device == "0"
    assert 0 < usage.seconds < 10
    assert usage.used_bytes > 1 << 20


# --- fp8 -----------------------------------------------------------------------------------------------------------


def test_fp8_is_what_the_cpu_computed_when_it_was_packed(model_folder: Path) -> None:
    """So golden answers of a machine without a GPU hold on one with."""
    if "fp8" not in precisions():
        assert not fp8.supported(GPU)
        return
    packed_with = load_predictor(model_folder)
    round_off(packed_with)
    found = states(on_gpu(model_folder, "fp8").engine, HiddenStates(), encodings(*LENGTHS))
    expected = states(packed_with.engine, HiddenStates(), encodings(*LENGTHS))
    for one, other in zip(found, expected, strict=True):
        assert np.linalg.norm(one - other) <= 0.05 * np.linalg.norm(other)


# --- what goes wrong -----------------------------------------------------------------------------------------------


def test_out_of_memory_is_halved(gpu: Predictor) -> None:
    """A batch that does not fit is computed in parts, and the GPU is whole afterwards."""
    engine = engine_of(gpu)
    whole, launch = logits(engine.run(encodings(*LENGTHS))), engine._launch

    def small(use: Any, its: Any) -> Any:
        if len(its) > 2:
            torch.empty(1 << 50, dtype=torch.uint8, device=GPU)  # a petabyte
        return launch(use, its)

    engine._launch = small  # type: ignore[method-assign,assignment]
    try:
        tolerance = 3 * TOLERANCES[engine.precision.name][0] * np.abs(whole).max()
        assert np.abs(logits(engine.run(encodings(*LENGTHS))) - whole).max() <= tolerance
    finally:
        engine._launch = launch  # type: ignore[method-assign]
    assert not engine.device_failed
    assert OutOfMemory not in {type(found) for found in engine.run(encodings(*LENGTHS))}


LOSES = """
import sys, torch
from pathlib import Path
from handler.config import ServingConfig
from handler.sequences import Encoding
from handler.loading import load_predictor
from handler.predictor import Predictor
engine = load_predictor(Path(sys.argv[1]), ServingConfig(precision=sys.argv[2]), torch.device("cuda", 0)).engine
fine = Encoding([101, 2000, 102], [0] * 3)
bad = Encoding([10**8] * 600, [0] * 600)  # an index that no embedding has: an assertion of the device
print(*(type(found).__name__ for found in engine.run([fine, bad])))
print(*(type(found).__name__ for found in engine.run([fine])), engine.device_failed, engine.device_usage())
"""


def test_a_lost_gpu_answers_507_and_nothing_more(model_folder: Path) -> None:
    """In a process of its own, for it is never whole again."""
    done = subprocess.run(
        [sys.executable, "-c", LOSES, str(model_folder), supported(GPU)[0]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == "DeviceLost True None", done.stderr[-2000:]
    assert lines[-2].split()[1] == "DeviceLost"


def test_explanations_have_gradients(gpu: Predictor, predictor: Predictor) -> None:
    """Those of a CPU, or the message that says why there are none."""
    (reply,) = ask(gpu, "Where is my parcel?", explain=True)
    if not gpu.engine.differentiable:
        assert reply.status == 404
        return
    (plain,) = ask(predictor, "Where is my parcel?", explain=True)
    assert told(reply)["label"] == told(plain)["label"]
    found, expected = ([word["attribution"] for word in told(one)["words"]] for one in (reply, plain))
    np.testing.assert_allclose(found, expected, atol=TOLERANCES[gpu.engine.precision.name][1])
