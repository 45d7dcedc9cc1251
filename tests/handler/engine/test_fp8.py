"""fp8: what a GPU multiplies, multiplied on a CPU; near fp32, the same bits in any company, packed only where right."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from handler import archive
from handler.config import ModelConfig, ServingConfig
from handler.engine import attention, cuda, fp8
from handler.engine.cuda import CudaEngine
from handler.engine.encoder import ACTIVATIONS, Product
from handler.engine.fp8 import LARGEST, Eights, Fp8Encoder, Fp8Product, States, Steps
from handler.engine.precision import FP8, choose, supported
from handler.engine.probe import HiddenStates
from handler.errors import ConfigError, GoldenMismatch
from handler.loading import load_predictor
from handler.self_test import check_golden
from scripts.archives.build import build
from scripts.archives.calibration import Calibration
from scripts.archives.fp8 import round_off, tried
from scripts.cli.console import ScriptError
from tests.handler.engine.test_encoder import LENGTHS, Chosen, states
from tests.handler.engine.test_engine import FAMILIES, encodings, family
from tests.support.animals import train_animals
from tests.support.fake_gpu import Ahead, varlen
from tests.support.samples import MakeModel, ask, told
from tests.support.training import write

pytestmark = pytest.mark.usefixtures("one_thread")  # models this small are no faster with two

CPU = torch.device("cpu")
SETTINGS = ModelConfig(handler=ServingConfig(precision="fp8"))


def rows(n: int = 50, width: int = 64) -> torch.Tensor:
    """Return rows of very different sizes, one of them all zero."""
    torch.manual_seed(0)
    found = torch.randn(n, width) * torch.logspace(-6, 6, n)[:, None]
    found[n // 2] = 0
    return found


def real(eights: Eights) -> torch.Tensor:
    """Return the numbers that eight-bit rows stand for."""
    return eights.values.float() * eights.scale


def test_rounding_keeps_three_bits_behind_the_first() -> None:
    """Within a sixteenth of each number, or of the smallest ones of its row; never infinite, and zero stays."""
    x = rows()
    eights = Eights(*fp8.rounded(x))
    assert eights.values.dtype == torch.float8_e4m3fn
    assert eights.scale.shape == (50, 1)
    assert eights.values.float().abs().amax(-1)[x.any(-1)].eq(LARGEST).all()
    allowed = x.abs() / 16 + eights.scale * 2**-10
    assert ((real(eights) - x).abs() <= allowed * 1.001).all()
    assert not real(eights)[25].any()


def test_a_row_is_rounded_by_itself() -> None:
    """To the same bits alone and in any company."""
    x = rows()
    together = fp8.rounded(x)
    for index in range(len(x)):
        for one, other in zip(fp8.rounded(x[index : index + 1]), together, strict=True):
            assert torch.equal(one[0].float(), other[index].float())


def test_a_product_is_that_of_the_rounded_numbers() -> None:
    """Whichever form the states come in; with an activation what comes out is rounded again."""
    exact, product = torch.nn.Linear(64, 32), None
    torch.manual_seed(1)
    settled = Product(exact)
    settled.settle(torch.float32, reorder=False)
    product = Fp8Product(settled, Steps())
    x = torch.randn(7, 64).bfloat16()
    eights = Eights(*fp8.rounded(x))
    weight = real(Eights(*fp8.rounded(exact.weight.detach())))
    expected = real(eights) @ weight.T + exact.bias
    for form in (x, eights, States(x, eights)):
        torch.testing.assert_close(product(form).float(), expected, atol=2e-2, rtol=1e-2)
    active = product(x, "gelu")
    assert isinstance(active, Eights)
    torch.testing.assert_close(real(active), torch.nn.functional.gelu(expected), atol=3e-2, rtol=7e-2)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_an_activation_is_rounded_like_what_comes_out_of_it(activation: str) -> None:
    """However large or negative the row; nothing is cut off."""
    x = rows(width=256)
    expected = ACTIVATIONS[activation][2](x)
    found = Eights(*fp8.activated(x, activation))
    allowed = expected.abs() / 16 + found.scale * 2**-10
    assert ((real(found) - expected).abs() <= allowed * 1.001).all()


def test_the_kernel_gets_what_it_asks_for() -> None:
    """Rows in one piece, columns in one piece, widths that 16 divides, a scale in fp32 for each, the bias in bf16.

    PyTorch's own check of them, as it is for a GPU, runs on tensors that have no numbers.
    """
    settled = Product(torch.nn.Linear(64, 32))
    settled.settle(torch.float32, reorder=False)
    product = Fp8Product(settled, Steps())
    with FakeTensorMode():

        def on_gpu(its: torch.Tensor) -> torch.Tensor:
            return torch.empty_strided(its.shape, its.stride(), dtype=its.dtype, device="cuda")

        weights = [on_gpu(its) for its in (product._values, product._scale, product._bias)]
        for n in (2, 7):
            eights = Eights(on_gpu(torch.empty(n, 64, dtype=fp8.E4M3)), on_gpu(torch.empty(n, 1)))
            found = fp8.multiplied(eights, *weights)
            assert (found.shape, found.dtype, found.device.type) == ((n, 32), torch.bfloat16, "cuda")
        with pytest.raises(RuntimeError, match="mat2 must be col_major"):
            fp8.multiplied(eights, torch.empty(64, 32, dtype=fp8.E4M3, device="cuda"), *weights[1:])
    assert [its.dtype for its in fp8.rounded(rows())] == [fp8.E4M3, torch.float32]
    assert product._bias.dtype == torch.bfloat16


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "Albert"])
def test_every_family_is_near_and_keeps_its_bits(name: str, make_model: MakeModel) -> None:
    """Hidden states lie near those of fp32, whichever tokens are read, and have the same bits alone and in company."""
    folder = family(name, {**FAMILIES[name], "max_position_embeddings": 300}, make_model)
    exact, rounded = load_predictor(folder), load_predictor(folder)
    round_off(rounded)
    base = rounded.engine.model.base_model
    assert isinstance(getattr(base, "encoder", None) or base.transformer, Fp8Encoder)
    sequences = encodings(*LENGTHS, 130, 255)
    for use in (HiddenStates(), Chosen(0), Chosen(0, 5)):
        together = states(rounded.engine, use, sequences)
        for one, other in zip(states(exact.engine, use, sequences), together, strict=True):
            assert np.linalg.norm(one - other) < 0.08 * np.linalg.norm(one)
        turned = states(rounded.engine, use, sequences[::-1])[::-1]
        for one, other in zip(together, turned, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_engine_for_gpus_rounds_and_is_held_against_fp32(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its way to fp8, on the CPU, and what it says of a family that has none."""
    monkeypatch.setattr("handler.engine.precision.fp8.supported", lambda _: True)
    for module in (attention, cuda):
        monkeypatch.setattr(module, "has_kernel", lambda _, dtype: dtype == torch.bfloat16)
    monkeypatch.setattr(attention, "varlen_attn", varlen)
    folder = make_model()
    exact = load_predictor(folder)
    config = ServingConfig(precision="fp8", compile="never")
    auto_class = "AutoModelForSequenceClassification"
    engine: Any = Ahead.load(folder, auto_class, exact.task, config, CPU)
    assert isinstance(engine, CudaEngine)
    assert engine.precision is FP8
    assert not engine.differentiable
    assert isinstance(engine.model.base_model.encoder, Fp8Encoder)
    found, expected = (states(one, HiddenStates(), encodings(*LENGTHS)) for one in (engine, exact.engine))
    for one, other in zip(found, expected, strict=True):
        assert np.linalg.norm(one - other) < 0.08 * np.linalg.norm(other)
    albert = family("Albert", FAMILIES["Albert"], make_model)
    with pytest.raises(ConfigError, match="fp8, which AlbertForSequenceClassification has not: its layers are none"):
        Ahead.load(albert, auto_class, exact.task, config, CPU)
    odd = make_model(hidden_size=40)
    with pytest.raises(ConfigError, match="a width of 40 is no multiple of 16"):
        Ahead.load(odd, auto_class, exact.task, config, CPU)


