"""int8: near fp32, a quarter of the size, the same bits in any company, and packed only where it is as right."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
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
from handler.engine import Engine, int8
from handler.engine.int8 import PLACES, Range
from handler.engine.precision import supported
from handler.engine.probe import HiddenStates
from handler.errors import ConfigError, GoldenMismatch, ModelMismatch
from handler.loading import load_predictor
from handler.sequences import Encoding
from scripts.archives import calibration
from scripts.archives.build import build
from scripts.archives.calibration import Calibration, encodings, examples_of
from scripts.cli.console import ScriptError
from scripts.readers.formats import TABLES
from scripts.readers.tables import read
from tests.handler.engine.test_encoder import LENGTHS, Chosen
from tests.handler.engine.test_engine import FAMILIES, family
from tests.handler.engine.test_engine import encodings as random_encodings
from tests.support.animals import train_animals
from tests.support.samples import MODELS, MakeModel, ask, told
from tests.support.training import write

CPU = torch.device("cpu")
SHOWN = ["Where is my parcel?", "The screen went black after two days.", "It costs 1,299.00 € (incl. VAT)", "no " * 40]

# Without VNNI or AMX oneDNN adds products up in 16 bits, which overflow: the numbers below would be wrong, and nothing
# serves them so. That int8 is refused there is held by tests/handler/engine/test_engine.py on every machine.
pytestmark = pytest.mark.skipif(not int8.supported(CPU), reason="this CPU would compute int8 wrongly, and refuses it")


def config(precision: Any) -> ModelConfig:
    """Return settings that ask for a precision."""
    return ModelConfig(handler=ServingConfig(precision=precision))


def quantised(folder: Path, target: Path, sequences: Sequence[Encoding] | None = None) -> Path:
    """Write a model in int8 alone, its ranges found on random tokens."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
    exact = load_predictor(folder)
    seen = list(sequences or random_encodings(*LENGTHS))
    int8.write(target / int8.FILE, exact.engine.model, calibration.scales(exact, seen))
    return target


