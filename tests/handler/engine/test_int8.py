"""int8: near fp32, a quarter of the size, batch invariant, and packed only where it keeps its accuracy."""

from __future__ import annotations

import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from handler import archive
from handler.config import ModelConfig, ServingConfig
from handler.description import describe
from handler.engine import int8_file, int8_weights
from handler.engine.int8 import LayerQuantParams
from handler.engine.int8_weights import POINTS, QuantParams
from handler.engine.precision import supported
from handler.engine.probe import HiddenStates
from handler.errors import ConfigError, GoldenMismatch, ModelMismatch
from handler.loading import load_predictor
from scripts.archives import calibration
from scripts.archives.build import ArchiveContents, build
from scripts.archives.calibration import Calibration
from scripts.archives.examples import ColumnOptions, Example, encodings_of, examples_of
from scripts.cli.console import ScriptError
from scripts.readers.formats import TABLES
from scripts.readers.tables import read
from tests.support.animals import train_animals
from tests.support.encodings import LENGTHS, ChosenStates, outputs_of, random_words
from tests.support.families import (
    FAMILIES,
    INT8_REFUSED,
    LATER_INT8_FAMILIES,
    OWN_ENCODER_FAMILIES,
    make_family,
)
from tests.support.layers import LEVELS
from tests.support.samples import MODELS, MakeModel, ask, response_json
from tests.support.training import write

CPU = torch.device("cpu")
EXAMPLE_TEXTS = [
    "Where is my parcel?",
    "The screen went black after two days.",
    "It costs 1,299.00 € (incl. VAT)",
    "no " * 40,
]

# Elsewhere int8 is refused, which test_engine.py tests on every machine; kernels that are missing fail here.
pytestmark = pytest.mark.skipif(not LEVELS, reason="no kernels for this processor: int8 is refused")


def config(precision: Any) -> ModelConfig:
    """Return settings that ask for a precision."""
    return ModelConfig(handler=ServingConfig(precision=precision))


