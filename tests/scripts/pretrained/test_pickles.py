"""Pickled weights: refused by default, converted tensor by tensor, and never run."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from torch import Tensor
from transformers import BertForMaskedLM, BertForSequenceClassification, BertModel

from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.protocol import serialize_value
from scripts.cli.console import ScriptError
from scripts.pretrained.options import ModelRequest
from scripts.pretrained.source import open_model
from tests.support.samples import TEXTS, MakeModel, ask, response_json


@pytest.fixture
def pickled(model_folder: Path, tmp_path: Path) -> Path:
    """Return a model's folder with its weights in a pickle alone."""
    return pickled_copy(model_folder, tmp_path / "pickled")


def pickled_copy(model: Path, folder: Path) -> Path:
    """Copy a model's folder, its weights as pytorch_model.bin."""
    shutil.copytree(model, folder)
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    return folder


def converted(folder: Path) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Return the tensors of a folder after conversion, and the steps that were taken."""
    with open_model(ModelRequest(str(folder), convert_pickle=True)) as source:
        tensors: dict[str, Tensor] = {}
        for file in sorted(source.folder.glob("*.safetensors")):
            tensors |= load_file(file)
        return tensors, source.provenance.steps


def refusal(folder: Path, **options: Any) -> str:
    """Return the message with which a folder is refused: one line."""
    with pytest.raises(ScriptError) as caught, open_model(ModelRequest(str(folder), **options)):
        pass
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_pickle_is_refused_with_what_converts_it(pickled: Path) -> None:
    """The folder stays as it was."""
    before = sorted(pickled.iterdir())
    assert refusal(pickled).endswith(
        "its weights are pickled (pytorch_model.bin), and a pickle can run code when it is read: the same command with "
        "--convert-pickle converts them to safetensors, reading tensors only"
    )
    converted(pickled)
    assert sorted(pickled.iterdir()) == before


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_a_converted_model_answers_as_before(
    pickled: Path, model_folder: Path, predictor: Predictor, *, is_zip: bool
) -> None:
    """Bit for bit, in both formats of torch.save; what was read is recorded."""
    torch.save(
        load_file(model_folder / "model.safetensors"),
        pickled / "pytorch_model.bin",
        _use_new_zipfile_serialization=is_zip,
    )
    with open_model(ModelRequest(str(pickled), convert_pickle=True)) as source:
        answers = [response_json(response) for response in ask(load_predictor(source.folder), *TEXTS[:3])]
    assert answers == [response_json(response) for response in ask(predictor, *TEXTS[:3])]
    (origin,) = source.provenance.origins
    assert list(origin.files) == ["pytorch_model.bin"]
    assert source.provenance.steps[0].startswith("pytorch_model.bin converted to safetensors with torch 2")


def test_tied_tensors_are_kept_under_each_name(make_model: MakeModel, tmp_path: Path) -> None:
    """Embeddings and decoder share memory, some tensors are views with gaps: all names and values stay."""
    folder = make_model(architecture=BertForMaskedLM)
    state = BertForMaskedLM.from_pretrained(folder).state_dict()
    word_embeddings = "bert.embeddings.word_embeddings.weight"
    assert state[word_embeddings].data_ptr() == state["cls.predictions.decoder.weight"].data_ptr()
    wide = torch.stack([state[word_embeddings], state[word_embeddings]], dim=1)
    state[word_embeddings] = wide[:, 0]
    target = tmp_path / "tied"
    shutil.copytree(folder, target)
    (target / "model.safetensors").unlink()
    torch.save(state, target / "pytorch_model.bin")
    tensors, _ = converted(target)
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], state[name]) for name in state)


def test_shards_keep_their_index(pickled: Path, model_folder: Path) -> None:
    """Several pickles become as many files of safetensors; a missing one is named."""
    state = load_file(model_folder / "model.safetensors")
    names = sorted(state)
    parts = [names[: len(names) // 2], names[len(names) // 2 :]]
    weight_map = {}
    for number, part in enumerate(parts, start=1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: state[name] for name in part}, pickled / file)
        weight_map.update(dict.fromkeys(part, file))
    (pickled / "pytorch_model.bin").unlink()
    index = pickled / "pytorch_model.bin.index.json"
    index.write_bytes(serialize_value({"metadata": {}, "weight_map": weight_map}))
    tensors, _ = converted(pickled)
    assert all(torch.equal(tensors[name], state[name]) for name in state)
    with open_model(ModelRequest(str(pickled), convert_pickle=True)) as source:
        loaded = BertForSequenceClassification.from_pretrained(source.folder).state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    (pickled / "pytorch_model-00002-of-00002.bin").unlink()
    assert "names pytorch_model-00002-of-00002.bin, which is missing" in refusal(pickled, convert_pickle=True)
    index.write_text('{"weight_map": {"a": "../../secret.bin"}}')
    assert "is no index of weights" in refusal(pickled, convert_pickle=True)


class Payload:
    """An object whose pickle runs a command when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.file}",)