def states(engine: Engine, use: HiddenStates, sequences: list[Encoding]) -> list[np.ndarray[Any, Any]]:
    """Return the hidden states of each sequence."""
    return engine.run(sequences, [use] * len(sequences))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that tells animals by what they do, and 120 labelled sentences beside it."""
    folder = tmp_path_factory.mktemp("int8")
    train_animals(folder)
    return folder


@pytest.fixture(scope="module")
def packed(trained: Path) -> Path:
    """The folder of an unpacked archive in int8 alone."""
    mar = build(trained / "model", "animals", "1.0", config("int8"), trained, Calibration(trained / "train.csv"))
    with zipfile.ZipFile(mar) as file:
        file.extractall(trained / "unpacked")
    return trained / "unpacked"


@pytest.mark.slow
def test_an_archive_in_int8_answers_as_well_without_other_weights(trained: Path, packed: Path) -> None:
    """What was compared stands in the card; a worker loads it for int8 and auto, and refuses another precision."""
    assert sorted(file.name for file in (packed / "model").glob("*.safetensors*")) == [int8.FILE]
    card = (packed / archive.CARD).read_text(encoding="utf-8")
    assert "calibrated on 60 examples, evaluated on 60 others" in card
    assert "(ratio 1.0000)" in card
    exact = load_predictor(trained / "model")
    for precision in ("int8", "auto"):
        rounded = load_predictor(packed, ServingConfig(precision=precision))
        assert describe(rounded)["precision"] == "int8"
        for text in ("my old cat purrs", "a small bird sings today"):
            one, other = (told(ask(predictor, text)[0]) for predictor in (exact, rounded))
            assert exact.task.answers_match(one, other, 0.05)
    with pytest.raises(ConfigError, match="has weights for int8 alone"):
        load_predictor(packed, ServingConfig(precision="fp32"))


@pytest.mark.slow
def test_explanations_of_int8_are_refused(packed: Path) -> None:
    """Integers have no gradients: the caller is told, and no document offers it."""
    predictor = load_predictor(packed, ServingConfig(precision="int8"))
    (reply,) = ask(predictor, "my old cat purrs", explain=True)
    assert reply.status == 404
    assert "explanations need gradients" in told(reply)["message"]
    described = describe(predictor)
    assert described["explained"] == []
    for paths in (described["openapi"]["paths"], archive._read(packed / archive.OPENAPI)["paths"]):
        assert paths
        assert not [path for path in paths if "expla" in path]


@pytest.mark.slow
def test_a_changed_int8_archive_never_becomes_ready(packed: Path, tmp_path: Path) -> None:
    """It has golden answers of its own; a file of another form is refused as such."""
    folder = tmp_path / "changed"
    shutil.copytree(packed, folder)
    file = folder / "model" / int8.FILE
    tensors = load_file(file)
    worse = {**tensors, "layers.1.down.scale": tensors["layers.1.down.scale"] * -3}
    manifest = archive.read_manifest(folder)
    for content, metadata, error, message in (
        (worse, {"format": int8.FORMAT}, GoldenMismatch, "answered differently"),
        (tensors, {"format": "0"}, ModelMismatch, "another format"),
        ({"x": torch.zeros(1)}, {"format": int8.FORMAT}, ModelMismatch, "does not hold this model"),
    ):
        save_file(content, file, metadata=metadata)
        archive.write_manifest(folder, manifest.name, manifest.version, manifest.task)
        with pytest.raises(error, match=message):
            load_predictor(folder, ServingConfig(precision="int8"))


@pytest.mark.slow
def test_an_archive_for_auto_holds_both(trained: Path, tmp_path: Path) -> None:
    """`auto` takes int8 where the hardware does it; the other precisions are there as ever."""
    mar = build(trained / "model", "both", "1.0", config("auto"), tmp_path, Calibration(trained / "train.csv"))
    with zipfile.ZipFile(mar) as file:
        file.extractall(tmp_path / "both")
    for precision in ("int8", *supported(CPU)):
        loaded = load_predictor(tmp_path / "both", ServingConfig(precision=precision))  # type: ignore[arg-type]
        assert loaded.engine.precision.name == precision
    assert load_predictor(tmp_path / "both", ServingConfig(precision="auto")).engine.precision.name == "int8"


@pytest.mark.slow
@pytest.mark.usefixtures("packed")
def test_the_same_examples_give_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    """No order of threads leaks into the archive."""
    build(trained / "model", "animals", "1.0", config("int8"), tmp_path, Calibration(trained / "train.csv"))
    assert archive.sha256(tmp_path / "animals.mar") == archive.sha256(trained / "animals.mar")


@pytest.mark.slow
def test_bad_ranges_are_not_packed(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rounding costs answers, the message says how many; a lower bar may be set."""
    right = calibration.scales
    shrunk = {place: Range(1e-4, 128) for place in PLACES}
    monkeypatch.setattr(calibration, "scales", lambda *args: [its._replace(ranges=shrunk) for its in right(*args)])
    examples = Calibration(trained / "train.csv", trained / "train.csv")
    with pytest.raises(ScriptError, match=r"of the accuracy of fp32, less than --min-accuracy-ratio 0\.99"):
        build(trained / "model", "bad", "1.0", config("int8"), tmp_path, examples)
    assert not list(tmp_path.glob("*.mar"))
    assert build(trained / "model", "bad", "1.0", config("int8"), tmp_path, replace(examples, least_ratio=0.0))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "Albert"])
def test_every_family_is_near_and_keeps_its_bits(name: str, make_model: MakeModel, tmp_path: Path) -> None:
    """Hidden states lie near those of fp32, and are the same bits alone, in a batch and in another order."""
    settings = {**FAMILIES[name], "max_position_embeddings": 300}
    folder = family(name, settings, make_model)
    rounded = load_predictor(quantised(folder, tmp_path / "int8"), ServingConfig(precision="int8")).engine
    exact = load_predictor(folder).engine
    sequences = random_encodings(*LENGTHS, 130, 255)
    for use in (HiddenStates(), Chosen(0), Chosen(0, 5)):
        together = states(rounded, use, sequences)
        for one, other in zip(states(exact, use, sequences), together, strict=True):
            assert np.linalg.norm(one - other) < 0.06 * np.linalg.norm(one)
        turned = states(rounded, use, sequences[::-1])[::-1]
        alone = [states(rounded, use, [sequence])[0] for sequence in sequences]
        for one, two, three in zip(together, turned, alone, strict=True):
            np.testing.assert_array_equal(one, two)
            np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("main", [main for main in MODELS if main != "tokenize"])
