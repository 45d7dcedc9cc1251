"""Operators between two linear layers, compiled: equal to the plain ones, or left out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from handler.engine import fusion
from handler.engine.encoder import Layer, PackedEncoder
from handler.engine.linear import LayerNorm, Linear
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
    engine = load_fake_gpu(model_folder, predictor, compile="never")  # sets the flags of products, which Dynamo guards
    ops = compile_add_norm("aot_eager", encoder.layers[0])
    assert ops is not None
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
    (message,) = (record.getMessage() for record in caplog.records if record.name == fusion.logger.name)
    assert reason in message


@pytest.mark.parametrize(("bad", "tolerance"), [(torch.nan, 9.0), (2.0, 0.5)])
def test_rows_allclose_detects_garbage(bad: float, tolerance: float) -> None:
    """One row that is far away, or NaN, is enough."""
    rows = torch.ones(4, 8)
    assert fusion.rows_allclose(rows * 1.01, rows, 0.02)
    wrong = rows.clone()
    wrong[2] *= bad
    assert not fusion.rows_allclose(wrong, rows, tolerance)


def float_layer(activation: str, dtype: torch.dtype) -> Layer:
    """Return a prepacked layer of random weights, in row-major order as on a GPU."""
    torch.manual_seed(0)
    widths = {"qkv": (32, 96), "attention_output": (32, 32), "intermediate": (32, 64), "output": (64, 32)}
    linears = {name: Linear(nn.Linear(*width)) for name, width in widths.items()}
    norms = {name: LayerNorm(nn.LayerNorm(32)) for name in ("attention_norm", "output_norm")}
    layer = Layer(linears, norms, activation)
    layer.prepack(dtype, torch.device("cpu"), order="rows")
    return layer


@pytest.mark.parametrize(
    ("activation", "dtype", "fused"),
    [
        ("gelu", torch.bfloat16, True),
        ("gelu", torch.float16, False),  # the tanh form of a GPU differs by more than its rounding
        ("gelu", torch.float32, False),
        ("relu", torch.bfloat16, False),
    ],
)
def test_gelu_is_part_of_the_product_where_rounding_hides_its_form(
    activation: str, dtype: torch.dtype, fused: bool
) -> None:
    """The layer computes what the plain one does, and its gradients; on a CPU the operator has the erf form."""
    plain = float_layer(activation, dtype)
    linear = fusion.gelu_layer(plain, dtype).linears["intermediate"]
    assert isinstance(linear, fusion.GeluLinear) == fused
    x = torch.randn(9, 32).to(dtype)
    with torch.inference_mode():
        assert fusion.rows_allclose(linear(x, activation), plain.linears["intermediate"](x, activation), 0.01)
    gradients: list[torch.Tensor] = []
    for each in (linear, plain.linears["intermediate"]):
        given = x.detach().requires_grad_(True)
        gradients += torch.autograd.grad(each(given, activation).sum(), given)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("fault", ["refused", "another form"])
def test_a_product_that_differs_stays_plain(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without the operator, or with another activation."""

    def operator(bias: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *, use_gelu: bool) -> torch.Tensor:
        if fault == "refused" or not use_gelu:
            raise RuntimeError("no kernel")
        return torch.addmm(bias, x, weight).relu()

    monkeypatch.setattr(torch, "_addmm_activation", operator)
    layer = float_layer("gelu", torch.bfloat16)
    assert fusion.gelu_layer(layer, torch.bfloat16) is layer
