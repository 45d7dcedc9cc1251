"""Models small enough to be made anew for every run, and predictors over them.

The weights are random but seeded, and larger than BERT's initial ones, so that different texts get clearly different
scores. The tokenizer is that of the pretrained base model, which scripts/setup.sh fetches.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
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
from xdist.scheduler.loadscope import LoadScopeScheduling

from handler.config import ModelConfig, ServingConfig
from handler.engine import kernels
from handler.loading import load_predictor
from handler.predictor import Predictor
from scripts.archives.build import build
from tests.support.fake_server import FakeServer
from tests.support.live import Live, own_config
from tests.support.samples import BASE, HEADS, MODELS, ROOT, LoadMain, MakeModel, MakePredictor, SetKernelLevels

LIVE = "tests/torchserve/test_live_"  # the tests of the server that the quickstart starts
MARKERS = ("server", "slow")

os.environ["TS_DECODE_INPUT_REQUEST"] = "false"  # as TorchServe does with our config.properties


def pytest_report_header() -> str:
    """Say whether there is a GPU."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none, so tests marked cuda are deselected"
    return f"GPU: {gpu}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests for a GPU where there is none; let files that wait for servers or train come first.

    So no process ends long after the others. A test of the quickstart's server outside LIVE would start another one.
    """
    if not torch.cuda.is_available():
        deselected = [item for item in items if item.get_closest_marker("cuda")]
        items[:] = [item for item in items if not item.get_closest_marker("cuda")]
        config.hook.pytest_deselected(items=deselected)
    outside = [item.nodeid for item in items if uses_live(item) and not item.nodeid.startswith(LIVE)]
    if outside:
        raise pytest.UsageError(f"tests that use the fixture `live` belong in {LIVE}*.py: {', '.join(outside)}")
    ranks: dict[str, int] = {}
    for item in items:
        ranks[file_of(item.nodeid)] = min(rank(item), ranks.get(file_of(item.nodeid), len(MARKERS) + 1))
    items.sort(key=lambda item: ranks[file_of(item.nodeid)])


def rank(item: pytest.Item) -> int:
    """Return how early a test must begin: 0 for those of the quickstart's server, which takes longest."""
    markers = (number for number, marker in enumerate(MARKERS, 1) if item.get_closest_marker(marker))
    return 0 if uses_live(item) else next(markers, len(MARKERS) + 1)


def uses_live(item: pytest.Item) -> bool:
    """Tell whether a test asks the server that the quickstart starts."""
    return not {"live", "standalone", "each_server"}.isdisjoint(getattr(item, "fixturenames", ()))


def file_of(nodeid: str) -> str:
    """Return the file of a test."""
    return nodeid.partition("::")[0]


class FilesAndServer(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """Gives each file to one process, and all files of the quickstart's server to the same one.

    The groups of pytest-xdist 3.8 (`--dist loadgroup`) have no effect with pytest 9.2: it no longer reads the attribute
    that they are written to.
    """

    def _split_scope(self, nodeid: str) -> str:
        return LIVE if nodeid.startswith(LIVE) else file_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Distribute the tests of several processes so that module and server fixtures are made once."""
    return FilesAndServer(config, log)


def pytest_configure() -> None:
    """Give PyTorch one thread in each of several test processes: they share the cores."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """Return a maker of model folders: `make_model(problem_type, labels, **config)`."""

    def make(
        problem_type: Any = "single_label_classification",
        labels: tuple[str, ...] = ("anger", "joy", "fear", "calm"),
        architecture: type[PreTrainedModel] = BertForSequenceClassification,
        config_class: type[PretrainedConfig] = BertConfig,
        **settings: Any,
    ) -> Path:
        folder = tmp_path_factory.mktemp("model")
        tokenizer = AutoTokenizer.from_pretrained(BASE, local_files_only=True)
        small = {
            "vocab_size": len(tokenizer),
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
        tokenizer.save_pretrained(folder)
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
    return build(model_folder, "tiny", "1.0", ModelConfig.read(ROOT / "model-config.yaml"), store)


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
            build(folders[name], name, "1.0", packed_for, live.store)
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
