"""The peers of the comparison: each library where it is installed, and what is around it with a fake of it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import transformers

from scripts.benchmark import exported, libraries, machine, peers, texts
from scripts.benchmark.models import BenchmarkModel, benchmark_model
from scripts.benchmark.peers import BatchSetting, Labels, Peer, PeerTokenizer

CPU = torch.device("cpu")
TEXTS = ("what is the weather like", "book a table for two", "yes", "set an alarm for seven o'clock tomorrow", "no")


@pytest.fixture
def model() -> Iterator[BenchmarkModel]:
    """Return a small random classifier; the threads of PyTorch are as before afterwards."""
    threads = torch.get_num_threads()
    with ExitStack() as stack:
        yield benchmark_model("random:1x64", stack)
    torch.set_num_threads(threads)


def expected(model: BenchmarkModel, batch: Sequence[str] = TEXTS) -> Labels:
    """Return the labels of transformers in fp32, one text a batch."""
    classifier = load(transformers.AutoModelForSequenceClassification, model.model_folder)

    def logits(arrays: dict[str, Any]) -> Any:
        with torch.no_grad():
            return classifier(**{name: torch.from_numpy(array) for name, array in arrays.items()}).logits

    return PeerTokenizer(model).label(logits, batch, 1)


def load(kind: Any, folder: Path) -> Any:
    """Load a model of transformers."""
    return kind.from_pretrained(folder, local_files_only=True).eval()


def every_way(built: Sequence[Peer], size: int) -> list[tuple[str, Labels]]:
    """Return what every peer says, in one stream and in several."""
    ways = [(peer.name, peer.label) for peer in built]
    ways += [(f"{peer.name} in streams", peer.streams) for peer in built if peer.streams]
    return [(name, label(TEXTS, size)) for name, label in ways]


class View(np.ndarray[Any, Any]):
    """Array as CTranslate2 holds it."""

    @staticmethod
    def from_array(array: Any) -> Any:
        """Return the array, which must be of 32 bits."""
        assert array.dtype == np.int32
        return array.view(View)

    def to(self, _: Any) -> View:
        """Return the array in another type."""
        return self


class Encoder:
    """CTranslate2's encoder, computed by transformers."""

    opened: ClassVar[list[tuple[str, int, int]]] = []

    def __init__(self, folder: str, *, device: str, compute_type: str, intra_threads: int, inter_threads: int) -> None:
        assert device == "cpu"
        self.opened.append((compute_type, intra_threads, inter_threads))
        torch.set_num_threads(intra_threads)  # as the library does
        self.encoder = load(transformers.AutoModel, Path(folder, "source"))

    @torch.no_grad()
    def forward_batch(self, ids: Any, *, lengths: Any) -> Any:
        """Return an object with the output of the pooler."""
        mask = torch.arange(ids.shape[1]) < torch.from_numpy(np.array(lengths))[:, None]
        output = self.encoder(input_ids=torch.from_numpy(np.array(ids)).long(), attention_mask=mask.long())
        output.pooler_output = output.pooler_output.numpy().view(View)
        return output


class TransformersConverter:
    """CTranslate2's converter, which refuses what transformers 5 writes."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def convert(self, target: str) -> None:
        """Keep the folder."""
        config = json.loads((self.folder / "config.json").read_text())
        assert config["position_embedding_type"] == "absolute"
        Path(target).mkdir()
        Path(target, "source").symlink_to(self.folder)


@pytest.fixture
def ctranslate2(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Put a fake in place of CTranslate2; return the encoders that were opened."""
    library: Any = ModuleType("ctranslate2")
    library.Encoder, library.StorageView, library.DataType = Encoder, View, type("DataType", (), {"float32": 0})
    library.get_supported_compute_types = lambda _: {"float32", "int8", "int8_float32"}
    converters: Any = ModuleType("ctranslate2.converters")
    converters.TransformersConverter = TransformersConverter
    monkeypatch.setitem(sys.modules, "ctranslate2", library)
    monkeypatch.setitem(sys.modules, "ctranslate2.converters", converters)
    monkeypatch.setattr(Encoder, "opened", [])
    return Encoder.opened


