"""Steps between two products, fused: what the plain ones say, or the plain ones."""

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
from tests.handler.engine.test_encoder import LENGTHS, Chosen, states
from tests.handler.engine.test_engine import encodings
from tests.support.fake_gpu import SEVERAL, made

pytestmark = pytest.mark.usefixtures("one_thread")  # models this small are no faster with two


def fused(backend: str, layer: Any) -> list[fusion.Step] | None:
    """Fuse the step of a layer."""
    return fusion.fused([(fusion.normed, fusion.example_of(layer, torch.float32))], backend)


@pytest.fixture
def encoder(model_folder: Path) -> PackedEncoder:
    """Return the settled encoder of a small model."""
    found = load_predictor(model_folder).engine.model.base_model.encoder
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
    batch = engine.build_batch(predictor.task, SEVERAL)
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