def quantized_copy(folder: Path, target: Path) -> Path:
    """Write a model in int8 alone, calibrated on random tokens."""
    shutil.copytree(folder, target)
    (target / "model.safetensors").unlink()
    exact = load_predictor(folder)
    params = calibration.calibrate(exact, random_words(*LENGTHS))
    int8_file.write(target / int8_weights.FILE, exact.engine.model, params)
    return target


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny trained classifier, and 120 labelled sentences beside it."""
    folder = tmp_path_factory.mktemp("int8")
    train_animals(folder)
    return folder


@pytest.fixture(scope="module")
def packed(trained: Path) -> Path:
    """Return the folder of an unpacked archive in int8 alone."""
    mar = build(
        ArchiveContents(trained / "model", "animals", "1.0", config("int8"), Calibration(trained / "train.csv")),
        trained,
    )
    with zipfile.ZipFile(mar) as file:
        file.extractall(trained / "unpacked")
    return trained / "unpacked"


@pytest.mark.slow
def test_an_archive_in_int8_answers_as_well_without_other_weights(trained: Path, packed: Path) -> None:
    """The card holds the comparison; a worker loads it for int8 and auto, and refuses another precision."""
    assert sorted(file.name for file in (packed / "model").glob("*.safetensors*")) == [int8_weights.FILE]
    card = (packed / archive.CARD).read_text(encoding="utf-8")
    assert "calibrated on 60 examples, evaluated on 60 others" in card
    assert "(ratio 1.0000)" in card
    exact = load_predictor(trained / "model")
    for precision in ("int8", "auto"):
        quantized = load_predictor(packed, ServingConfig(precision=precision))
        assert describe(quantized)["precision"] == "int8"
        for text in ("my old cat purrs", "a small bird sings today"):
            expected, answer = (response_json(ask(predictor, text)[0]) for predictor in (exact, quantized))
            assert exact.task.answers_match(expected, answer, 0.05)
    with pytest.raises(ConfigError, match="has weights for int8 alone"):
        load_predictor(packed, ServingConfig(precision="fp32"))


@pytest.mark.slow
def test_explanations_of_int8_are_refused(packed: Path) -> None:
    """Integers have no gradients: the caller gets an error, and no document offers explanations."""
    predictor = load_predictor(packed, ServingConfig(precision="int8"))
    (response,) = ask(predictor, "my old cat purrs", explain=True)
    assert response.status == 404
    assert "explanations need gradients" in response_json(response)["message"]
    described = describe(predictor)
    assert described["explained"] == []
    for paths in (described["openapi"]["paths"], archive._read(packed / archive.OPENAPI)["paths"]):
        assert paths
        assert not [path for path in paths if "expla" in path]


@pytest.mark.slow
def test_a_changed_int8_archive_never_becomes_ready(packed: Path, tmp_path: Path) -> None:
    """It has golden answers of its own; a file of another format is refused as such."""
    folder = tmp_path / "changed"
    shutil.copytree(packed, folder)
    file = folder / "model" / int8_weights.FILE
    tensors = load_file(file)
    worse = {**tensors, "layers.1.down.scale": tensors["layers.1.down.scale"] * -3}
    manifest = archive.read_manifest(folder)
    for content, metadata, error, message in (
        (worse, {"format": int8_weights.FORMAT}, GoldenMismatch, "answered differently"),
        (tensors, {"format": "0"}, ModelMismatch, "another format"),
        ({"x": torch.zeros(1)}, {"format": int8_weights.FORMAT}, ModelMismatch, "does not hold this model"),
    ):
        save_file(content, file, metadata=metadata)
        archive.write_manifest(folder, manifest.name, manifest.version, manifest.task)
        with pytest.raises(error, match=message):
            load_predictor(folder, ServingConfig(precision="int8"))


@pytest.mark.slow
def test_an_archive_for_auto_holds_both(trained: Path, tmp_path: Path) -> None:
    """`auto` chooses int8 where the hardware has it; the other precisions can still be chosen."""
    mar = build(
        ArchiveContents(trained / "model", "both", "1.0", config("auto"), Calibration(trained / "train.csv")), tmp_path
    )
    with zipfile.ZipFile(mar) as file:
        file.extractall(tmp_path / "both")
    for precision in ("int8", *supported(CPU)):
        loaded = load_predictor(tmp_path / "both", ServingConfig(precision=precision))  # type: ignore[arg-type]
        assert loaded.engine.precision.name == precision
    assert load_predictor(tmp_path / "both", ServingConfig(precision="auto")).engine.precision.name == "int8"


@pytest.mark.slow
@pytest.mark.usefixtures("packed")
def test_the_same_examples_give_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    """The number of threads does not change the archive."""
    build(
        ArchiveContents(trained / "model", "animals", "1.0", config("int8"), Calibration(trained / "train.csv")),
        tmp_path,
    )
    assert archive.sha256(tmp_path / "animals.mar") == archive.sha256(trained / "animals.mar")


@pytest.mark.slow
def test_wrong_ranges_are_not_packed(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where quantization costs accuracy, the message says how much; a lower ratio may be accepted."""
    calibrate = calibration.calibrate
    too_narrow = {point: QuantParams(1e-4, 128) for point in POINTS}

    def calibrate_wrongly(*args: Any) -> list[LayerQuantParams]:
        return [layer._replace(params=too_narrow) for layer in calibrate(*args)]

    monkeypatch.setattr(calibration, "calibrate", calibrate_wrongly)
    examples = Calibration(trained / "train.csv", trained / "train.csv")
    with pytest.raises(ScriptError, match=r"of the accuracy of fp32, less than --min-accuracy-ratio 0\.99"):
        build(ArchiveContents(trained / "model", "bad", "1.0", config("int8"), examples), tmp_path)
    assert not list(tmp_path.glob("*.mar"))
    assert build(
        ArchiveContents(trained / "model", "bad", "1.0", config("int8"), replace(examples, min_accuracy_ratio=0.0)),
        tmp_path,
    )


