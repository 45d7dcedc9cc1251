"""Processes that cannot find PyTorch: what serves and what is refused, each with what to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
import transformers

from handler.config import ModelConfig, ServingConfig
from handler.engine import kernels, weight_names
from handler.errors import ConfigError
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.torch_presence import MISSING
from scripts.archives import kernel_compiler
from scripts.archives.build import ArchiveContents, build
from tests.support.families import FAMILIES, LATER_FAMILIES
from tests.support.live import Live, own_config
from tests.support.samples import MODELS, ROOT, TEXTS, MakeModel, SetKernelLevels

WITHOUT_TORCH = """
import runpy, sys
from importlib.machinery import PathFinder

class WithoutTorch(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "torch" else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTorch
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
STARTING_S = 60


def made_as(name: str, suffix: str, **settings: Any) -> dict[str, Any]:
    """Return the arguments of `make_model` for a family with a head."""
    architecture = getattr(transformers, f"{name}{suffix}")
    return {"architecture": architecture, "config_class": getattr(transformers, f"{name}Config"), **settings}


# Models beside a classifier: how each is made, and the task it is packed for.
SERVED: dict[str, tuple[dict[str, Any], str | None]] = {
    "words": (MODELS["fill-mask"], None),
    "sparse": (MODELS["sparse-embedding"], "sparse-embedding"),
    "pretrained": (made_as("Bert", "ForPreTraining"), None),
    "modern": (
        made_as("ModernBert", "ForSequenceClassification", **LATER_FAMILIES["ModernBert"], classifier_pooling="mean"),
        None,
    ),
}
REFUSED = made_as("Albert", "ForSequenceClassification", **FAMILIES["Albert"])


@pytest.fixture(scope="module")
def folders(make_model: MakeModel) -> dict[str, Path]:
    """Return the folders of the models by their names."""
    settings = {**{name: how for name, (how, _) in SERVED.items()}, "refused": REFUSED}
    return {name: make_model(**how) for name, how in settings.items()}


@pytest.fixture(scope="module")
def server(mar: Path, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Run the standalone server without PyTorch, with models that it serves and one that it refuses; yield it."""
    home = tmp_path_factory.mktemp("without-torch")
    store = home / "store"
    store.mkdir()
    shutil.copy(mar, store)
    settings = ModelConfig.read(ROOT / "model-config.yaml")
    for name, folder in folders.items():
        task = SERVED[name][1] if name in SERVED else None
        handler = replace(settings.handler, task=task)
        build(ArchiveContents(folder, name, "1.0", replace(settings, handler=handler)), store)
    config, ports = own_config(home)
    shutil.copy(ROOT / "metrics.yaml", home)
    live = Live(home, config, store, ports)
    places = {"--config": config, "--run-dir": home, "--temp": home / "temp", "--model-store": store}
    options = [str(word) for pair in places.items() for word in pair]
    models = [mar.name, *(f"{name}.mar" for name in folders)]
    command = [sys.executable, "-c", WITHOUT_TORCH, "server/__main__.py", *options, "--models", *models]
    environment = {**os.environ, "LOG_TO": "file", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        try:
            deadline = time.monotonic() + STARTING_S
            while "W-0-refused" not in live.log() or not all(map(partial(is_loaded, live), ("tiny", *SERVED))):
                assert process.poll() is None
                assert time.monotonic() < deadline, live.log()
                time.sleep(0.1)
            yield live
        finally:
            process.terminate()


def is_loaded(live: Live, model: str) -> bool:
    """Tell whether a model on the server has loaded."""
    try:
        headers = {"Authorization": f"Bearer {live.key}"}
        return bool(requests.get(f"{live.url}/v2/models/{model}/ready", headers=headers, timeout=10).ok)
    except OSError:  # it does not listen yet, or has not written its keys
        return False


def is_ready(live: Live, model: str) -> bool:
    """Tell whether a model on the server answers."""
    try:
        return bool(live.post(f"/predictions/{model}", b'{"inputs": "a"}').ok)
    except OSError:  # it does not listen yet
        return False


def test_a_classifier_answers_as_transformers_does(server: Live, model_folder: Path) -> None:
    """Over HTTP, by numpy and the compiled kernels."""
    answers = server.post("/predictions/tiny", json.dumps({"inputs": TEXTS[:4]})).json()
    exact = load_predictor(model_folder)
    for answer, expected in zip(answers, exact.answer_items(TEXTS[:4]), strict=True):
        assert exact.task.answers_match(expected, answer, 5e-2)


@pytest.mark.parametrize("name", SERVED)
def test_every_head_answers_as_transformers_does(name: str, server: Live, folders: dict[str, Path]) -> None:
    """Masked words, sparse embeddings, next sentences and the mean of all tokens, by every operation of the model."""
    exact = load_predictor(folders[name], ServingConfig(task=SERVED[name][1]))
    computed = {word: task for word, task in exact.operations.items() if task.forward_scope == "head"}
    assert computed
    for word, task in computed.items():
        path = f"/predictions/{name}" + ("" if word == "predict" else f"/1.0/{word}")
        items = list(task.self_test_items)
        answers = server.post(path, json.dumps({"instances": items})).json()["predictions"]
        predictor = Predictor({"predict": task}, exact.tokenizer, exact.engine, exact.model)
        for answer, expected in zip(answers, predictor.answer_items(items), strict=True):
            assert task.answers_match(expected, answer, 5e-2)


@pytest.mark.parametrize("path", ["/explanations/tiny", "/v1/models/tiny:explain"])
def test_an_explanation_is_refused_with_the_reason(server: Live, path: str) -> None:
    """And the next prediction is answered."""
    refused = server.post(path, b'{"instances": ["Where is my parcel?"]}')
    assert refused.status_code == 404
    assert refused.json()["message"] == f"explanations need gradients: {MISSING}"
    assert is_ready(server, "tiny")


def test_a_model_that_pytorch_computes_is_refused_by_name(server: Live) -> None:
    """The others are served."""
    lines = [json.loads(line) for line in server.log().splitlines()]
    (line,) = [line for line in lines if line["thread"].startswith("W-0-refused_1.0")]
    assert line["message"] == f"ConfigError: this model is computed by PyTorch. {MISSING}"
    assert server.post("/predictions/refused", b'{"inputs": "a"}').status_code == 503


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.py", "--train", "examples/intents/train.csv", "--output", "OUTPUT"], "this command needs torch"),
        (["examine.py", "MODEL"], "this command needs torch"),
        (["bench_gpu.py", "--output", "OUTPUT"], "this command needs torch"),
        (["predict.py", "--local", "MODEL", "a"], f"this model is computed by PyTorch. {MISSING}"),
        (["explain.py", "--local", "ARCHIVE", "a", "--output", "OUTPUT"], f"explanations need gradients: {MISSING}"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_a_command_that_needs_it_ends_with_one_line(
    words: list[str], message: str, model_folder: Path, mar: Path, tmp_path: Path
) -> None:
    paths = {"MODEL": str(model_folder), "ARCHIVE": str(mar), "OUTPUT": str(tmp_path / "output")}
    command = [f"scripts/{words[0]}", *(paths.get(word, word) for word in words[1:])]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *command], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {message}")


def test_without_kernels_every_model_needs_it(
    mar: Path, tmp_path: Path, kernel_levels: SetKernelLevels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a processor that is no x86."""
    with zipfile.ZipFile(mar) as file:
        file.extractall(tmp_path)
    kernel_levels({})
    monkeypatch.setattr("handler.torch_presence.IS_INSTALLED", False)
    with pytest.raises(ConfigError, match=r"a model without compiled kernels .* is computed by PyTorch"):
        load_predictor(tmp_path)


def test_what_trains_is_not_compiled_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handler.torch_presence.IS_INSTALLED", False)
    assert [source for source, _ in kernel_compiler._sources()] == [kernels.SOURCE]


def test_the_document_names_every_family_that_is_served_without_it() -> None:
    """docs/leaving-torchserve.md, by the names that people know."""
    text = (ROOT / "docs" / "leaving-torchserve.md").read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith("| archives of BERT")]
    assert {family.class_prefix.lower() for family in weight_names.FAMILIES.values()} == {
        word.replace("-", "").lower() for word in re.findall(r"[\w-]+", row.partition(", with a head")[0])
    } - {"archives", "of", "and"}