def test_ctranslate2_gets_the_head_that_it_leaves_out(
    model: BenchmarkModel, ctranslate2: list[tuple[str, int, int]]
) -> None:
    """At every precision, in one stream and in several, and PyTorch keeps its threads."""
    torch.set_num_threads(2)
    built = libraries.ctranslate2(model, PeerTokenizer(model), 2)
    assert torch.get_num_threads() == 2
    assert [peer.name for peer in built] == ["CTranslate2 fp32", "CTranslate2 int8"]
    assert ctranslate2 == [("float32", 2, 1), ("float32", 1, 2), ("int8", 2, 1), ("int8", 1, 2)]
    labelled = every_way(built, 2)
    assert len(labelled) == 4
    for name, labels in labelled:
        assert labels.tolist() == expected(model).tolist(), name


def test_ctranslate2_is_left_out_for_heads_that_are_not_computed(
    model: BenchmarkModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the reason, and the other peers are measured."""
    monkeypatch.setattr(machine, "missing", lambda _: "")
    monkeypatch.setattr(libraries, "LIBRARIES", {"ctranslate2": libraries.ctranslate2})
    config = model.model_folder / "config.json"
    written = json.loads(config.read_text())
    monkeypatch.setattr(libraries, "read_config", lambda _: type("Config", (), {"model_type": "electra"}))
    built, skipped = libraries.installed_peers(model, {}, CPU)
    reason = "only the head of bert is computed for it, not that of electra"
    assert skipped == [f"ctranslate2 is skipped for {model.name}: ValueError: {reason}"]
    assert skipped[0] in capsys.readouterr().err
    assert len(built) == 3
    assert json.loads(config.read_text()) == written


class TextEmbedding:
    """fastembed's class, computed by transformers."""

    names: ClassVar[list[str]] = []

    def __init__(self, name: str, *, specific_model_path: str, threads: int, providers: Sequence[str]) -> None:
        assert name in self.names
        assert (threads, list(providers)) in [(number, ["CPUExecutionProvider"]) for number in (1, 2)]
        folder = Path(specific_model_path)
        assert (folder / "model.onnx").is_file()
        self.max_length = json.loads((folder / "tokenizer_config.json").read_text())["max_length"]
        self.folder = (folder / "config.json").resolve().parent
        self.classifier = load(transformers.AutoModelForSequenceClassification, self.folder)
        make: Any = transformers.PreTrainedTokenizerFast
        self.tokenizer = make(tokenizer_file=str(folder / "tokenizer.json"))

    @classmethod
    def add_custom_model(cls, *, model: str, model_file: str, normalization: bool, **_: Any) -> None:
        """Register a model, once."""
        assert model not in cls.names
        assert not normalization
        assert model_file == "model.onnx"
        cls.names.append(model)

    @torch.no_grad()
    def embed(self, batch: Sequence[str], batch_size: int) -> Iterator[Any]:
        """Yield one vector a text, in order."""
        assert batch_size
        for text in batch:
            ids = self.tokenizer(text, truncation=True, max_length=self.max_length, return_tensors="pt")["input_ids"]
            yield self.classifier(input_ids=ids).logits[0].numpy()


def test_fastembed_gives_logits_in_the_order_of_the_texts(
    model: BenchmarkModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Texts are sorted for it; a text is cut where the other peers cut it, whatever the folder's tokenizer says."""
    settings = model.model_folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"max_length": 4}))
    library: Any = ModuleType("fastembed")
    library.TextEmbedding = TextEmbedding
    monkeypatch.setattr(TextEmbedding, "names", [])
    description: Any = ModuleType("fastembed.common.model_description")
    description.PoolingType, description.ModelSource = type("PoolingType", (), {"DISABLED": 0}), dict
    monkeypatch.setitem(sys.modules, "fastembed", library)
    monkeypatch.setitem(sys.modules, "fastembed.common.model_description", description)
    (tmp_path / "model.onnx").touch()
    monkeypatch.setattr(libraries, "_onnx", lambda _: {"fp32": tmp_path / "model.onnx"})
    built = libraries.fastembed(model, PeerTokenizer(model), 2)
    assert [peer.name for peer in built] == ["fastembed fp32"]
    for size in (1, 2, 5):
        for name, labels in every_way(built, size):
            assert labels.tolist() == expected(model).tolist(), (name, size)
    assert json.loads(settings.read_text())["max_length"] == 4