def test_code_in_a_pickle_never_runs(pickled: Path, tmp_path: Path) -> None:
    """It is refused by the name of what it would call, in both formats and as a plain pickle."""
    file = pickled / "pytorch_model.bin"
    for is_zip in (True, False):
        torch.save({"a": Payload(tmp_path / "ran")}, file, _use_new_zipfile_serialization=is_zip)
        assert "posix.system" in refusal(pickled, convert_pickle=True)
    file.write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    assert "is not read" in refusal(pickled, convert_pickle=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"a": torch.zeros(1)}}, "the checkpoint of a trainer"),
        ({"a": torch.zeros(1), "epoch": 3}, "epoch is int, not a tensor"),
        ([torch.zeros(1)], "holds list, not tensors by name"),
        ({}, "holds dict, not tensors by name"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "a is sparse or quantized"),
    ],
)
def test_what_holds_no_weights_is_refused(pickled: Path, content: Any, message: str) -> None:
    """Each kind by name."""
    torch.save(content, pickled / "pytorch_model.bin")
    assert message in refusal(pickled, convert_pickle=True)


def test_a_file_that_is_cut_short_is_refused(pickled: Path) -> None:
    """A zip, a legacy file and a pointer of Git LFS."""
    file = pickled / "pytorch_model.bin"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    assert "cut short" in refusal(pickled, convert_pickle=True)
    torch.save({"a": torch.zeros(1000)}, file, _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes()[:-500])
    assert "cut short" in refusal(pickled, convert_pickle=True)
    file.write_bytes(b"")
    assert "cut short" in refusal(pickled, convert_pickle=True)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "pointer of Git LFS" in refusal(pickled, convert_pickle=True)


def test_a_pickled_module_of_sentence_transformers(make_model: MakeModel, tmp_path: Path) -> None:
    """A Dense layer as versions before 3 saved it is converted like the weights of the encoder."""
    encoder = modules.Transformer(str(make_model(architecture=BertModel)))
    dense = modules.Dense(32, 16)
    model = SentenceTransformer(modules=[encoder, modules.Pooling(32), dense], device="cpu")
    folder = tmp_path / "sentences"
    model.save(str(folder), create_model_card=False)
    torch.save(load_file(folder / "2_Dense" / "model.safetensors"), folder / "2_Dense" / "pytorch_model.bin")
    (folder / "2_Dense" / "model.safetensors").unlink()
    assert "2_Dense: its weights are pickled" in refusal(folder)
    with open_model(ModelRequest(str(folder), convert_pickle=True)) as source:
        answer = response_json(ask(load_predictor(source.folder), TEXTS[0])[0])
    assert torch.allclose(torch.tensor(answer), torch.tensor(model.encode(TEXTS[0])), atol=1e-5)
