"""The archive: reproducible, complete, and refused as soon as anything in it changes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from handler import archive
from handler.config import ModelConfig, ServingConfig
from handler.errors import ConfigError, GoldenMismatch, ModelMismatch, StartupError
from handler.loading import load_predictor
from handler.predictor import Predictor
from scripts.archives.build import ArchiveContents, build
from scripts.archives.model_card import read_model_index, training_sections
from scripts.archives.store import ranking_bytes
from scripts.cli.console import ScriptError
from scripts.evaluation.output import model_index
from scripts.package import main, parser, with_options
from scripts.pretrained.options import ModelRequest
from scripts.pretrained.source import open_model
from tests.support.command import run_here
from tests.support.samples import ROOT, TEXTS, ask


@pytest.fixture
def unpacked(mar: Path, tmp_path: Path) -> Path:
    """Return a fresh copy of the unpacked archive."""
    with zipfile.ZipFile(mar) as packed:
        packed.extractall(tmp_path / "unpacked")
    return tmp_path / "unpacked"


def test_the_same_input_gives_the_same_bytes(mar: Path, model_folder: Path, tmp_path: Path) -> None:
    """No time stamp, no order of a directory, no last bit of a float leaks into the archive."""
    again = build(ArchiveContents(model_folder, "tiny", "1.0", ModelConfig.read(ROOT / "model-config.yaml")), tmp_path)
    assert archive.sha256(again) == archive.sha256(mar)


def test_an_archive_holds_what_it_says(mar: Path, unpacked: Path, model_folder: Path) -> None:
    """Every file is listed with its hash, stored and not deflated; weights are the ones that were trained."""
    manifest = archive.verify(unpacked)
    with zipfile.ZipFile(mar) as packed:
        assert {entry.compress_type for entry in packed.infolist()} == {zipfile.ZIP_STORED}
        assert set(packed.namelist()) == {*manifest.files, "manifest.json", "MAR-INF/MANIFEST.json"}
        torchserve = json.loads(packed.read("MAR-INF/MANIFEST.json"))["model"]
    assert torchserve == {
        "modelName": "tiny",
        "modelVersion": "1.0",
        "handler": "bert_handler.py",
        "configFile": "model-config.yaml",
    }
    assert manifest.files["model/model.safetensors"] == archive.sha256(model_folder / "model.safetensors")
    assert (manifest.name, manifest.version, manifest.task) == ("tiny", "1.0", "text-classification")
    card = (unpacked / "model-card.md").read_text(encoding="utf-8")
    assert "# tiny 1.0" in card
    assert "2. fear" in card
    assert json.loads((unpacked / "openapi.json").read_text(encoding="utf-8"))["info"]["title"] == "tiny"


def test_the_card_tells_what_training_told() -> None:
    """Metrics and origin, from what scripts/train.py writes."""
    training = {
        "base_model": {"name": "some-bert"},
        "data": {"train": {"name": "train.csv", "rows": 820, "sha256": "ab" * 32}},
        "test": {"accuracy": 0.9647},
        "parameters": {"epochs": 8, "pair_column": None},
        "best_epoch": 7,
    }
    lines = training_sections(training)
    assert "- test: accuracy 0.9647" in lines
    assert "- from: some-bert" in lines
    assert f"- train data: train.csv, 820 rows, SHA-256 {'ab' * 32}" in lines
    assert "- epochs: 8" in lines
    assert not [line for line in lines if "pair_column" in line]


def test_the_metadata_of_the_card_are_the_hubs(mar: Path, model_folder: Path, tmp_path: Path) -> None:
    """A tool of the Hub reads task, library, base model and metrics; without training.json there is no metric."""
    metadata = metadata_of(mar)
    assert (metadata["pipeline_tag"], metadata["library_name"]) == ("text-classification", "transformers")
    assert not {"base_model", "model-index"} & metadata.keys()
    folder = tmp_path / "trained"
    shutil.copytree(model_folder, folder)
    training = {
        "base_model": {"name": "some-bert"},
        "data": {"test": {"name": "test.csv", "rows": 170, "sha256": "ab" * 32}},
        "test": {"accuracy": 0.96471},
    }
    (folder / "training.json").write_text(json.dumps(training))
    metadata = metadata_of(build(ArchiveContents(folder, "trained", "1.0", ModelConfig()), tmp_path))
    assert metadata["base_model"] == "some-bert"
    ((result,),) = [model["results"] for model in metadata["model-index"]]
    assert result["dataset"] == {"name": "test.csv", "type": "file", "split": "test", "args": {"sha256": "ab" * 32}}
    assert result["metrics"] == [{"type": "accuracy", "value": 0.9647}]


def test_the_card_has_the_metrics_of_an_evaluation(model_folder: Path, tmp_path: Path) -> None:
    """With their intervals, beside those of training; another file is refused in one line."""
    data = {"name": "held-out.csv", "sha256": "cd" * 32, "examples": 400}
    accuracy = {"title": "accuracy", "value": 0.91234, "lower": 0.88, "upper": 0.94}
    report = {
        "model": {"name": "any", "task": "text-classification"},
        "data": data,
        "metrics": {"accuracy": accuracy},
        "calibration": None,
    }
    index = tmp_path / "model-index.yaml"
    index.write_text(model_index(report))
    built = build(
        ArchiveContents(model_folder, "evaluated", "1.0", ModelConfig(), evaluated=read_model_index(index)), tmp_path
    )
    ((result,),) = [model["results"] for model in metadata_of(built)["model-index"]]
    assert result["dataset"]["args"] == {"sha256": "cd" * 32, "examples": 400}
    (metric,) = result["metrics"]
    assert (metric["type"], metric["value"]) == ("accuracy", 0.9123)
    assert metric["args"] == {"lower_95": 0.88, "upper_95": 0.94}
    for content in ("accuracy: 0.9\n", "[1, 2]\n", "model-index: []\n", "{", ""):
        index.write_text(content)
        with pytest.raises(ScriptError, match=r"no model index: give the model-index\.yaml"):
            read_model_index(index)
    with pytest.raises(ScriptError, match="No such file"):
        read_model_index(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "option", ["--calibration", "--evaluation", "--calibrate-scores", "--out-of-scope", "--evaluated"]
)
def test_a_file_that_is_not_there_is_told_before_anything_is_read(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line that names option and file."""
    words = ["package.py", "--model", "nobody/nothing", "--name", "x", option, str(tmp_path / "none.csv")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(ScriptError, match=rf"^{option} .*none\.csv: no such file$"):
        main()


def metadata_of(mar: Path) -> dict[str, Any]:
    """Return the metadata of the model card of an archive."""
    with zipfile.ZipFile(mar) as packed:
        metadata: dict[str, Any] = ModelCard(packed.read("model-card.md").decode()).data.to_dict()  # type: ignore[no-untyped-call]
    return metadata


def test_what_is_served_equals_what_was_trained(unpacked: Path, model_folder: Path) -> None:
    """The archive, which is computed without PyTorch, answers as the folder it was built from."""
    packed, trained = load_predictor(unpacked), load_predictor(model_folder)
    (packed_answer,), (trained_answer,) = (loaded.answer_items(["hello there"]) for loaded in (packed, trained))
    assert packed.task.answers_match(trained_answer, packed_answer, 1e-6)
    packed.engine = packed.engine.with_gradients()  # the model of explanations answers the same to the bit
    assert packed.answer_items(["hello there"]) == [trained_answer]
    assert packed.model_hash == archive.verify(unpacked).model_hash


def change_weights(folder: Path) -> None:
    """Change one layer and the manifest with it, as somebody would who packs by hand."""
    file = folder / "model" / "model.safetensors"
    weights = load_file(file)
    weights["classifier.weight"] = weights["classifier.weight"] * 1.5
    save_file(weights, file, metadata={"format": "pt"})
    manifest = archive.read_manifest(folder)
    archive.write_manifest(folder, manifest.name, manifest.version, manifest.task)


def add_code(folder: Path) -> None:
    """Put a module into the code that was not packed."""
    (folder / "handler" / "extra.py").write_text("", encoding="utf-8")


def flip_a_byte(folder: Path) -> None:
    """Damage one byte of the weights."""
    file = folder / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (change_weights, GoldenMismatch, "golden question 0 is answered differently"),
        (flip_a_byte, ModelMismatch, r"model/model\.safetensors is not the file that was packed"),
        (add_code, ModelMismatch, r"handler/extra\.py was not in the archive"),
        (lambda folder: (folder / "model" / "tokenizer.json").unlink(), ModelMismatch, "tokenizer.json is missing"),
        (lambda folder: (folder / "manifest.json").write_text("{"), ModelMismatch, "manifest.json cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), ModelMismatch, "format None"),
    ],
    ids=["weights", "one byte", "code", "missing file", "torn manifest", "empty manifest"],
)
def test_a_changed_archive_never_becomes_ready(
    unpacked: Path, damage: Callable[[Path], object], error: type[StartupError], message: str
) -> None:
    """Hashes find what was damaged, golden answers what was changed along with its hash."""
    damage(unpacked)
    with pytest.raises(error, match=message):
        load_predictor(unpacked)


