"""fp8: a GPU's numbers on a CPU; near fp32, batch invariant, packed only where it keeps its accuracy."""

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
from transformers import AutoModelForSequenceClassification

from handler import archive
from handler.config import ModelConfig, ServingConfig
from handler.engine import attention, cuda, fp8
from handler.engine.cuda import CudaEngine
from handler.engine.families import encoder_of
from handler.engine.fp8 import Fp8Encoder, Fp8Linear, Fp8States, FusedOps
from handler.engine.fp8_scales import E4M3, E4M3_MAX, NormalizedRows, embedding_rows, scales_of
from handler.engine.linear import LayerNorm, Linear
from handler.engine.precision import FP8, choose, supported
from handler.engine.probe import HiddenStates
from handler.errors import ConfigError, GoldenMismatch, ModelMismatch
from handler.loading import load_predictor
from handler.self_test import check_golden
from scripts.archives.build import ArchiveContents, build
from scripts.archives.calibration import Calibration
from scripts.archives.fp8 import evaluate, quantize
from scripts.cli.console import ScriptError
from tests.support.animals import train_animals
from tests.support.encodings import LENGTHS, ChosenStates, outputs_of, random_words
from tests.support.fake_gpu import FakeGpuEngine, fake_varlen_attn, load_fake_gpu
from tests.support.families import FAMILIES, OWN_ENCODER_FAMILIES, make_family
from tests.support.samples import MakeModel, ask, response_json
from tests.support.training import write

pytestmark = pytest.mark.usefixtures("one_thread")  # models this small are no faster with two

CPU = torch.device("cpu")
SETTINGS = ModelConfig(handler=ServingConfig(precision="fp8"))