def test_every_task_has_int8(main: str, make_model: MakeModel, tmp_path: Path) -> None:
    """Heads, tied ones too, read what the integers say: every operation answers its golden questions."""
    folder = make_model(**MODELS[main])
    rounded = load_predictor(
        quantised(folder, tmp_path / "int8"),
        ServingConfig(precision="int8", task=main),
    )
    assert rounded.task.name == main
    items = rounded.task.self_test_items
    assert len(rounded.answer_items(items, rounded.task.self_test_parameters)) == len(items)
    exact = load_predictor(folder, ServingConfig(task=main))
    seen = random_encodings(*LENGTHS)
    for one, other in zip(
        states(exact.engine, HiddenStates(), seen), states(rounded.engine, HiddenStates(), seen), strict=True
    ):
        assert np.linalg.norm(one - other) < 0.15 * np.linalg.norm(one)


def test_the_file_is_a_quarter(make_model: MakeModel, tmp_path: Path) -> None:
    """Embeddings too are integers; of a narrow model the scales weigh a little more."""
    folder = make_model(hidden_size=128, intermediate_size=512)
    rounded = quantised(folder, tmp_path / "int8")
    sizes = [(place / name).stat().st_size for place, name in ((rounded, int8.FILE), (folder, "model.safetensors"))]
    assert sizes[0] < 0.27 * sizes[1]
    engine = load_predictor(rounded, ServingConfig(precision="int8")).engine
    held = [value for value in (*engine.model.parameters(), *engine.model.buffers()) if value.is_floating_point()]
    assert sum(value.numel() for value in held) < 0.05 * engine.model.config.vocab_size * 128


def test_a_family_without_int8_is_refused(make_model: MakeModel, tmp_path: Path) -> None:
    """The message says how it can be packed."""
    data = write(tmp_path / "examples.csv", [{"text": text} for text in SHOWN])
    folder = family("Albert", FAMILIES["Albert"], make_model)
    with pytest.raises(ScriptError, match=r"AlbertForSequenceClassification has no int8: pack it with"):
        build(folder, "albert", "1.0", config("int8"), tmp_path, Calibration(data))


def test_what_is_asked_together(model_folder: Path, tmp_path: Path) -> None:
    """int8 needs examples, and examples need int8; without weights in int8 no worker computes in it."""
    with pytest.raises(ScriptError, match="needs --calibration"):
        build(model_folder, "x", "1.0", config("int8"), tmp_path)
    with pytest.raises(ScriptError, match="--calibration is for"):
        build(model_folder, "x", "1.0", config("fp32"), tmp_path, Calibration(tmp_path / "none.csv"))
    with pytest.raises(ConfigError, match="no weights in int8"):
        load_predictor(model_folder, ServingConfig(precision="int8"))
    assert load_predictor(model_folder, ServingConfig(precision="auto")).engine.precision.name == supported(CPU)[0]


def test_examples_are_questions_of_the_task(model_folder: Path, tmp_path: Path) -> None:
    """Columns that are no answers make the question; one that the task does not take is refused."""
    table = read(write(tmp_path / "a.jsonl", [{"text": "a", "label": "joy"}, {"text": "a", "text_pair": "b"}]), TABLES)
    one, two = examples_of(table)
    assert (one.item, one.label) == ("a", "joy")
    assert (two.item, two.label) == ({"text": "a", "text_pair": "b"}, None)
    assert [len(its) for its in encodings(load_predictor(model_folder), [one, two])] == [3, 5]
    named = read(write(tmp_path / "c.csv", [{"text": "a", "mood": "joy"}, {"text": "b", "mood": "fear"}]), TABLES)
    assert [(one.item, one.label) for one in examples_of(named, "mood")] == [("a", "joy"), ("b", "fear")]
    wrong = write(tmp_path / "b.csv", [{"question": "a"}, {"question": "b"}])
    with pytest.raises(ScriptError, match="is no question of text-classification"):
        build(model_folder, "x", "1.0", config("int8"), tmp_path, Calibration(wrong))


def test_architectures_of_the_file(make_model: MakeModel, tmp_path: Path) -> None:
    """A file of more layers than the config names, or fewer, is another model's."""
    rounded = quantised(make_model(num_hidden_layers=2), tmp_path / "int8")
    wanted = transformers.AutoConfig.from_pretrained(rounded)
    wanted.num_hidden_layers = 3
    wanted.save_pretrained(rounded)
    with pytest.raises(ModelMismatch, match="does not hold this model"):
        load_predictor(rounded, ServingConfig(precision="int8"))