def test_options_go_over_the_config_file() -> None:
    """What the command line says is validated like the file."""
    config = ModelConfig.read(ROOT / "model-config.yaml")
    words = "--model x --name y --workers 2 --batch-size 16 --max-batch-delay 3 --precision bf16 --top-k 3"
    options = parser().parse_args(words.split(" "))
    changed = with_options(config, options)
    assert (changed.frontend.minWorkers, changed.frontend.maxWorkers, changed.frontend.batchSize) == (2, 2, 16)
    assert (changed.handler.precision, changed.handler.top_k) == ("bf16", 3)
    assert changed.handler.max_texts == config.handler.max_texts
    with pytest.raises(ConfigError, match="precision is 'int3'"):
        with_options(config, parser().parse_args(["--model", "x", "--name", "y", "--precision", "int3"]))


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [("a b", "1.0", "--name a b"), ("a", "one", "--version one"), ("../a", "1.0", "--name")],
    ids=str,
)
def test_names_that_torchserve_cannot_take(
    model_folder: Path, tmp_path: Path, name: str, version: str, message: str
) -> None:
    """The message says what may be used."""
    with pytest.raises(ScriptError, match=message):
        build(ArchiveContents(model_folder, name, version, ModelConfig()), tmp_path)


def test_the_bound_of_an_answer_is_close(predictor: Predictor) -> None:
    """No answer with every label is larger than what doctor.py and package.py reckon with, and none much smaller."""
    labels = ["anger", "joy", "fear", "calm"]
    request = {"inputs": TEXTS[:10], "parameters": {"top_k": 4}}
    (reply,) = ask(predictor, request)
    bound = ranking_bytes(labels, max_texts=10)
    assert 0.7 * bound < len(reply.content) - len("[[],]") * 10 < bound


