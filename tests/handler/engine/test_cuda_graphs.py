"""Small batches as graphs, recorded by keeping the function: filled, replayed, and left out where they fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handler.config import ServingConfig
from handler.engine import attention, cuda, cuda_graphs
from handler.engine.batch import TensorBatch
from handler.engine.cuda_graphs import BUCKETS, bucket_for, fill
from handler.engine.probe import HiddenStates
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.sequences import Encoding
from tests.support.encodings import ChosenStates, logits_of, outputs_of, random_words
from tests.support.fake_gpu import SEVERAL, FakeGpuEngine, fake_varlen_attn, load_fake_gpu
from tests.support.families import FAIRSEQ, make_family
from tests.support.samples import MODELS, LoadMain, MakeModel

pytestmark = pytest.mark.usefixtures("one_thread")  # models this small are no faster with two

CPU = torch.device("cpu")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace PyTorch's varlen kernel, and record graphs by keeping the function."""
    for module in (attention, cuda):
        monkeypatch.setattr(module, "has_kernel", lambda *_: True)
    monkeypatch.setattr(attention, "varlen_attn", fake_varlen_attn)
    monkeypatch.setattr(cuda, "recorder", lambda: lambda run: run)


def test_a_filled_batch_fills_its_bucket() -> None:
    """Whatever fits: as many tokens and sequences as the bucket has, the batch first, no sequence lost."""
    for n in range(1, 70):
        for length in (1, 2, 9, 15, 31, 300):
            bucket = bucket_for(n * length, n, 512)
            if bucket is None:
                assert n * length >= BUCKETS[-1].tokens
                continue
            filled = fill(random_words(*[length] * n), bucket, 512)
            assert [len(sequence) for sequence in filled[:n]] == [length] * n
            assert (sum(map(len, filled)), len(filled)) == bucket
            assert max(map(len, filled)) <= 512
            has_tokens = [len(sequence) > 0 for sequence in filled[n:]]
            assert has_tokens == sorted(has_tokens), "empty ones before the filling"


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("main", [main for main in MODELS if main != "tokenize"])
def test_replayed_batches_equal_plain_ones(main: str, load_main: LoadMain, make_model: MakeModel) -> None:
    """Every task, alone and in a batch, whichever tokens it reads; a batch of more sequences has no graph."""
    plain = load_main(main)
    engine: Any = FakeGpuEngine.load(
        make_model(**MODELS[main]),
        load_class(plain),
        plain.task,
        ServingConfig(compile="never", max_batch_tokens=2048),
        CPU,
    )
    engine.record_graphs(512)
    assert max(key[-1].tokens for key in engine.graphs) == 2048
    calls: list[int] = []
    for graph in engine.graphs.values():
        graph.replay = counted(graph.replay, calls)
    batches, graphs = [[5] * 30, [512, 400, 200], [15], [8] * 2, [2] * 300], engine.graphs
    for sequences in ([*SEVERAL], [SEVERAL[0]], *(random_words(*lengths) for lengths in batches)):
        outputs = outputs_of(engine, plain.task, sequences)
        engine.graphs = {}
        expected = outputs_of(engine, plain.task, sequences)
        engine.graphs = graphs
        for pair in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(*pair, atol=1e-4)
    assert len(calls) == 6


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
    """RoBERTa counts positions from past its padding token, and skips one inside a text."""
    plain = load_predictor(make_family("Roberta", {**FAIRSEQ, "max_position_embeddings": 600}, make_model))
    engine = load_fake_gpu(
        make_family("Roberta", {**FAIRSEQ, "max_position_embeddings": 600}, make_model), plain, compile="never"
    )
    engine.record_graphs(512)
    assert engine.graphs
    with_padding = Encoding([1000, 1, 1, 1003, 1004], [0] * 5)
    sequences = [with_padding, *SEVERAL]
    np.testing.assert_allclose(logits_of(engine.run(sequences)), logits_of(plain.engine.run(sequences)), atol=1e-4)


@pytest.mark.usefixtures("kernel")
def test_other_poolers_share_the_graphs_or_have_none(model_folder: Path, predictor: Predictor) -> None:
    """Hidden states of all tokens have no graph of a classifier, which reads one of each sequence."""
    engine = load_fake_gpu(model_folder, predictor, compile="never")
    engine.record_graphs(512)
    for pooler in (HiddenStates(), ChosenStates(0), ChosenStates(0, 5)):
        outputs, expected = (outputs_of(each, pooler, SEVERAL) for each in (engine, predictor.engine))
        for pair in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(*pair, atol=1e-4)


@pytest.mark.usefixtures("kernel")
def test_a_graph_is_held_against_the_same_filled_batch(
    model_folder: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain call of other numbers of rows may differ by a few per cent: cuBLAS chooses another order of sums."""
    engine = load_fake_gpu(model_folder, predictor, compile="never")
    call = engine._call

    def nearly(pooler: Any, encodings: Any) -> Any:
        batch, output = call(pooler, encodings)
        return batch, type(output)(**{name: states * 1.005 for name, states in output.items()})

    monkeypatch.setattr(engine, "_call", nearly)
    engine.record_graphs(512)
    assert max(key[-1].tokens for key in engine.graphs) == cuda_graphs.MAX_TOKENS_WITHOUT_TILES


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("fault", ["fails", "differs"])
def test_graphs_that_do_not_work_are_left_out(
    fault: str,
    model_folder: Path,
    predictor: Predictor,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With one line in the log, and plain calls from then on."""

    def record(run: Callable[[], Any]) -> Callable[[], Any]:
        if fault == "fails":
            raise RuntimeError("operation not permitted when stream is capturing")
        batch, output = run()  # and never again: outputs for the first input
        return lambda: (batch, output)

    monkeypatch.setattr(cuda, "recorder", lambda: record)
    engine = load_fake_gpu(model_folder, predictor, compile="never")
    engine.record_graphs(512)
    assert not engine.graphs
    assert len([line for line in caplog.messages if "not replayed as graphs" in line]) == 1
    np.testing.assert_allclose(logits_of(engine.run(SEVERAL)), logits_of(predictor.engine.run(SEVERAL)), atol=1e-4)


def test_the_first_sequences_of_a_padded_batch_are_refused() -> None:
    """Graphs have packed batches alone."""
    with pytest.raises(ValueError, match="not a packed batch"):
        cuda_graphs.first_sequences(TensorBatch.padded(random_words(3, 4), CPU, 0), (3,))
