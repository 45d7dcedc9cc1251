"""Operators between two linear layers, compiled: equal to the plain ones, or left out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handler.engine import fusion
from handler.engine.encoder import PackedEncoder
from handler.engine.probe import HiddenStates
from handler.loading import load_predictor
from handler.predictor import Predictor
from tests.support.encodings import LENGTHS, ChosenStates, outputs_of, random_words
from tests.support.fake_gpu import SEVERAL, load_fake_gpu

pytestmark = pytest.mark.usefixtures("one_thread")  # models this small are no faster with two


def compile_add_norm(backend: Any, layer: Any) -> list[fusion.Op] | None:
    """Compile the operator of a layer."""
    return fusion.compile_ops([(fusion.add_norm, fusion.example_of(layer, torch.float32))], backend)


@pytest.fixture
def encoder(model_folder: Path) -> PackedEncoder:
    """Return the prepacked encoder of a small model."""
    encoder = load_predictor(model_folder).engine.model.base_model.encoder
    assert isinstance(encoder, PackedEncoder)
    return encoder


def test_fused_layers_equal_plain_ones(encoder: PackedEncoder, predictor: Predictor, model_folder: Path) -> None:
    """Whatever the number of rows, with nothing compiled after load; gradients use the plain operator."""
    ops = compile_add_norm("aot_eager", encoder.layers[0])
    assert ops is not None
    engine = load_fake_gpu(model_folder, predictor, compile="never")
    ours: Any = engine.model.base_model.encoder
    ours.layers = [fusion.fused_layer(layer, *ops) for layer in ours.layers]
    counters = torch._dynamo.utils.counters
    before = counters["stats"]["unique_graphs"]
    for sequences in (SEVERAL, [SEVERAL[0]], random_words(*LENGTHS), random_words(1), random_words(2, 2)):
        for pooler in (HiddenStates(), ChosenStates(0), ChosenStates(0, 5)):
            outputs, expected = (outputs_of(each, pooler, sequences) for each in (engine, predictor.engine))
            for pair in zip(outputs, expected, strict=True):
                np.testing.assert_allclose(*pair, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == before
    batch = engine.build_batch(predictor.task, SEVERAL)
    words = engine.model.get_input_embeddings()(batch.input_ids).requires_grad_(True)
    (gradient,) = torch.autograd.grad(engine.call(predictor.task, batch, words)["logits"].sum(), words)
    assert (gradient.abs().sum(-1) > 0).all()
    with torch.no_grad():
        engine.call(predictor.task, batch, words)
    assert counters["stats"]["unique_graphs"] == before


def no_compiler(*_: Any) -> Any:
    """Fail as PyTorch does without a C compiler."""
    raise RuntimeError("Failed to find C compiler")


def zeros(graph: Any, _: Any) -> Any:
    """Compile to something else."""
    return lambda *args: tuple(torch.zeros_like(output) for output in graph(*args))


@pytest.mark.parametrize(("backend", "reason"), [(no_compiler, "C compiler"), (zeros, "something else")])
def test_operators_that_cannot_be_compiled_stay_plain(
    backend: Any, reason: str, encoder: PackedEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    """With one line in the log that holds the reason."""
    with caplog.at_level(logging.WARNING):
        assert compile_add_norm(backend, encoder.layers[0]) is None
    torch._dynamo.reset()
    assert len(caplog.records) == 1
    assert reason in caplog.text


@pytest.mark.parametrize(("bad", "tolerance"), [(torch.nan, 9.0), (2.0, 0.5)])
def test_rows_allclose_detects_garbage(bad: float, tolerance: float) -> None:
    """One row that is far away, or NaN, is enough."""
    rows = torch.ones(4, 8)
    assert fusion.rows_allclose(rows * 1.01, rows, 0.02)
    wrong = rows.clone()
    wrong[2] *= bad
    assert not fusion.rows_allclose(wrong, rows, tolerance)
