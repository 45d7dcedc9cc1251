"""Fixtures of all tests: models small enough to be made anew for every run, and predictors over them.

The weights are random but seeded, and larger than BERT's initial ones, so that different texts get clearly different
scores. The tokenizer is that of the pretrained base model, which scripts/setup.sh fetches, with fewer words.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from handler.config import ModelConfig, ServingConfig
from handler.engine import kernels
from handler.loading import load_predictor
from handler.predictor import Predictor
from scripts.archives.build import ArchiveContents, build
from tests.support.fake_server import FakeServer
from tests.support.live import Live, own_config
from tests.support.samples import BASE, HEADS, MODELS, ROOT, LoadMain, MakeModel, MakePredictor, SetKernelLevels
from tests.support.tokenizers import keep_frequent_words


@pytest.fixture(scope="module", autouse=True)
def frozen_modules() -> None:
    """Keep what lives before a file's tests, a million objects of imported modules, out of garbage collections.

    transformers' Trainer and the loading of a predictor collect: 0.3 s each time otherwise (2026-11-28).
    """
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """Return a maker of model folders: `make_model(problem_type, labels, **config)`.

    With `whole_vocabulary=True` the tokenizer has every word of the base model's, for windows that cut no word.
    """
    folders = {whole: tmp_path_factory.mktemp("tokenizer") for whole in (True, False)}
    tokenizer = AutoTokenizer.from_pretrained(BASE, local_files_only=True)
    for folder in folders.values():
        tokenizer.save_pretrained(folder)
    n_tokens = {True: len(tokenizer), False: keep_frequent_words(folders[False] / "tokenizer.json")}

    def make(
        problem_type: Any = "single_label_classification",
        labels: tuple[str, ...] = ("anger", "joy", "fear", "calm"),
        architecture: type[PreTrainedModel] = BertForSequenceClassification,
        config_class: type[PretrainedConfig] = BertConfig,
        *,
        whole_vocabulary: bool = False,
        add_files: Callable[[Path], object] | None = None,
        **settings: Any,
    ) -> Path:
        folder = tmp_path_factory.mktemp("model")
        small = {
            "vocab_size": n_tokens[whole_vocabulary],
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "initializer_range": 0.15,
        }
        config = config_class(
            **{**small, **settings},
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            problem_type=problem_type,
        )
        torch.manual_seed(7)
        architecture(config).save_pretrained(folder)
        shutil.copytree(folders[whole_vocabulary], folder, dirs_exist_ok=True)
        if add_files is not None:
            add_files(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def model_folder(make_model: MakeModel) -> Path:
    """Return the folder of a single-label BERT with four labels."""
    return make_model()


@pytest.fixture(scope="session")
def predictor(model_folder: Path) -> Predictor:
    """Return a predictor with default settings."""
    return load_predictor(model_folder)


@pytest.fixture(scope="session")
def make_predictor(model_folder: Path) -> MakePredictor:
    """Return a maker of predictors with other settings of the same model."""

    def make(folder: Path | None = None, **settings: Any) -> Predictor:
        return load_predictor(folder or model_folder, ServingConfig(**settings))

    return make


@pytest.fixture
def kernel_levels(monkeypatch: pytest.MonkeyPatch) -> Iterator[SetKernelLevels]:
    """Return a function that restricts the compiled kernels to some levels of instructions; none: no kernels."""

    def set_levels(levels: dict[str, tuple[str, ...]]) -> None:
        monkeypatch.setattr(kernels, "LEVELS", levels)
        kernels.library.cache_clear()

    yield set_levels
    monkeypatch.undo()
    kernels.library.cache_clear()


@pytest.fixture(scope="session")
def load_main(make_model: MakeModel) -> LoadMain:
    """Return a loader of a predictor whose main task is the one named: `load_main(main, layers, **options)`."""
    folders: dict[tuple[str, int], Path] = {}

    def load(main: str, layers: int = 2, **options: Any) -> Predictor:
        if (main, layers) not in folders:
            folders[main, layers] = make_model(**MODELS[main], num_hidden_layers=layers)
        return load_predictor(folders[main, layers], ServingConfig(task=main), **options)

    return load


@pytest.fixture(scope="session")
def mar(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an archive of the single-label model, named tiny, with the settings of the project."""
    store = tmp_path_factory.mktemp("store")
    return build(ArchiveContents(model_folder, "tiny", "1.0", ModelConfig.read(ROOT / "model-config.yaml")), store)


@pytest.fixture(scope="session")
def live(mar: Path) -> Iterator[Live]:
    """Run the README's first command on ports of its own; yield the server it leaves running, with `tiny` beside."""
    with tempfile.TemporaryDirectory(prefix="live-") as folder:
        home = Path(folder)
        store = home / "store"
        store.mkdir()
        shutil.copy(mar, store)
        config, ports = own_config(home)
        server = Live(home, config, store, ports)
        try:
            quickstart = server.script("quickstart.sh", "--model-store", str(store))
            server.script("models.py", "register", "tiny")
            yield replace(server, quickstart=quickstart.stdout)
        finally:
            server.script("serve.sh", "stop", check=False)


@pytest.fixture(scope="session")
def heads(live: Live, make_model: MakeModel) -> Mapping[str, Path]:
    """Pack and register a model of every head; return their folders. A worker loads while the next one is packed."""
    settings = ModelConfig.read(ROOT / "model-config.yaml")
    folders = {name: make_model(**made) for name, (made, _) in HEADS.items()}
    with ThreadPoolExecutor(len(HEADS)) as pool:
        registering = []
        for name, (_, task) in HEADS.items():
            packed_for = replace(settings, handler=replace(settings.handler, task=task, threads=1))
            build(ArchiveContents(folders[name], name, "1.0", packed_for), live.store)
            registering.append(pool.submit(live.script, "models.py", "register", name))
    for registered in registering:
        registered.result()
    return folders


@pytest.fixture(scope="session")
def standalone(live: Live, heads: Mapping[str, Path]) -> Iterator[Live]:
    """Run the standalone server with the archives that `live` serves; yield it."""
    with tempfile.TemporaryDirectory(prefix="standalone-") as folder:
        home = Path(folder)
        config, ports = own_config(home)
        server = Live(home, config, live.store, ports)
        models = ("--model-store", str(live.store), "--models", "intents", "tiny", *heads)
        try:
            server.script("serve.sh", "start", "--server", "standalone", *models)
            yield server
        finally:
            server.script("serve.sh", "stop", check=False)


@pytest.fixture(scope="session", params=["torchserve", "standalone"])
def each_server(request: pytest.FixtureRequest) -> Live:
    """Return TorchServe, and then the standalone server: both answer alike."""
    server: Live = request.getfixturevalue("live" if request.param == "torchserve" else "standalone")
    return server


@pytest.fixture
def fake_server(tmp_path: Path) -> Iterator[FakeServer]:
    """Return a running server that answers as TorchServe does."""
    with FakeServer(tmp_path) as server:
        yield server


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let PyTorch have one thread, and then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
