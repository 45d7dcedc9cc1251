"""On a GPU: answers of every precision against fp32 on a CPU, in any batch composition, and what makes them fast.

Selected by `pytest -m cuda`; deselected where PyTorch sees no GPU. tests/handler/engine/test_gpu_engine.py,
test_cuda_graphs.py and test_fusion.py run the same code on a CPU.
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
from scripts.archives.fp8 import quantize
from tests.support.encodings import LENGTHS, ChosenStates, logits_of, outputs_of, random_words
from tests.support.families import FAMILIES, PADDED_FAMILIES, make_family, reference_logits
from tests.support.samples import MODELS, ROOT, TEXTS, LoadMain, MakeModel, ask, response_json

pytestmark = pytest.mark.cuda

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")
# Of a hidden state's length, and of a score: how far a precision on a GPU may lie from fp32 on a CPU. The random
# weights of these tests are large: in fp8 a CPU is up to 0.132 from its own fp32, and an H200 0.127.
TOLERANCES = {"fp32": (1e-4, 1e-4), "fp16": (5e-3, 1e-2), "bf16": (3e-2, 5e-2), "fp8": (2e-1, 2e-1)}
COMPOSITION = {"fp32": 5e-5, "fp16": 5e-3, "bf16": 2.5e-2, "fp8": 5e-2}  # of a score, between batches
FP8_RTOL = 0.1  # of a hidden state's length: two orders of sums in fp8; 0.072 between an H200 and a CPU


def precisions() -> list[str]:
    """Return all that this GPU has; where there is no GPU nothing is run."""
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


@pytest.fixture(scope="module")
def model_folder(make_model: MakeModel) -> Path:
    """Return the folder of a model wide enough for the products in fp8 of every cuBLAS."""
    return make_model(hidden_size=128, intermediate_size=256)


@pytest.fixture(scope="module")
def predictor(model_folder: Path) -> Predictor:
    """Return its predictor on the CPU."""
    return load_predictor(model_folder)


@pytest.fixture(scope="module", params=precisions())
def gpu(request: pytest.FixtureRequest, model_folder: Path) -> Predictor:
    """Return a predictor at each precision."""
    return on_gpu(model_folder, request.param)


def test_scores_are_those_of_fp32(gpu: Predictor, predictor: Predictor) -> None:
    """Of texts that have tripped tokenizers, within the stated tolerance."""
    tolerance = TOLERANCES[gpu.engine.precision.name][1]
    for response, expected in zip(ask(gpu, *TEXTS), ask(predictor, *TEXTS), strict=True):
        assert predictor.task.answers_match(response_json(expected), response_json(response), tolerance)


def test_hidden_states_are_those_of_fp32(gpu: Predictor, predictor: Predictor) -> None:
    """Of all tokens, of the first ones, and of several; of more sequences than a graph holds, too."""
    tolerance = TOLERANCES[gpu.engine.precision.name][0]
    for sequences in (random_words(*LENGTHS), random_words(*LENGTHS * 12), random_words(1)):
        for pooler in (HiddenStates(), ChosenStates(0), ChosenStates(0, 5)):
            pairs = zip(
                outputs_of(gpu.engine, pooler, sequences), outputs_of(predictor.engine, pooler, sequences), strict=True
            )
            for output, reference in pairs:
                assert np.linalg.norm(output - reference) <= tolerance * np.linalg.norm(reference)


@pytest.mark.parametrize("budget", [300, 4000])
def test_batch_composition_does_not_change_an_answer(gpu: Predictor, budget: int) -> None:
    """The same scores alone, in any batch and at any index, whether by a graph or not."""
    engine, tolerance = gpu.engine, COMPOSITION[gpu.engine.precision.name]
    before, engine.max_batch_tokens = engine.max_batch_tokens, budget
    try:
        alone = [response_json(response) for text in TEXTS for response in ask(gpu, text)]
        together = [response_json(response) for response in ask(gpu, *TEXTS)]
        reversed_ = [response_json(response) for response in ask(gpu, *TEXTS[::-1])][::-1]
    finally:
        engine.max_batch_tokens = before
    for expected, *answers in zip(alone, together, reversed_, strict=True):
        assert all(gpu.task.answers_match(expected, answer, tolerance) for answer in answers)


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
    folder = make_family(name, {**FAMILIES, **PADDED_FAMILIES}[name], make_model)
    engine = on_gpu(folder, precision).engine
    assert engine.packed == (name in FAMILIES)
    sequences = random_words(3, 20, 20, 7, 50, 20)
    logits, expected = logits_of(engine.run(sequences)), reference_logits(folder, sequences)
    assert np.abs(logits - expected).max() <= 3 * TOLERANCES[precision][0] * np.abs(expected).max()


@pytest.mark.parametrize("main", [main for main in MODELS if main != "tokenize"])
def test_every_task_answers_as_on_a_cpu(main: str, load_main: LoadMain, make_model: MakeModel) -> None:
    """Its self-test inputs, by graphs and without, at the fastest precision whose accuracy need not be measured."""
    plain = load_main(main)
    fast = on_gpu(make_model(**MODELS[main]), supported(GPU)[0], task=main)
    items, parameters = plain.task.self_test_items, plain.task.self_test_parameters
    pairs = zip(plain.answer_items(items, parameters), fast.answer_items(items, parameters), strict=True)
    assert all(plain.task.answers_match(*pair, fast.engine.precision.tolerance) for pair in pairs)


# --- what makes it fast ------------------------------------------------------------------------------------------


def test_the_varlen_kernel_equals_attention_one_by_one() -> None:
    """PyTorch's kernel for several lengths, for queries of all tokens and of one of each sequence."""
    from handler.engine.batch import TensorBatch

    assert has_kernel(GPU, torch.float16)
    torch.manual_seed(0)
    for lengths in (LENGTHS, (512, 1, 300), (1,)):
        qkv = torch.randn(sum(lengths), 3, 4, 64, device=GPU).half()
        varlen = TensorBatch.packed(random_words(*lengths), GPU).varlen
        first_tokens = TensorBatch.packed(random_words(*lengths), GPU, reads=[[0]] * len(lengths)).varlen
        assert varlen is not None
        assert first_tokens is not None
        context = Attention(varlen, 4, torch.float16)(qkv.flatten(1))
        q, k, v = (qkv[:, index].float() for index in range(3))
        exact = attend(q, k, v, varlen).flatten(1)
        torch.testing.assert_close(context.float(), exact, atol=5e-3, rtol=5e-3)
        query = qkv[varlen.cu_seqlens[:-1].long(), 0].flatten(1)
        read = Attention(first_tokens, 4, torch.float16)(qkv[:, 1:].flatten(1), query)
        torch.testing.assert_close(read, context[varlen.cu_seqlens[:-1].long()], atol=5e-3, rtol=5e-3)


