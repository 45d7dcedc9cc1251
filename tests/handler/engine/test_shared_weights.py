"""Weights in a file that all workers map: the same bits, whatever it held before, and without it where it cannot be."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from handler import archive
from handler.config import ModelConfig, ServingConfig
from handler.engine import device, kernels, shared_weights
from handler.engine.kernels import address
from handler.engine.native_engine import NativeEngine, precision_of
from handler.engine.shared_weights import share
from handler.loading import YOUNG_OBJECTS, load_predictor
from handler.predictor import Predictor
from scripts.archives.build import ArchiveContents, build
from tests.support.encodings import LENGTHS, logits_of, random_words
from tests.support.samples import ROOT, MakeModel

REASONS = {
    "no folder": "No such file",
    "full": "No space left",
    "too little space": "0 MB of weights, and 0 MB are free",
    "another user's": "Permission denied",
}


def arrays() -> list[NDArray[Any]]:
    """Return weights of several types and shapes."""
    generator = np.random.default_rng(0)
    floats = generator.standard_normal((3, 5), np.float32)
    return [floats, generator.integers(-127, 127, (7, 11), np.int8), generator.integers(0, 1 << 16, 64, np.uint16)]


def is_mapped(array: NDArray[Any], path: Path, *, aligned: bool = True) -> bool:
    """Tell whether an array lies in the pages of a file, at a cache line if `aligned`."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        span, *_, name = line.split(maxsplit=5)
        start, end = (int(address, 16) for address in span.split("-"))
        if start <= address(array) < end:
            return name == str(path) and (not aligned or address(array) % 64 == 0)
    raise AssertionError("an address without memory")


def assert_equal(weights: list[NDArray[Any]]) -> None:
    """Compare with `arrays`."""
    for array, expected in zip(weights, arrays(), strict=True):
        assert array.dtype == expected.dtype
        assert np.array_equal(array, expected)