@pytest.mark.parametrize("name", OWN_ENCODER_FAMILIES)
def test_every_family_is_near_fp32_and_batch_invariant(name: str, make_model: MakeModel, tmp_path: Path) -> None:
    """Hidden states are near those of fp32, and have the same bits alone, in a batch and in another order."""
    settings = {**FAMILIES[name], "max_position_embeddings": 300}
    folder = make_family(name, settings, make_model)
    quantized = load_predictor(quantized_copy(folder, tmp_path / "int8"), ServingConfig(precision="int8")).engine
    exact = load_predictor(folder).engine
    sequences = random_words(*LENGTHS, 130, 255)
    for pooler in (HiddenStates(), ChosenStates(0), ChosenStates(0, 5)):
        outputs = outputs_of(quantized, pooler, sequences)
        for expected, output in zip(outputs_of(exact, pooler, sequences), outputs, strict=True):
            assert np.linalg.norm(expected - output) < 0.06 * np.linalg.norm(expected)
        reversed_ = outputs_of(quantized, pooler, sequences[::-1])[::-1]
        alone = [outputs_of(quantized, pooler, [sequence])[0] for sequence in sequences]
        for output, *others in zip(outputs, reversed_, alone, strict=True):
            for other in others:
                np.testing.assert_array_equal(output, other)


@pytest.mark.parametrize("main", [main for main in MODELS if main != "tokenize"])
def test_every_task_has_int8(main: str, make_model: MakeModel, tmp_path: Path) -> None:
    """Heads, tied ones too, read the output of the int8 encoder: every operation answers its self-test inputs."""
    folder = make_model(**MODELS[main])
    quantized = load_predictor(
        quantized_copy(folder, tmp_path / "int8"),
        ServingConfig(precision="int8", task=main),
    )
    assert quantized.task.name == main
    items = quantized.task.self_test_items
    assert len(quantized.answer_items(items, quantized.task.self_test_parameters)) == len(items)
    exact = load_predictor(folder, ServingConfig(task=main))
    expected, outputs = (
        outputs_of(predictor.engine, HiddenStates(), random_words(*LENGTHS)) for predictor in (exact, quantized)
    )
    for reference, output in zip(expected, outputs, strict=True):
        assert np.linalg.norm(reference - output) < 0.15 * np.linalg.norm(reference)


def test_the_file_is_a_quarter(make_model: MakeModel, tmp_path: Path) -> None:
    """Embeddings are in int8 too; in a narrow model the scales take a little more."""
    folder = make_model(hidden_size=128, intermediate_size=512, whole_vocabulary=True)
    quantized = quantized_copy(folder, tmp_path / "int8")
    sizes = [path.stat().st_size for path in (quantized / int8_weights.FILE, folder / "model.safetensors")]
    assert sizes[0] < 0.27 * sizes[1]
    engine = load_predictor(quantized, ServingConfig(precision="int8")).engine
    floats = [value for value in (*engine.model.parameters(), *engine.model.buffers()) if value.is_floating_point()]
    assert sum(value.numel() for value in floats) < 0.05 * engine.model.config.vocab_size * 128


@pytest.mark.parametrize("name", LATER_INT8_FAMILIES)
def test_later_families_are_near_fp32_and_batch_invariant(name: str, make_model: MakeModel, tmp_path: Path) -> None:
    """A gate has no bounds, as a GELU has them below, so what it multiplies is quantized in larger steps."""
    folder = make_family(name, {**LATER_INT8_FAMILIES[name], "max_position_embeddings": 300}, make_model)
    quantized = load_predictor(quantized_copy(folder, tmp_path / "int8"), ServingConfig(precision="int8")).engine
    exact = load_predictor(folder).engine
    sequences = random_words(*LENGTHS)
    for pooler in (HiddenStates(), ChosenStates(0, 5)):
        outputs = outputs_of(quantized, pooler, sequences)
        for expected, output in zip(outputs_of(exact, pooler, sequences), outputs, strict=True):
            assert np.linalg.norm(expected - output) < 0.1 * np.linalg.norm(expected)
        for output, other in zip(outputs, outputs_of(quantized, pooler, sequences[::-1])[::-1], strict=True):
            np.testing.assert_array_equal(output, other)
        np.testing.assert_array_equal(outputs_of(quantized, pooler, sequences[1:2])[0], outputs[1])


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # DeBERTa's own module
@pytest.mark.parametrize("family", INT8_REFUSED)
def test_a_family_without_int8_is_refused(family: str, make_model: MakeModel, tmp_path: Path) -> None:
    """The message says why, and how it can be packed."""
    data = write(tmp_path / "examples.csv", [{"text": text} for text in EXAMPLE_TEXTS])
    settings, reason = INT8_REFUSED[family]
    folder = make_family(family, settings, make_model)
    message = rf"{family}ForSequenceClassification has no int8: .*{reason}.*; pack it with --precision fp32 or bf16"
    with pytest.raises(ScriptError, match=message):
        build(ArchiveContents(folder, "none", "1.0", config("int8"), Calibration(data)), tmp_path)


