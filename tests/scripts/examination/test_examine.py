"""scripts/examine.py agrees with scripts/package.py, says all at once, and changes nothing."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from transformers import BertForTokenClassification, BertModel

from handler.config import ModelConfig
from handler.errors import ServingError
from handler.protocol import loads
from scripts import examine
from scripts.archives.build import ArchiveContents, build
from scripts.cli.console import ScriptError
from scripts.examination.archive_file import examine_archive
from scripts.examination.examination import Examination
from scripts.examination.folder import examine_model
from scripts.pretrained.options import ModelRequest
from scripts.pretrained.source import open_model
from tests.support.samples import MakeModel


def errors_of(examination: Examination) -> list[str]:
    """Return the findings that keep a model from being packed."""
    return [finding.message for finding in examination.findings if finding.level == "error"]


def notes_of(examination: Examination) -> str:
    """Return the other findings."""
    return "\n".join(finding.message for finding in examination.findings if finding.level == "note")


def pack(folder: Path, store: Path) -> str | None:
    """Pack a folder as scripts/package.py does; return the line of its refusal, None where it packs."""
    try:
        with open_model(ModelRequest(str(folder))) as source:
            build(ArchiveContents(source.folder, "examined", "1.0", ModelConfig(), provenance=source.provenance), store)
    except (ScriptError, ServingError) as error:
        return str(error)
    return None


def edit(folder: Path, file: str = "config.json", **settings: Any) -> None:
    """Change keys of a JSON file of a folder."""
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a folder."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def truncate(file: Path) -> None:
    """Cut a file short."""
    file.write_bytes(file.read_bytes()[:-1000])


def pickle_weights(folder: Path) -> None:
    """Leave the weights in a pickle alone."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no config": lambda f: (f / "config.json").unlink(),
    "torn config": lambda f: (f / "config.json").write_text("{"),
    "a pointer": lambda f: (f / "config.json").write_text("version https://git-lfs.github.com/spec/v1\n"),
    "no model type": lambda f: edit(f, model_type=None),
    "labels that disagree": lambda f: edit(f, label2id={"no": 0, "yes": 1, "maybe": 2, "perhaps": 3}),
    "an unknown problem": lambda f: edit(f, problem_type="multi"),
    "a number as text": lambda f: edit(f, hidden_size="32"),
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "pickled weights": pickle_weights,
    "torn weights": lambda f: truncate(f / "model.safetensors"),
    "no head": lambda f: edit_weights(f, lambda t: t.pop("classifier.bias")),
    "another shape": lambda f: edit(f, intermediate_size=48),
    "NaN": lambda f: edit_weights(f, lambda t: t["classifier.weight"].fill_(float("nan"))),
    "no tokenizer": lambda f: (f / "tokenizer.json").unlink(),
    "torn tokenizer": lambda f: (f / "tokenizer.json").write_text("{"),
    "more tokens than embeddings": lambda f: edit(f, vocab_size=20000),
    "a head of no class": lambda f: edit(f, architectures=["BertModel"]),
    "an adapter of nobody": lambda f: (f / "adapter_config.json").write_text("{}"),
    "modules of its own": lambda f: (f / "modules.json").write_text('[{"type": "mine.Module", "path": ""}]'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_refused_is_refused_by_the_same_line(damage: str, model_folder: Path, tmp_path: Path) -> None:
    """The packer's line is among the findings; the folder stays as it is."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    DAMAGES[damage](folder)
    before = sorted(folder.rglob("*"))
    examination = examine_model(ModelRequest(str(folder)), ModelConfig())
    refusal = pack(folder, tmp_path)
    assert refusal is not None
    assert "\n" not in refusal
    assert refusal in errors_of(examination)
    assert not examination.is_sound
    assert sorted(folder.rglob("*")) == before


def test_what_is_called_packable_packs(make_model: MakeModel, tmp_path: Path) -> None:
    """Heads of several kinds, and a folder of sentence-transformers; facts are those of the folder."""
    entities = make_model(architecture=BertForTokenClassification, labels=("O", "B-PER", "I-PER"))
    reranker = make_model(labels=("LABEL_0",), problem_type=None)
    edit(reranker, sentence_transformers={"activation_fn": "torch.nn.modules.activation.Sigmoid"})
    encoder = modules.Transformer(str(make_model(architecture=BertModel)), max_seq_length=64)
    sentences = SentenceTransformer(
        modules=[encoder, modules.Pooling(32, "cls"), modules.Normalize()], prompts={"query": "q: "}, device="cpu"
    )
    sentences.save(str(tmp_path / "sentences"), create_model_card=False)
    found = {}
    for folder in (entities, reranker, tmp_path / "sentences"):
        examination = examine_model(ModelRequest(str(folder)), ModelConfig())
        assert errors_of(examination) == []
        assert pack(folder, tmp_path) is None
        found[folder] = examination
    sections = found[entities].sections
    assert sections["architecture"]["labels"] == ["O", "B-PER", "I-PER"]
    assert sections["served"]["task"] == "token-classification"
    assert sections["served"]["engine"] == "unpadded, by the kernels of this package"
    assert sections["weights"]["parameters"] == sum(
        tensor.numel() for tensor in load_file(entities / "model.safetensors").values()
    )
    assert found[reranker].sections["sentence-transformers"] == {"kind": "CrossEncoder", "activation": "sigmoid"}
    assert "the labels have no names" in notes_of(found[reranker])
    sections = found[tmp_path / "sentences"].sections
    assert sections["sentence-transformers"]["pooling"] == ["cls"]
    assert sections["sentence-transformers"]["prompts"] == {"document": "", "query": "q: "}
    assert sections["tokenizer"]["max_length"] == 64
    assert "texts are read to 64 tokens" in notes_of(found[tmp_path / "sentences"])


def test_a_class_of_another_family_is_noted(
    make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model_type counts, as in transformers; packing says it, too. Weights of the named family are refused."""
    folder = make_model()
    edit(folder, architectures=["RobertaForSequenceClassification"])
    note = (
        "names RobertaForSequenceClassification, a class of the family roberta, and the model_type bert, which counts"
    )
    examination = examine_model(ModelRequest(str(folder)), ModelConfig())
    assert errors_of(examination) == []
    assert note in notes_of(examination)
    assert pack(folder, tmp_path) is None
    assert f"note: config.json {note}" in capsys.readouterr().err
    edit(folder, model_type="roberta", architectures=["BertForSequenceClassification"])
    assert pack(folder, tmp_path) is not None


def test_pickles_that_are_converted_are_not_left_out(make_model: MakeModel) -> None:
    """Nothing says that nothing reads them."""
    folder = make_model()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    examination = examine_model(ModelRequest(str(folder), convert_pickle=True), ModelConfig())
    assert errors_of(examination) == []
    assert "pytorch_model.bin" not in notes_of(examination)


def test_a_folder_of_models_is_refused_by_their_names(model_folder: Path, tmp_path: Path) -> None:
    """The output of a Trainer that did not save its model, and adapters that peft saved by their names."""
    shutil.copytree(model_folder, tmp_path / "runs" / "checkpoint-500")
    (tmp_path / "runs" / "mine").mkdir()
    (tmp_path / "runs" / "mine" / "adapter_config.json").write_text("{}")
    refusal = f"model {tmp_path / 'runs'}: no config.json, but folders that have one: give one of checkpoint-500, mine"
    assert pack(tmp_path / "runs", tmp_path) == refusal
    assert errors_of(examine_model(ModelRequest(str(tmp_path / "runs")), ModelConfig())) == [refusal]


def test_all_is_said_at_once(model_folder: Path, tmp_path: Path) -> None:
    """Config, modules, tokenizer and weights are each wrong: a line for each."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    (folder / "tokenizer.json").write_text("{")
    (folder / "modules.json").write_text("{}")
    edit_weights(folder, lambda tensors: tensors["classifier.weight"].fill_(float("nan")))
    (folder / "train.py").touch()
    examination = examine_model(ModelRequest(str(folder)), ModelConfig())
    errors = "\n".join(errors_of(examination))
    assert "modules.json must hold a list" in errors
    assert "okenizer" in errors
    assert "NaN or infinity in classifier.weight" in errors
    assert "not packed, for nothing reads them: train.py" in notes_of(examination)


def test_an_archive_says_where_it_comes_from_and_is_tried(mar: Path, tmp_path: Path) -> None:
    """Provenance, settings and the self-test, which runs; a changed file is named."""
    examination = examine_archive(mar)
    sections = examination.sections
    assert errors_of(examination) == []
    assert (sections["archive"]["name"], sections["archive"]["task"]) == ("tiny", "text-classification")
    assert sections["self-test"]["inputs"]["golden.json"] > 0
    assert sections["self-test"]["result"].startswith("passed here in ")
    assert sections["provenance"] == {"origins": [], "steps": []}
    damaged = tmp_path / "damaged.mar"
    with zipfile.ZipFile(mar) as source, zipfile.ZipFile(damaged, "w") as target:
        for name in source.namelist():
            target.writestr(name, b"{}" if name == "model/config.json" else source.read(name))
    assert errors_of(examine_archive(damaged)) == [
        "model/config.json is not the file that was packed (SHA-256 differs): pack again"
    ]
    damaged.write_bytes(mar.read_bytes()[:1000])
    assert "no whole archive" in errors_of(examine_archive(damaged))[0]


def test_the_command(
    model_folder: Path, mar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 0 or 1, a page for a person or JSON for a program."""

    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["examine.py", *map(str, words)])
        status = examine.main()
        return status, capsys.readouterr().out

    status, page = call(model_folder)
    assert status == 0
    for words in ("BertForSequenceClassification", "anger, joy, fear, calm", "unpadded", "can be packed"):
        assert words in page
    status, document = call(model_folder, "--json")
    assert (status, loads(document)["packable"]) == (0, True)
    status, page = call(mar)
    assert status == 0
    assert "sound: it answers here as when it was packed" in page
    status, document = call(tmp_path / "none", "--json")
    value = loads(document)
    assert (status, value["packable"]) == (1, False)
    assert value["findings"][0]["message"].endswith("no such folder, and no id of the hub either (ORG/NAME)")
    status, page = call(model_folder, "--task", "translation")
    assert status == 1
    assert "handler.task is translation" in " ".join(page.split())
    assert "cannot be packed: 1 reason above" in page