@pytest.mark.parametrize("before", ["nothing", "the same", "other weights", "half of them", "garbage of that size"])
def test_every_process_maps_the_same_weights(before: str, tmp_path: Path) -> None:
    """What the file holds is compared, and replaced as a whole where it is something else."""
    path = tmp_path / "a.weights"
    first = arrays()
    if before != "nothing":
        share(arrays(), path)
        inode, size = path.stat().st_ino, path.stat().st_size
    if before == "other weights":
        first[1][3, 3] += 1
        share(first, path)
        first = arrays()
    elif before == "half of them":
        path.write_bytes(path.read_bytes()[: size // 2])
    elif before == "garbage of that size":
        path.write_bytes(b"x" * size)
    first = share(first, path)
    assert_equal(first)
    assert all(is_mapped(array, path) for array in first)
    assert [file.name for file in tmp_path.iterdir()] == ["a.weights"]
    if before == "the same":
        assert path.stat().st_ino == inode
    assert all(is_mapped(array, path) for array in share(arrays(), path))


def test_a_file_that_is_replaced_changes_no_worker(tmp_path: Path) -> None:
    """A worker of another model in the same folder writes its own file; the first one keeps its pages."""
    path = tmp_path / "a.weights"
    first = share(arrays(), path)
    share([array + 1 for array in arrays()], path)
    assert_equal(first)


def test_what_a_killed_worker_has_left_is_removed(tmp_path: Path) -> None:
    """Or a worker that is killed again and again while it writes would fill the disk."""
    for left in (".a.weights-0123abcd", ".b.weights-0123abcd"):
        (tmp_path / left).write_bytes(b"half")
    share(arrays(), tmp_path / "a.weights")
    assert {file.name for file in tmp_path.iterdir()} == {"a.weights", ".b.weights-0123abcd"}


@pytest.mark.parametrize("fault", REASONS)
def test_without_a_file_each_has_its_own(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a line in the log; what was begun is removed."""
    caplog.set_level("INFO", shared_weights.logger.name)
    folder = tmp_path / "missing" if fault == "no folder" else tmp_path
    if fault == "full":
        bytes_of = shared_weights._bytes_of

        def full(array: NDArray[Any]) -> NDArray[np.uint8]:
            if array.nbytes == 77:
                raise OSError(28, "No space left on device")
            return bytes_of(array)

        monkeypatch.setattr(shared_weights, "_bytes_of", full)
    elif fault == "too little space":
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=300))
    elif fault == "another user's":  # or more than may be mapped

        def memmap(*_: object, **__: object) -> NDArray[Any]:
            raise PermissionError(13, "Permission denied", "a.weights")

        monkeypatch.setattr(np, "memmap", memmap)
    assert_equal(share(arrays(), folder / "a.weights"))
    assert [file.name for file in tmp_path.iterdir()] == (["a.weights"] if fault == "another user's" else [])
    assert [REASONS[fault] in message for message in caplog.messages] == [True]


@pytest.fixture(scope="module")
def unpacked(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an archive as a worker finds it."""
    folder = tmp_path_factory.mktemp("shared")
    config = ModelConfig(handler=ServingConfig(precision="fp32"))
    mar = build(ArchiveContents(make_model(), "shared", "1.0", config), folder)
    with zipfile.ZipFile(mar) as file:
        file.extractall(folder / "unpacked")
    return folder / "unpacked"


def weights_of(predictor: Predictor) -> list[NDArray[Any]]:
    """Return the packed weights of all layers."""
    layers = predictor.engine.model.encoder._layers
    return [linear.weight for layer in layers for linear in layer.linears.values()]


LOAD = """
import json, sys
from pathlib import Path
from handler.config import ServingConfig
from handler.loading import load_predictor
predictor = load_predictor(Path(sys.argv[1]), ServingConfig(precision="fp32"), serving=True, shared=True)
print(json.dumps([predictor.answer_items(["Where is my parcel?"]), open("/proc/self/maps").read().count(".weights")]))
"""


def test_workers_of_an_archive_share_their_weights(unpacked: Path) -> None:
    """Two that start at the same time; what evaluates or scores a folder of somebody else writes nothing into it."""
    assert kernels.library() is not None
    plain = load_predictor(unpacked, ServingConfig(precision="fp32"), serving=True)
    assert not list(unpacked.glob("*.weights"))
    command = [sys.executable, "-c", LOAD, str(unpacked)]
    workers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in "12"]
    outputs = [json.loads(worker.communicate(timeout=120)[0]) for worker in workers]
    expected = json.loads(json.dumps(plain.answer_items(["Where is my parcel?"])))
    assert [answers for answers, _ in outputs] == [expected] * 2
    assert all(n_mapped for _, n_mapped in outputs)
    (path,) = unpacked.glob("*.weights")
    archive.verify(unpacked)
    serving = load_predictor(unpacked, ServingConfig(precision="fp32"), serving=True, shared=True)
    assert all(is_mapped(weight, path) for weight in weights_of(serving))
    assert not any(is_mapped(weight, path) for weight in weights_of(plain))
    sequences = random_words(*LENGTHS)
    assert (logits_of(serving.engine.run(sequences)) == logits_of(plain.engine.run(sequences))).all()


def test_words_that_were_stored_in_16_bits_are_shared(unpacked: Path, tmp_path: Path) -> None:
    """They are widened once for all workers; those in fp32 are read where they are stored."""
    exact = load_predictor(unpacked, ServingConfig(precision="fp32"), serving=True, shared=True)
    assert is_mapped(
        exact.engine.model._embeddings.words.rows, unpacked / archive.MODEL / "model.safetensors", aligned=False
    )
    folder = tmp_path / "model"
    shutil.copytree(unpacked / archive.MODEL, folder)
    tensors = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")
    config = ServingConfig(precision="fp32")
    precision = precision_of(folder, config, device.CPU)
    assert precision is not None
    auto_class, outputs = "AutoModelForSequenceClassification", []
    for _ in "12":
        native = NativeEngine.load(folder, auto_class, exact.task, config, precision)
        outputs.append(logits_of(native.run(random_words(*LENGTHS))))
        native.share_weights(tmp_path)
        outputs.append(logits_of(native.run(random_words(*LENGTHS))))
        (path,) = tmp_path.glob("*.weights")
        assert is_mapped(native.model._embeddings.words.rows, path)
    assert all((output == outputs[0]).all() for output in outputs)


COLLECT = """
import gc, sys, weakref
from pathlib import Path
from handler.config import ServingConfig
from handler.loading import load_predictor
for _ in "12":
    predictor = load_predictor(Path(sys.argv[1]), ServingConfig(precision="fp32"), serving=True)
    print(len(gc.get_objects()), gc.get_freeze_count())
references = [weakref.ref(each) for each in (predictor, predictor.engine, predictor.engine.model)]
del predictor
print(*(reference() is None for reference in references))
print(gc.get_threshold()[0])
"""


def test_a_collection_of_garbage_visits_nothing_that_stays(unpacked: Path) -> None:
    """Neither after the first model nor after the next, and seldom; a model that is dropped is freed at once."""
    command = [sys.executable, "-c", COLLECT, str(unpacked)]
    lines = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    ).stdout.splitlines()
    for line in lines[:2]:
        visited, frozen = map(int, line.split())
        assert visited < 1000 < 50_000 < frozen
    assert lines[2] == "True True True"
    assert int(lines[3]) == YOUNG_OBJECTS
