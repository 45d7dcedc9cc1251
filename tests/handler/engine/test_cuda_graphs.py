"""Small batches as graphs, recorded by keeping the function: filled, replayed, and left out where they do not work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handler.batching import Batch
from handler.config import ServingConfig
from handler.engine import attention, cuda, cuda_graphs
from handler.engine.cuda_graphs import BUCKETS, bucket_of, filled
from handler.engine.probe import HiddenStates
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.sequences import Encoding
from tests.handler.engine.test_encoder import Chosen, states
from tests.handler.engine.test_engine import FAIRSEQ, encodings, family, logits
from tests.support.fake_gpu import SEVERAL, Ahead, made, varlen
from tests.support.samples import MODELS, LoadMain, MakeModel

pytestmark = pytest.mark.usefixtures("one_thread")  # models this small are no faster with two

CPU = torch.device("cpu")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that PyTorch has its kernel here, and that graphs can be recorded."""
    for module in (attention, cuda):
        monkeypatch.setattr(module, "has_kernel", lambda *_: True)
    monkeypatch.setattr(attention, "varlen_attn", varlen)
    monkeypatch.setattr(cuda, "recorder", lambda: lambda run: run)


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
    plain = load_predictor(family("Roberta", {**FAIRSEQ, "max_position_embeddings": 600}, make_model))
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
