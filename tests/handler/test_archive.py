"""Archives that start, and every wrong archive that must not, by the entry point and by TorchServe's own loader."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from ts.service import Service

from handler import archive
from handler.bert_handler import BertHandler
from handler.config import ModelConfig, ServingConfig
from handler.errors import ConfigError, GoldenMismatch, ModelMismatch, StartupError
from handler.predictor import Predictor
from handler.protocol import JSON, loads, serialize_value
from scripts.archives.build import ArchiveContents, build
from tests.support.frames import (
    DESCRIBE,
    TENSOR,
    TEXT,
    Worker,
    decoded,
    http,
    kserve,
    metrics_of,
)
from tests.support.samples import ROOT, TEXTS, ask, response_json


def unpack(packed: Path, folder: Path) -> Path:
    """Unpack an archive as TorchServe does."""
    with zipfile.ZipFile(packed) as opened:
        opened.extractall(folder)
    return folder


def link(unpacked: Path, folder: Path) -> Path:
    """Copy an unpacked archive, but take its code from where the tests import it."""
    shutil.copytree(unpacked, folder, ignore=shutil.ignore_patterns("handler"))
    (folder / "handler").symlink_to(ROOT / "handler", target_is_directory=True)
    return folder


@pytest.fixture(scope="module")
def unpacked(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder into which TorchServe unpacks an archive of ours."""
    store = tmp_path_factory.mktemp("store")
    return unpack(build(ArchiveContents(model_folder, "tiny", "1.3", ModelConfig()), store), store / "unpacked")


@pytest.fixture
def linked(unpacked: Path, tmp_path: Path) -> Path:
    """Return a copy of the unpacked archive whose code is the code under test, as if it were imported from there."""
    return link(unpacked, tmp_path / "linked")


@pytest.fixture(autouse=True)
def process_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what a worker does to its process: threads, their environment, the handler's logger.

    One thread is enough for a model this small, and keeps a busy machine from waiting for the other.
    """
    monkeypatch.setenv("RAYON_NUM_THREADS", os.environ.get("RAYON_NUM_THREADS", "1"))
    threads, logger = torch.get_num_threads(), logging.getLogger("handler")
    level, handlers = logger.level, list(logger.handlers)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    logger.setLevel(level)
    logger.handlers[:] = handlers


def start(folder: Path) -> Worker:
    """Initialise the handler as TorchServe's loader does: manifest and model-config.yaml are read by TorchServe."""
    metrics = metrics_of(ROOT / "metrics.yaml")
    manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text(encoding="utf-8"))
    bert_handler = BertHandler()
    context = Service("tiny", str(folder), manifest, bert_handler.handle, None, 8, True, metrics).context
    bert_handler.initialize(context)
    return Worker(bert_handler, metrics)


def repack(folder: Path) -> None:
    """Write the manifest anew, as if the files had been packed as they now are."""
    archive.write_manifest(folder, "tiny", "1.3", "text-classification")


def test_an_archive_starts_and_answers(linked: Path, predictor: Predictor) -> None:
    """Name, version and hash are the archive's; the answers are the model's."""
    worker = start(linked)
    answered, v2 = worker(http(TEXT), kserve({"inputs": [TENSOR]}))
    assert predictor.task.answers_match(answered.value, response_json(ask(predictor, TEXT)[0]), 1e-5)
    assert answered.headers["x-model-hash"] == archive.read_manifest(linked).model_hash[:16]
    assert (v2.value["model_name"], v2.value["model_version"]) == ("tiny", "1.3")
    (described,) = worker(DESCRIBE)
    assert (described.value["name"], described.value["version"]) == ("tiny", "1.3")
    assert described.value["model_hash"].startswith(answered.headers["x-model-hash"])