def test_fp8_is_never_chosen_unasked_and_refused_where_it_is_not() -> None:
    """`auto` needs no look at the accuracy, and takes what is nearest to fp32 of the fast ones."""
    assert not fp8.supported(CPU)
    assert "fp8" not in supported(CPU)
    with pytest.raises(
        ConfigError, match=r"handler.precision is fp8, which this cpu has no instructions for; accepted"
    ):
        choose("fp8", CPU)


# --- packing --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that tells animals by what they do, and 120 labelled sentences beside it."""
    folder = tmp_path_factory.mktemp("fp8")
    train_animals(folder)
    return folder


@pytest.mark.slow
def test_an_archive_for_fp8_says_how_it_answers(trained: Path, tmp_path: Path) -> None:
    """Golden answers in fp8 beside those in fp32, a section of the card, no offer to explain; no CPU serves it."""
    mar = build(trained / "model", "animals", "1.0", SETTINGS, tmp_path, Calibration(trained / "train.csv"))
    with zipfile.ZipFile(mar) as file:
        file.extractall(tmp_path / "unpacked")
    folder = tmp_path / "unpacked"
    card = (folder / archive.CARD).read_text(encoding="utf-8")
    assert re.search(r"## fp8\n\n- evaluated on 120 examples\n- accuracy: fp32 0.9\d+, fp8 0.9\d+ \(ratio \d", card)
    assert not [path for path in json.loads((folder / archive.OPENAPI).read_text())["paths"] if "expla" in path]
    with pytest.raises(ConfigError, match="fp8, which this cpu has no instructions for"):
        load_predictor(folder, SETTINGS.handler)
    rounded, _ = tried(folder / archive.MODEL, SETTINGS.handler, Calibration(trained / "train.csv"))
    golden = archive.read_golden(folder, archive.golden_name("fp8"))
    check_golden(rounded, golden)
    rounded.engine.model.base_model.encoder.layers.pop()
    with pytest.raises(GoldenMismatch, match="answered differently"):
        check_golden(rounded, golden)
    (reply,) = ask(rounded, "my old cat purrs")
    assert told(reply)[0]["label"]