def test_a_note_of_answers_larger_than_the_server_sends(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the limit of config.properties; the archive is built all the same."""
    config = replace(ModelConfig(), handler=ServingConfig(max_texts=1_000_000))
    build(ArchiveContents(model_folder, "large", "1.0", config), tmp_path)
    assert "1000000 texts with all 4 labels are up to 200 MB, more than max_response_size" in capsys.readouterr().err


def test_settings_that_refuse_the_self_test(model_folder: Path, tmp_path: Path) -> None:
    """The reason of the first refusal, whichever setting it is."""
    config = replace(ModelConfig(), handler=ServingConfig(max_characters=1))
    with pytest.raises(ScriptError, match=r"answers no input of the self-test: .*characters"):
        build(ArchiveContents(model_folder, "short", "1.0", config), tmp_path)


def test_a_folder_without_safetensors_is_refused(model_folder: Path, tmp_path: Path) -> None:
    """Pickled weights are never loaded."""
    folder = tmp_path / "old"
    shutil.copytree(model_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ScriptError, match=r"no model\.safetensors"):
        build(ArchiveContents(folder, "old", "1.0", ModelConfig()), tmp_path)
    assert not list(tmp_path.glob("*.mar"))


@pytest.mark.slow
def test_the_command_line(model_folder: Path, tmp_path: Path) -> None:
    """One command from a model folder to an archive; a mistake is one line on standard error."""
    options = ["--model", str(model_folder), "--name", "cli"]
    done = run_here(main, *options, "--model-store", tmp_path, "--batch-size", "4")
    assert done.returncode == 0
    assert f"packed {tmp_path / 'cli.mar'}" in done.stderr
    with zipfile.ZipFile(tmp_path / "cli.mar") as packed:
        assert yaml.safe_load(packed.read("model-config.yaml"))["batchSize"] == 4
    command = [sys.executable, str(ROOT / "scripts" / "package.py"), *options, "--overflow", "drop"]
    wrong = subprocess.run(command, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr == "error: handler.overflow is 'drop', accepted: truncate, window, refuse\n"


def test_weights_and_modules_of_others_are_named(model_folder: Path, tmp_path: Path) -> None:
    """Folders for other runtimes, and a Router of sentence-transformers, which has no model in the folder itself."""
    folder = Path(shutil.copytree(model_folder, tmp_path / "mine"))
    (folder / "config_setfit.json").write_text('{"normalize_embeddings": false, "labels": ["a", "b"]}')
    with pytest.raises(ScriptError, match=r"SetFit in model_head\.pkl.*--task feature-extraction or sentence-sim"):
        build(ArchiveContents(folder, "mine", "1.0", ModelConfig()), tmp_path)
    (folder / "model.safetensors").unlink()
    for name, advice in {
        "onnx/model.onnx": "give the model that it was exported from",
        "model-q4.gguf": "give the model that it was quantized from",
        "tf_model.h5": "load it with from_tf=True of transformers 4",
        "flax_model.msgpack": "load it with from_flax=True",
        "model.fp16.safetensors": r"rename the variant to model\.safetensors",
        "rust_model.ot": "give the model that it was exported from",
        "saved_model.pb": "load it with TensorFlow as it was saved",
        "bert_model.ckpt.index": "load it with from_tf=True of transformers 4",
        "parts/__0_0.distcp": "merge the parts with `accelerate merge-weights`",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"weights")
        with pytest.raises(ScriptError, match=rf"no model\.safetensors; there is {name}, which is not read: {advice}"):
            build(ArchiveContents(folder, "mine", "1.0", ModelConfig()), tmp_path)
        (folder / name).unlink()
    (folder / "config.json").unlink()
    (folder / "modules.json").write_text('[{"type": "sentence_transformers.base.modules.router.Router", "path": ""}]')
    with pytest.raises(ScriptError, match=r"modules\.json lists Router, and served is a Transformer"):
        build(ArchiveContents(folder, "mine", "1.0", ModelConfig()), tmp_path)


@pytest.mark.parametrize(
    ("name", "library"), [("gliner_config.json", "GLiNER"), ("config.cfg", "spaCy"), ("best-model.pt", "flair")]
)
def test_models_of_other_libraries_are_named(name: str, library: str, tmp_path: Path) -> None:
    """Before their pickled weights are, which would not be served after a conversion either."""
    (tmp_path / name).write_bytes(b"{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    message = rf"a model of {library}, whose layers are not computed here: train"
    with pytest.raises(ScriptError, match=message), open_model(ModelRequest(str(tmp_path))):
        pass