def edit(path: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Return a change of one file of an archive."""

    def edited(folder: Path) -> None:
        (folder / path).write_bytes(change((folder / path).read_bytes()))

    return edited


def edit_json(path: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Return a change of one JSON file of an archive."""
    return edit(path, lambda content: serialize_value(change(loads(content.decode()))))


def add(path: str) -> Callable[[Path], None]:
    """Return the addition of a file."""

    def added(folder: Path) -> None:
        (folder / path).write_bytes(b"x = 1\n")

    return added


def remove(path: str) -> Callable[[Path], None]:
    """Return the removal of a file."""
    return lambda folder: (folder / path).unlink()


def scale_weights(folder: Path) -> None:
    """Put other weights of the same shape into an archive."""
    path = folder / "model" / "model.safetensors"
    save_file({name: weight * 1.5 for name, weight in load_file(path).items()}, path, {"format": "pt"})


def drop_head(folder: Path) -> None:
    """Take the weights of the head out of an archive."""
    path = folder / "model" / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if not k.startswith("classifier")}, path, {"format": "pt"})


def then_repack(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """Return a change whose manifest fits it: a mistake made before packing."""

    def changed(folder: Path) -> None:
        change(folder)
        repack(folder)

    return changed


def other_answers(golden: JSON) -> JSON:
    """Exchange the labels of the first golden answer."""
    first = golden["answers"][0]
    scores = [item["score"] for item in first][::-1]
    golden["answers"][0] = [{**item, "score": score} for item, score in zip(first, scores, strict=True)]
    return golden


SETTINGS = "model-config.yaml"
WEIGHTS = "model/model.safetensors"
WRONG: dict[str, tuple[Callable[[Path], None], type[StartupError], str]] = {
    "weights missing": (remove(WEIGHTS), ModelMismatch, "model.safetensors is missing"),
    "tokenizer missing": (remove("model/tokenizer.json"), ModelMismatch, "tokenizer.json is missing"),
    "golden answers missing": (remove("golden.json"), ModelMismatch, "golden.json is missing"),
    "code missing": (remove("bert_handler.py"), ModelMismatch, "bert_handler.py is missing"),
    "manifest missing": (remove("manifest.json"), ModelMismatch, "manifest.json|config.json"),
    "weights changed": (edit(WEIGHTS, lambda old: old[:-1] + bytes([old[-1] ^ 1])), ModelMismatch, "SHA-256 differs"),
    "weights cut": (edit(WEIGHTS, lambda old: old[: len(old) // 2]), ModelMismatch, "SHA-256 differs"),
    "labels changed": (edit("model/config.json", lambda old: old.replace(b"joy", b"JOY")), ModelMismatch, "SHA-256"),
    "code changed": (edit("bert_handler.py", lambda old: old + b"\n"), ModelMismatch, "bert_handler.py is not"),
    "golden answers changed": (edit_json("golden.json", other_answers), ModelMismatch, "golden.json is not"),
    "settings changed": (
        edit(SETTINGS, lambda old: old + b"minWorkers: 1\n"),
        ModelMismatch,
        "model-config.yaml is not",
    ),
    "weights added": (add("model/pytorch_model.bin"), ModelMismatch, "pytorch_model.bin was not in the archive"),
    "code added at the root, from where the entry file is imported": (
        add("yaml.py"),
        ModelMismatch,
        "yaml.py was not in the archive",
    ),
    "compiled code added at the root": (add("yaml.pyc"), ModelMismatch, "yaml.pyc was not in the archive"),
    "manifest that names a file outside": (
        edit_json("manifest.json", lambda old: {**old, "files": {**old["files"], "../../etc/passwd": "0"}}),
        ModelMismatch,
        "names '../../etc/passwd', which is not in the archive",
    ),
    "manifest that fills the memory": (
        lambda folder: os.truncate(folder / "manifest.json", archive.MAX_TEXT_BYTES + 1),
        ModelMismatch,
        "manifest.json has more than 64 MB",
    ),
    "manifest is no JSON": (edit("manifest.json", lambda old: old[:-5]), ModelMismatch, "manifest.json cannot be read"),
    "manifest is empty": (edit("manifest.json", lambda _: b""), ModelMismatch, "manifest.json cannot be read"),
    "manifest is a list": (edit("manifest.json", lambda _: b"[]"), ModelMismatch, "does not hold an object"),
    "manifest of another format": (
        edit_json("manifest.json", lambda old: {**old, "format": 99}),
        ModelMismatch,
        "has format 99",
    ),
    "manifest without files": (
        edit_json("manifest.json", lambda old: {k: v for k, v in old.items() if k != "files"}),
        ModelMismatch,
        "lacks",
    ),
    "manifest with a list of files": (
        edit_json("manifest.json", lambda old: {**old, "files": list(old["files"])}),
        ModelMismatch,
        "manifest.json",
    ),
    "other answers when packed": (
        then_repack(edit_json("golden.json", other_answers)),
        GoldenMismatch,
        "golden question 0 is answered differently",
    ),
    "other weights when packed": (then_repack(scale_weights), GoldenMismatch, "answered differently"),
    "fewer answers than questions": (
        then_repack(edit_json("golden.json", lambda old: {**old, "answers": old["answers"][:2]})),
        StartupError,
        "golden",
    ),
    "golden answers that are no rankings": (
        then_repack(edit_json("golden.json", lambda old: {**old, "answers": [7] * 5})),
        StartupError,
        "golden",
    ),
    "golden questions that nobody can answer": (
        then_repack(edit_json("golden.json", lambda old: {**old, "items": [None] * 5})),
        StartupError,
        "golden",
    ),
    "golden answers without questions": (
        then_repack(edit_json("golden.json", lambda old: {"answers": old["answers"]})),
        ModelMismatch,
        "golden.json lacks",
    ),
    "no head when packed": (
        then_repack(drop_head),
        ModelMismatch,
        "the weights are those of an encoder without that head: choose feature-extraction",
    ),
    "cut weights when packed": (
        then_repack(edit(WEIGHTS, lambda old: old[:1000])),
        ModelMismatch,
        "model.safetensors is damaged, or was not copied to its end",
    ),
    "no weights when packed": (
        then_repack(remove(WEIGHTS)),
        ModelMismatch,
        "weights cannot be loaded",
    ),
    "broken config when packed": (then_repack(edit("model/config.json", lambda _: b"{")), ModelMismatch, "config.json"),
    "unknown family when packed": (
        then_repack(edit("model/config.json", lambda old: old.replace(b'"bert"', b'"birt"'))),
        ModelMismatch,
        "config.json",
    ),
    "broken tokenizer when packed": (
        then_repack(edit("model/tokenizer.json", lambda old: old[:1000])),
        ModelMismatch,
        "tokenizer",
    ),
    "unknown setting of the handler": (
        edit(SETTINGS, lambda old: old.replace(b"max_texts", b"max_text")),
        ConfigError,
        "did you mean handler.max_texts",
    ),
    "unknown setting of TorchServe": (
        edit(SETTINGS, lambda old: old + b"batchsize: 4\n"),
        ConfigError,
        "did you mean batchSize",
    ),
    "setting of a wrong type": (
        edit(SETTINGS, lambda old: old.replace(b"max_texts: 1000", b"max_texts: many")),
        ConfigError,
        "handler.max_texts",
    ),
    "setting out of range": (
        edit(SETTINGS, lambda old: old.replace(b"max_texts: 1000", b"max_texts: 0")),
        ConfigError,
        "handler.max_texts is 0",
    ),
    "more tokens than the model reads": (
        then_repack(edit(SETTINGS, lambda old: old + b"  max_length: 513\n")),
        ConfigError,
        "reads 5 to 512 tokens",
    ),
    "precision that the hardware lacks": (
        then_repack(edit(SETTINGS, lambda old: old.replace(b"precision: fp32", b"precision: fp16"))),
        ConfigError,
        "fp16",
    ),
}


@pytest.mark.parametrize(("change", "error", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_archive_never_becomes_ready(
    linked: Path, change: Callable[[Path], None], error: type[StartupError], message: str
) -> None:
    """The error that TorchServe reports, a RuntimeError, and says what is wrong."""
    assert issubclass(error, RuntimeError)
    change(linked)
    with pytest.raises(error, match=message):
        start(linked)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_texts": 1},
        {"max_characters": 20},
        {"max_length": 8},
        {"max_length": 8, "overflow": "refuse"},
        {"max_batch_tokens": 1, "top_k": 1, "threads": 1},
    ],
    ids=str,
)
def test_an_archive_with_any_limits_can_be_built_and_starts(
    model_folder: Path, tmp_path: Path, limits: dict[str, Any]
) -> None:
    """An operator's limits are for clients; they must not keep package.py or a worker from checking the model."""
    config = ModelConfig(handler=ServingConfig(**limits))
    folder = unpack(build(ArchiveContents(model_folder, "tiny", "1.3", config), tmp_path), tmp_path / "unpacked")
    (answered,) = start(link(folder, tmp_path / "linked"))(http("no"))
    assert answered.status == 200


def test_code_from_elsewhere_is_refused(unpacked: Path) -> None:
    """PYTHONPATH comes before the archive: a worker with the wrong code must say so and not serve."""
    with pytest.raises(ConfigError, match=r"the code in use lies in .*start TorchServe without PYTHONPATH"):
        start(unpacked)


LOADER = """
import base64, json, sys
from pathlib import Path
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.model_loader import ModelLoaderFactory

folder, metrics_file = sys.argv[1:]
entry = json.loads(Path(folder, "MAR-INF", "MANIFEST.json").read_text())["model"]["handler"]
cache = MetricsCacheYamlImpl(config_file_path=metrics_file)
cache.initialize_cache()
cache.model_name = "tiny"
service = ModelLoaderFactory.get_model_loader().load("tiny", folder, entry, None, 8, None, True, cache)
service.set_cl_socket(None)
batch = [
    {
        "requestId": f"request-{index}".encode(),
        "headers": [{"name": name.encode(), "value": value.encode()} for name, value in headers.items()],
        "parameters": [{"name": "body", "contentType": "", "value": bytearray(base64.b64decode(body))}],
    }
    for index, (body, headers) in enumerate(json.loads(sys.stdin.read()))
]
print("MESSAGE " + base64.b64encode(service.predict(batch)).decode())
import handler
print("CODE " + handler.__file__)
"""


@pytest.mark.slow
def test_torchserves_own_loader_serves_the_archive(unpacked: Path, predictor: Predictor) -> None:
    """In a process of its own, with the unpacked folder as PYTHONPATH and working directory, as TorchServe does."""
    rows = [http(text) for text in TEXTS] + [http(b"\xff Xyzzymark"), kserve({"inputs": [TENSOR]})]
    batch = [[b64encode(sent.fields[0][2]).decode(), sent.headers] for sent in rows]
    done = subprocess.run(
        [sys.executable, "-c", LOADER, str(unpacked), str(ROOT / "metrics.yaml")],
        input=json.dumps(batch),
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        cwd=unpacked,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("MESSAGE ", "CODE ")))
    assert Path(lines["CODE"]) == unpacked / "handler" / "__init__.py"
    *answers, refused, v2 = decoded(b64decode(lines["MESSAGE"]))
    assert (refused.status, v2.status, v2.value["model_version"]) == (400, 200, "1.3")
    for text, answered in zip(TEXTS, answers, strict=True):
        assert predictor.task.answers_match(answered.value, response_json(ask(predictor, text)[0]), 1e-5)
    printed = done.stdout.replace(lines["MESSAGE"], "") + done.stderr
    assert not [text for text in (*TEXTS[3:6], "Xyzzymark") if text in printed]