def test_options_that_need_each_other(model_folder: Path, tmp_path: Path) -> None:
    """int8 needs examples, and examples need int8; without weights in int8 no worker computes in it."""
    with pytest.raises(ScriptError, match="needs --calibration"):
        build(ArchiveContents(model_folder, "x", "1.0", config("int8")), tmp_path)
    with pytest.raises(ScriptError, match="--calibration is for"):
        build(ArchiveContents(model_folder, "x", "1.0", config("fp32"), Calibration(tmp_path / "none.csv")), tmp_path)
    with pytest.raises(ConfigError, match="no weights in int8"):
        load_predictor(model_folder, ServingConfig(precision="int8"))
    assert load_predictor(model_folder, ServingConfig(precision="auto")).engine.precision.name == supported(CPU)[0]


def test_examples_are_questions_of_the_task(model_folder: Path, tmp_path: Path) -> None:
    """Columns that are no answers make the item; an item that the task does not take is refused."""
    table = read(write(tmp_path / "a.jsonl", [{"text": "a", "label": "joy"}, {"text": "a", "text_pair": "b"}]), TABLES)
    examples = examples_of(table)
    assert examples == [Example("a", "joy"), Example({"text": "a", "text_pair": "b"}, None)]
    assert [len(encoding) for encoding in encodings_of(load_predictor(model_folder), examples)] == [3, 5]
    named = read(write(tmp_path / "c.csv", [{"text": "a", "mood": "joy"}, {"text": "b", "mood": "fear"}]), TABLES)
    assert examples_of(named, ColumnOptions(label="mood")) == [Example("a", "joy"), Example("b", "fear")]
    wrong = write(tmp_path / "b.csv", [{"question": "a"}, {"question": "b"}])
    with pytest.raises(ScriptError, match="is no question of text-classification"):
        build(ArchiveContents(model_folder, "x", "1.0", config("int8"), Calibration(wrong)), tmp_path)


def test_sparse_embeddings_are_compared_as_vectors(
    make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By their cosine, as dense ones: no weight stays the same number, and no answer was the same."""
    folder = make_model(architecture=transformers.BertForMaskedLM, initializer_range=0.2)
    examples = write(tmp_path / "texts.csv", [{"text": text} for text in EXAMPLE_TEXTS])
    settings = ModelConfig(handler=ServingConfig(precision="int8", task="sparse-embedding"))
    build(ArchiveContents(folder, "sparse", "1.0", settings, Calibration(examples, min_accuracy_ratio=0.9)), tmp_path)
    agreement = re.search(r"agreement with fp32: ([\d.]+)", capsys.readouterr().err)
    assert agreement
    assert 0.9 < float(agreement[1]) < 1


@pytest.mark.slow
def test_labels_that_are_not_found_are_said(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else only the agreement would be compared, and nobody knew why."""
    examples = Calibration(trained / "train.csv", columns=ColumnOptions(label="mood"))
    build(ArchiveContents(trained / "model", "animals", "1.0", config("int8"), examples), tmp_path)
    printed = capsys.readouterr().err
    assert re.search(
        r"accuracy is not compared: (\d+) of \1 examples have no label of the model in the column", printed
    )
    assert "accuracy: fp32" not in printed


def test_architectures_of_the_file(make_model: MakeModel, tmp_path: Path) -> None:
    """A file with another number of layers than the config belongs to another model."""
    quantized = quantized_copy(make_model(num_hidden_layers=2), tmp_path / "int8")
    model_config = transformers.AutoConfig.from_pretrained(quantized)
    model_config.num_hidden_layers = 3
    model_config.save_pretrained(quantized)
    with pytest.raises(ModelMismatch, match="does not hold this model"):
        load_predictor(quantized, ServingConfig(precision="int8"))