@pytest.mark.slow
def test_a_model_that_loses_its_accuracy_is_not_packed(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says how much of it is left; a family without fp8 is told as such."""
    right = fp8.rounded

    def worse(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, scale = right(x)
        return values.roll(1, -1), scale

    monkeypatch.setattr(fp8, "rounded", worse)
    with pytest.raises(ScriptError, match=r"fp8 keeps 0\.\d+ of the accuracy of fp32, less than --min-accuracy-ratio"):
        build(trained / "model", "animals", "1.0", SETTINGS, tmp_path, Calibration(trained / "train.csv"))
    assert not list(tmp_path.glob("*.mar"))


def test_what_is_asked_together(model_folder: Path, make_model: MakeModel, tmp_path: Path) -> None:
    """fp8 needs examples to be compared on, and a family whose layers are known."""
    with pytest.raises(ScriptError, match="--precision fp8 needs --calibration"):
        build(model_folder, "x", "1.0", SETTINGS, tmp_path)
    data = write(tmp_path / "examples.csv", [{"text": "one"}, {"text": "two"}])
    albert = family("Albert", FAMILIES["Albert"], make_model)
    with pytest.raises(ScriptError, match=r"AlbertForSequenceClassification has no fp8 \(its layers are none"):
        build(albert, "albert", "1.0", SETTINGS, tmp_path, Calibration(data))