def test_operators_are_compiled_and_small_batches_replayed(gpu: Predictor) -> None:
    """Here everything works; and after the warm-up nothing is compiled, whatever the lengths."""
    engine = engine_of(gpu)
    layer = engine.model.base_model.encoder.layers[0]
    if engine.precision.name == "fp8":
        assert layer.add_norm.ops.add_norm_quantize is not fp8.add_norm_quantize
    else:
        assert isinstance(layer.add_norm, fusion.FusedAddNorm)
    if has_kernel(GPU, engine.precision.dtype):
        assert len(engine.graphs) == len(BUCKETS)
        assert engine.model.base_model.encoder.tile_kernel is not None
    counters = torch._dynamo.utils.counters
    before = dict(counters["stats"])
    for lengths in ([1], [2], [1, 1], LENGTHS, [512] * 3, list(range(1, 200, 7)), [300] * 100):
        logits_of(engine.run(random_words(*lengths)))
    assert dict(counters["stats"]) == before


def test_graphs_equal_plain_calls(gpu: Predictor) -> None:
    """Of every size of batch, again and again, in any order."""
    engine = engine_of(gpu)
    graphs, tolerance = engine.graphs, TOLERANCES[engine.precision.name][0]
    for lengths in ([3], [9], [15], [3, 4], [20] * 3, [100, 3, 60], [5] * 40, [512], [400, 400, 100], [7]):
        sequences = random_words(*lengths)
        replayed = logits_of(engine.run(sequences))
        engine.graphs = {}
        plain = logits_of(engine.run(sequences))
        engine.graphs = graphs
        assert np.abs(replayed - plain).max() <= 3 * tolerance * np.abs(plain).max()


def test_without_extras_it_answers_the_same(model_folder: Path, gpu: Predictor) -> None:
    """`compile: never` uses neither graphs nor compiled operators."""
    plain = on_gpu(model_folder, gpu.engine.precision.name, compile="never")
    assert not engine_of(plain).graphs
    for response, expected in zip(ask(gpu, *TEXTS), ask(plain, *TEXTS), strict=True):
        assert gpu.task.answers_match(
            response_json(response), response_json(expected), TOLERANCES[gpu.engine.precision.name][1]
        )