def numbers(n: int = 50, width: int = 64) -> torch.Tensor:
    """Return rows of very different sizes, some of them zero."""
    torch.manual_seed(0)
    x = torch.randn(n, width) * torch.logspace(-3, 3, n)[:, None]
    x[n // 2] = 0
    return x


def test_quantization_keeps_three_bits_of_the_mantissa() -> None:
    """Within a sixteenth of each number, or of the smallest ones; never infinite, and zero stays."""
    x, scale = numbers(), torch.tensor(1.0)
    values = fp8.quantize(x, scale)
    assert values.dtype == torch.float8_e4m3fn
    inside = x.abs() <= E4M3_MAX
    assert ((values.float() - x).abs() <= x.abs() / 16 + 2**-10)[inside].all()
    assert values.float()[~inside].abs().eq(E4M3_MAX).all()
    assert not inside.all()
    assert not values.float()[25].any()
    assert torch.equal(fp8.quantize(x * 8, scale * 8).float(), values.float())


@pytest.mark.parametrize("projected", [False, True])
def test_no_normalized_row_exceeds_its_bound(projected: bool) -> None:
    """The worst row touches it: the bound is the smallest that holds for every row."""
    torch.manual_seed(2)
    width, out = 64, 32
    norm = torch.nn.LayerNorm(width)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    linear = torch.nn.Linear(width, out)
    rows = NormalizedRows.of(LayerNorm(norm))
    if projected:
        rows = rows.multiplied(linear.weight, linear.bias)
    matrix = torch.diag(rows.matrix) if rows.matrix.dim() == 1 else rows.matrix
    worst = matrix.sign() if not projected else matrix
    normalized = torch.cat([torch.nn.functional.layer_norm(torch.randn(500, width), (width,)), worst, -worst])
    normalized = normalized / normalized.norm(dim=1, keepdim=True) * width**0.5
    returned = normalized @ matrix.T + rows.offset
    assert returned.abs().max() <= rows.bound() * 1.00001
    assert returned.abs().max() >= rows.bound() * 0.99


def test_activations_stay_within_the_scales_of_their_layer(make_model: MakeModel) -> None:
    """Of every layer and point, for outliers as well: nothing is clipped."""
    predictor = load_predictor(make_model(initializer_range=0.5))
    encoder: Any = encoder_of(predictor.engine.model.base_model)
    rows = embedding_rows(predictor.engine.model.base_model)
    assert rows is not None
    scales = []
    for layer in encoder.layers:
        scales.append(scales_of(layer, rows)._asdict())
        rows = NormalizedRows.of(layer.norms["output_norm"])
    seen: list[float] = []

    def observe(index: int, point: str, x: torch.Tensor) -> None:
        bound = float(scales[index][point]) * E4M3_MAX
        assert float(x.abs().max()) <= bound
        seen.append(float(x.abs().max()) / bound)

    with encoder.observed_by(observe):
        predictor.engine.run(random_words(*LENGTHS))
    assert len(seen) == 4 * len(encoder.layers)
    assert max(seen) > 0.05


@pytest.mark.parametrize("norm", ["embeddings.LayerNorm", "attention.output.LayerNorm", "0.output.LayerNorm"])
def test_a_norm_that_returns_only_zeros_makes_no_nan(norm: str, make_model: MakeModel) -> None:
    """Wherever it is: the largest number of what a layer reads is then 0."""
    folder = make_model()
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    changed = [parameter for name, parameter in model.named_parameters() if f"{norm}." in name]
    assert changed
    for parameter in changed:
        torch.nn.init.zeros_(parameter)
    model.save_pretrained(folder)
    exact, quantized = load_predictor(folder), load_predictor(folder)
    quantize(quantized)
    sequences = random_words(3, 20, 7)
    outputs, expected = (outputs_of(each.engine, HiddenStates(), sequences) for each in (quantized, exact))
    for output, reference in zip(outputs, expected, strict=True):
        assert np.linalg.norm(output - reference) <= 0.1 * np.linalg.norm(reference)


def test_a_linear_layer_multiplies_the_quantized_numbers() -> None:
    """Whichever form the states have; with an activation the output is quantized again."""
    exact = torch.nn.Linear(64, 32)
    torch.manual_seed(1)
    linear = Linear(exact)
    linear.prepack(torch.float32, order="rows")
    scale = torch.tensor(0.02)
    fp8_linear = Fp8Linear(linear, FusedOps(), scale, scale)
    x = torch.randn(7, 64).bfloat16()
    values = fp8.quantize(x, scale)
    largest = exact.weight.detach().abs().max() / E4M3_MAX
    weight = fp8.quantize(exact.weight.detach(), largest).float() * largest
    expected = values.float() * scale @ weight.T + exact.bias
    for form in (x, values, Fp8States(x, values)):
        torch.testing.assert_close(fp8_linear(form).float(), expected, atol=2e-2, rtol=1e-2)
    activated = fp8_linear(x, "gelu")
    assert activated.dtype == E4M3
    gelu = torch.nn.functional.gelu(expected)
    torch.testing.assert_close(activated.float() * scale, gelu, atol=3e-2, rtol=7e-2)


def test_the_kernel_gets_the_layout_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contiguous rows and columns, widths that 16 divides, scales in fp32, the bias in bf16.

    PyTorch's own check for a GPU runs on fake tensors.
    """
    with FakeTensorMode():

        def on_gpu(x: torch.Tensor) -> torch.Tensor:
            return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda")

        linear = Fp8Linear.of(torch.ones(32, 64), torch.tensor(0.1))
        for name in ("values", "bias", "scale"):
            setattr(linear, name, on_gpu(getattr(linear, name)))
        monkeypatch.setattr(fp8, "ones", lambda n, _: on_gpu(torch.ones(n, 1)))
        for n in (2, 7):
            product = fp8.scaled_matmul(on_gpu(torch.empty(n, 64, dtype=E4M3)), linear)
            assert (product.shape, product.dtype, product.device.type) == ((n, 32), torch.bfloat16, "cuda")
        assert linear.bias.dtype == torch.bfloat16
        linear.values = on_gpu(torch.empty(64, 32, dtype=E4M3)).t()
        with pytest.raises(RuntimeError, match="mat2 must be col_major"):
            fp8.scaled_matmul(on_gpu(torch.empty(7, 64, dtype=E4M3)), linear)


@pytest.mark.parametrize("name", OWN_ENCODER_FAMILIES)
def test_every_family_is_near_fp32_and_batch_invariant(name: str, make_model: MakeModel) -> None:
    """Hidden states are near those of fp32, whichever tokens are read, and have the same bits in any order."""
    folder = make_family(name, {**FAMILIES[name], "max_position_embeddings": 300}, make_model)
    exact, quantized = load_predictor(folder), load_predictor(folder)
    quantize(quantized)
    assert isinstance(encoder_of(quantized.engine.model.base_model), Fp8Encoder)
    sequences = random_words(*LENGTHS, 130, 255)
    for pooler in (HiddenStates(), ChosenStates(0), ChosenStates(0, 5)):
        outputs = outputs_of(quantized.engine, pooler, sequences)
        for expected, output in zip(outputs_of(exact.engine, pooler, sequences), outputs, strict=True):
            assert np.linalg.norm(expected - output) < 0.08 * np.linalg.norm(expected)
        reversed_ = outputs_of(quantized.engine, pooler, sequences[::-1])[::-1]
        for pair in zip(outputs, reversed_, strict=True):
            np.testing.assert_array_equal(*pair)


def test_the_engine_for_gpus_quantizes_and_is_compared_with_fp32(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its conversion to fp8, on the CPU, and the error for a family without fp8."""
    monkeypatch.setattr("handler.engine.fp8.supported", lambda _: True)
    for module in (attention, cuda):
        monkeypatch.setattr(module, "has_kernel", lambda _, dtype: dtype == torch.bfloat16)
    monkeypatch.setattr(attention, "varlen_attn", fake_varlen_attn)
    folder = make_model()
    exact = load_predictor(folder)
    config = ServingConfig(precision="fp8", compile="never")
    auto_class = "AutoModelForSequenceClassification"
    engine: Any = FakeGpuEngine.load(folder, auto_class, exact.task, config, CPU)
    assert isinstance(engine, CudaEngine)
    assert engine.precision is FP8
    assert engine.gradient_problem
    assert isinstance(engine.model.base_model.encoder, Fp8Encoder)
    outputs, references = (outputs_of(each, HiddenStates(), random_words(*LENGTHS)) for each in (engine, exact.engine))
    for output, reference in zip(outputs, references, strict=True):
        assert np.linalg.norm(output - reference) < 0.08 * np.linalg.norm(reference)
    albert = make_family("Albert", FAMILIES["Albert"], make_model)
    with pytest.raises(ConfigError, match="fp8, which AlbertForSequenceClassification has not: its layers have more"):
        FakeGpuEngine.load(albert, auto_class, exact.task, config, CPU)
    narrow = make_model(hidden_size=40)
    with pytest.raises(ConfigError, match="a width of 40 is no multiple of 16"):
        FakeGpuEngine.load(narrow, auto_class, exact.task, config, CPU)


def test_a_layer_whose_products_are_wrong_is_refused(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forgotten bias, which the comparison of all layers with fp32 is too loose to see."""
    monkeypatch.setattr("handler.engine.fp8.supported", lambda _: True)
    for module in (attention, cuda):
        monkeypatch.setattr(module, "has_kernel", lambda _, dtype: dtype == torch.bfloat16)
    monkeypatch.setattr(attention, "varlen_attn", fake_varlen_attn)
    folder = make_model()
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    for name, parameter in model.named_parameters():
        if name.endswith("intermediate.dense.bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    exact = load_predictor(folder)
    correct = fp8.matmul_in_fp32

    def without_bias(values: torch.Tensor, linear: Fp8Linear) -> torch.Tensor:
        return correct(values, linear) - linear.bias

    monkeypatch.setattr(fp8, "scaled_matmul", without_bias)
    with pytest.raises(ModelMismatch, match="products of a layer in fp8 are not those of the same numbers"):
        load_fake_gpu(folder, exact, precision="fp8", compile="never")


@pytest.mark.parametrize("fault", ["refused", "wrong"])
def test_hardware_that_cannot_multiply_has_no_fp8(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says which product, and why."""
    assert all(fp8._multiplies(CPU, *shape) for shape in fp8.PROBE_SHAPES)

    def product(*_: object) -> torch.Tensor:
        if fault == "refused":
            raise RuntimeError("cuBLAS has no kernel")
        return torch.zeros(1, dtype=torch.bfloat16)

    monkeypatch.setattr(fp8, "scaled_matmul", product)
    assert not fp8._multiplies(CPU, 32, 128)
    reason = "cuBLAS has no kernel" if fault == "refused" else "the product is wrong"
    messages = [record.getMessage() for record in caplog.records if record.name == fp8.logger.name]
    assert messages == [f"no fp8: 32 rows of width 128 cannot be multiplied: {reason}"]


def test_golden_answers_in_fp8_are_held_by_their_mean(model_folder: Path) -> None:
    """Any answer may differ by what another order of sums does to one; all of them may not."""
    predictor = load_predictor(model_folder)
    items, parameters = predictor.task.self_test_items, predictor.task.self_test_parameters
    answers = predictor.answer_items(items, parameters)

    def moved(answer: Any, by: float) -> Any:
        best, second, *rest = answer
        return [{**best, "score": best["score"] - by}, {**second, "score": second["score"] + by}, *rest]

    predictor.engine.precision = FP8
    check_golden(predictor, archive.Golden(list(items), parameters, [moved(answers[0], 0.2), *answers[1:]]))
    with pytest.raises(GoldenMismatch, match="answered differently"):
        check_golden(predictor, archive.Golden(list(items), parameters, [moved(answers[0], 0.4), *answers[1:]]))
    with pytest.raises(GoldenMismatch, match=r"mean error 0\.1\d+ in fp8, tolerance 0.08"):
        check_golden(predictor, archive.Golden(list(items), parameters, [moved(answer, 0.1) for answer in answers]))


def test_fp8_is_never_chosen_by_auto_and_refused_without_hardware() -> None:
    """`auto` chooses no precision whose accuracy must be measured."""
    assert not fp8.supported(CPU)
    assert "fp8" not in supported(CPU)
    with pytest.raises(
        ConfigError, match=r"handler.precision is fp8, which this cpu has no instructions for; accepted"
    ):
        choose("fp8", CPU)


# --- packing --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny trained classifier, and 120 labelled sentences beside it."""
    folder = tmp_path_factory.mktemp("fp8")
    train_animals(folder)
    return folder


@pytest.mark.slow
def test_an_archive_for_fp8_reports_its_accuracy(trained: Path, tmp_path: Path) -> None:
    """Golden answers in fp8 beside those in fp32, a section of the card, no offer to explain; no CPU serves it."""
    mar = build(
        ArchiveContents(trained / "model", "animals", "1.0", SETTINGS, Calibration(trained / "train.csv")), tmp_path
    )
    with zipfile.ZipFile(mar) as file:
        file.extractall(tmp_path / "unpacked")
    folder = tmp_path / "unpacked"
    card = (folder / archive.CARD).read_text(encoding="utf-8")
    assert re.search(
        r"## fp8\n\n- evaluated on 120 examples\n- accuracy: fp32 1.0000, fp8 (1.0000|0.9\d+) \(ratio \d", card
    )
    assert not [path for path in json.loads((folder / archive.OPENAPI).read_text())["paths"] if "expla" in path]
    with pytest.raises(ConfigError, match="fp8, which this cpu has no instructions for"):
        load_predictor(folder, SETTINGS.handler)
    quantized, _ = evaluate(folder / archive.MODEL, SETTINGS.handler, Calibration(trained / "train.csv"))
    golden = archive.read_golden(folder, archive.golden_name("fp8"))
    check_golden(quantized, golden)
    quantized.engine.model.base_model.encoder.layers.pop()
    with pytest.raises(GoldenMismatch, match="answered differently"):
        check_golden(quantized, golden)
    (response,) = ask(quantized, "my old cat purrs")
    assert response_json(response)[0]["label"]


@pytest.mark.slow
def test_a_model_that_loses_its_accuracy_is_not_packed(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says how much of it is left."""
    correct = fp8.quantize

    def worse(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return correct(x, scale).roll(1, -1)

    monkeypatch.setattr(fp8, "quantize", worse)
    with pytest.raises(ScriptError, match=r"fp8 keeps 0\.\d+ of the accuracy of fp32, less than --min-accuracy-ratio"):
        build(
            ArchiveContents(trained / "model", "animals", "1.0", SETTINGS, Calibration(trained / "train.csv")), tmp_path
        )
    assert not list(tmp_path.glob("*.mar"))


def test_options_that_need_each_other(model_folder: Path, make_model: MakeModel, tmp_path: Path) -> None:
    """fp8 needs examples to be compared on, and a family whose layers are known."""
    with pytest.raises(ScriptError, match="--precision fp8 needs --calibration"):
        build(ArchiveContents(model_folder, "x", "1.0", SETTINGS), tmp_path)
    data = write(tmp_path / "examples.csv", [{"text": "one"}, {"text": "two"}])
    albert = make_family("Albert", FAMILIES["Albert"], make_model)
    with pytest.raises(ScriptError, match=r"AlbertForSequenceClassification has no fp8 \(its layers have more"):
        build(ArchiveContents(albert, "albert", "1.0", SETTINGS, Calibration(data)), tmp_path)