def test_a_library_that_fails_is_left_out(model: BenchmarkModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """One reason for each that is missing or fails; the rest is measured."""

    def fail(*_: Any) -> Any:
        raise RuntimeError("no compiler\nin a hundred lines")

    tokenizer = PeerTokenizer(model)
    works = Peer("works", lambda batch, _: expected(model, batch))
    built_by = {"torchao": fail, "openvino": fail, "onnxruntime": lambda *_: [works]}
    monkeypatch.setattr(libraries, "LIBRARIES", built_by)
    monkeypatch.setattr(machine, "missing", lambda name: "openvino is skipped: x" if name == "openvino" else "")
    built, skipped = libraries.installed_peers(model, {}, CPU)
    assert skipped == [f"torchao is skipped for {model.name}: RuntimeError: no compiler", "openvino is skipped: x"]
    assert built[-1] is works
    assert tokenizer.max_length
    assert libraries.installed_peers(model, {}, torch.device("meta"))[1] == []


def test_torchao_is_compiled_where_its_setting_counts(model: BenchmarkModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this thread with one thread, both for one text and for more, before a pool runs it; threads are as before."""
    calls: list[tuple[bool, int, int]] = []

    def build(_: Path, **calibration: Any) -> Any:
        def run(input_ids: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
            here = threading.current_thread() is threading.main_thread()
            calls.append((here, torch.get_num_threads(), len(input_ids)))
            return torch.nn.functional.one_hot(input_ids[:, 1] % 3, 3)

        assert all(len(arrays["input_ids"]) == 1 for arrays in calibration.get("calibration", []))
        return run

    monkeypatch.setattr(exported, "to_torchao_dynamic_int8", build)
    monkeypatch.setattr(exported, "to_torchao_static_int8", build)
    torch.set_num_threads(2)
    built = libraries.torchao(model, PeerTokenizer(model), 2)
    assert [peer.name for peer in built] == ["torchao dynamic int8, compiled", "torchao static int8, compiled"]
    assert torch.get_num_threads() == 2
    assert set(calls) == {(True, 1, 4), (True, 1, 1)}
    calls.clear()
    assert len(built[0].label(TEXTS, 2)) == len(TEXTS)
    assert {call[:2] for call in calls} == {(False, 1)}


def test_streams_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The faster of both ways counts, at its own size, and the report says which it was."""
    cost = {("one", 1): 4.0, ("one", 2): 3.0, ("one", 4): 2.0, ("streams", 1): 3.0, ("streams", 2): 1.0}
    mix = texts.Mix("short", tuple("abcdefgh"), (3,) * 8)

    def labeler(way: str) -> Any:
        return lambda _, size: cost.get((way, size), 5.0)

    monkeypatch.setattr(peers, "timed", lambda run, _: run())
    peer = Peer("peer", labeler("one"), streams=labeler("streams"))
    assert peers.best_setting(peer, mix, CPU) == BatchSetting(2, streams=True)
    assert peers.describe(peer, BatchSetting(2, streams=True), mix) == "2 texts a stream"
    assert peers.best_setting(Peer("peer", labeler("one")), mix, CPU) == BatchSetting(4)
    assert peers.run_of(peer, BatchSetting(2, streams=True), mix)() == 1.0


@pytest.mark.filterwarnings("default::DeprecationWarning", "default::UserWarning")  # of inductor
@pytest.mark.parametrize("library", list(libraries.LIBRARIES))
def test_answers_agree_with_fp32(library: str, model: BenchmarkModel) -> None:
    """All of the library's own where it is installed: fp32 says the same, int8 nearly the same."""
    if reason := machine.missing(library):
        pytest.skip(reason)  # optional, as for a user: the tests above hold what the benchmark does with a library
    torch.set_num_threads(2)
    batch = texts.short_texts(texts.read_texts(texts.SOURCES[2]), 40)
    built = libraries.LIBRARIES[library](model, PeerTokenizer(model), 2)
    assert built
    assert torch.get_num_threads() == 2
    for peer in built:
        for label in [peer.label, *([peer.streams] if peer.streams else [])]:
            agreement = (label(batch, 8) == expected(model, batch)).mean()
            assert agreement == 1 if "fp32" in peer.name else agreement >= 0.75, (peer.name, agreement)