def test_the_budget_is_one_of_the_candidates(gpu: Predictor) -> None:
    """And fits into the memory."""
    assert gpu.engine.max_batch_tokens in memory.BUDGETS
    budget = gpu.engine.max_batch_tokens
    assert logits_of(gpu.engine.run(random_words(*[64] * (budget // 64)))).shape == (budget // 64, 4)


def test_device_usage_is_measured(gpu: Predictor) -> None:
    """Busy time and memory, as the metrics report them."""
    gpu.engine.device_usage()
    gpu.engine.run(random_words(*LENGTHS))
    usage = gpu.engine.device_usage()
    assert usage is not None
    assert usage.device == "0"
    assert 0 < usage.seconds < 10
    assert usage.used_bytes > 1 << 20


# --- fp8 -----------------------------------------------------------------------------------------------------------


def test_fp8_equals_what_the_cpu_computed_when_it_was_packed(model_folder: Path) -> None:
    """So golden answers of a machine without a GPU hold on one with."""
    if "fp8" not in precisions():
        assert not fp8.supported(GPU)
        return
    on_cpu = load_predictor(model_folder)
    quantize(on_cpu)
    outputs = outputs_of(on_gpu(model_folder, "fp8").engine, HiddenStates(), random_words(*LENGTHS))
    expected = outputs_of(on_cpu.engine, HiddenStates(), random_words(*LENGTHS))
    for output, reference in zip(outputs, expected, strict=True):
        assert np.linalg.norm(output - reference) <= FP8_RTOL * np.linalg.norm(reference)


# --- what goes wrong -----------------------------------------------------------------------------------------------


def test_out_of_memory_is_halved(gpu: Predictor) -> None:
    """A batch that does not fit is computed in parts, and the GPU works afterwards."""
    engine = engine_of(gpu)
    expected, launch = logits_of(engine.run(random_words(*LENGTHS))), engine.launch

    def launch_small(pooler: Any, encodings: Any) -> Any:
        if len(encodings) > 2:
            torch.empty(1 << 50, dtype=torch.uint8, device=GPU)  # a petabyte
        return launch(pooler, encodings)

    engine.launch = launch_small  # type: ignore[method-assign]
    try:
        tolerance = 3 * TOLERANCES[engine.precision.name][0] * np.abs(expected).max()
        assert np.abs(logits_of(engine.run(random_words(*LENGTHS))) - expected).max() <= tolerance
    finally:
        engine.launch = launch  # type: ignore[method-assign]
    assert not engine.device_failed
    assert OutOfMemory not in {type(result) for result in engine.run(random_words(*LENGTHS))}


FAILS = """
import sys, torch
from pathlib import Path
from handler.config import ServingConfig
from handler.loading import load_predictor
from handler.sequences import Encoding
engine = load_predictor(Path(sys.argv[1]), ServingConfig(precision=sys.argv[2]), torch.device("cuda", 0)).engine
fine = Encoding([101, 2000, 102], [0] * 3)
bad = Encoding([10**8] * 600, [0] * 600)  # an index that no embedding has: an assertion of the device
print(*(type(result).__name__ for result in engine.run([fine, bad])), flush=True)
after = engine.run([fine])
print(*(type(result).__name__ for result in after), engine.device_failed, engine.device_usage(), flush=True)
"""


def test_a_failed_gpu_answers_507_and_nothing_more(model_folder: Path) -> None:
    """In a process of its own, whose device never works again."""
    done = subprocess.run(
        [sys.executable, "-c", FAILS, str(model_folder), supported(GPU)[0]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    lines = done.stdout.splitlines()
    assert len(lines) >= 2, (done.returncode, done.stdout, done.stderr[-4000:])
    assert lines[-1] == "DeviceLost True None", done.stderr[-2000:]
    assert lines[-2].split()[1] == "DeviceLost"


def test_explanations_have_gradients(gpu: Predictor, predictor: Predictor) -> None:
    """Those of a CPU, or the message that says why there are none."""
    (response,) = ask(gpu, "Where is my parcel?", explain=True)
    if gpu.engine.gradient_problem:
        assert response.status == 404
        return
    (plain,) = ask(predictor, "Where is my parcel?", explain=True)
    assert response_json(response)["label"] == response_json(plain)["label"]
    attributions, expected = (
        [word["attribution"] for word in response_json(answer)["words"]] for answer in (response, plain)
    )
    np.testing.assert_allclose(attributions, expected, atol=TOLERANCES[gpu.engine.precision.name][1])
