"""Fine-tuning: real trainings of a tiny BERT on sentences written here."""

from __future__ import annotations

import doctest
import fcntl
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from handler.config import ModelConfig
from scripts.archives.build import ArchiveContents, build
from scripts.cli.console import ROOT, ScriptError
from scripts.readers import hub, tables
from scripts.readers.formats import TABLES
from scripts.training import splits, tasks
from scripts.training.tasks.base import Examples
from scripts.training.tasks.classification import LabelledText, SingleLabelClassification
from tests.support.animals import ANIMALS, VOCABULARY, labelled, sentences
from tests.support.training import Row, fit, fit_interrupted, refusal, tiny, weights, write

pytestmark = pytest.mark.slow

MODULES = [path for part in ("readers", "training") for path in sorted((ROOT / "scripts" / part).rglob("*.py"))]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of 2 layers and width 32 with a vocabulary of whole words."""
    return tiny(tmp_path_factory.mktemp("models") / "base", VOCABULARY)


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.csv, validation.csv and test.csv."""
    folder = tmp_path_factory.mktemp("animals")
    for seed, (name, n) in enumerate({"train": 96, "validation": 30, "test": 30}.items()):
        write(folder / f"{name}.csv", labelled(n, seed))
    return folder


@pytest.fixture(scope="module")
def trained(base: Path, animals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted training of eight epochs, with its checkpoints."""
    output = tmp_path_factory.mktemp("trained") / "animals"
    data = ("--train", animals / "train.csv", "--validation", animals / "validation.csv")
    fit(base, output, *data, "--test", animals / "test.csv", "--epochs", 8, "--keep-checkpoints")
    return output


def answers(output: Path, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
    """Return the logits of a trained model, loaded as any user would."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(output)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(output).eval()
    with torch.inference_mode():
        logits: np.ndarray = model(**tokenizer(list(texts), pairs, padding=True, return_tensors="pt")).logits.numpy()
    return logits


# --- what comes out ------------------------------------------------------------------------------------------------


def test_single_label_learns_and_says_what_it_is(trained: Path, animals: Path, base: Path) -> None:
    config = json.loads((trained / "config.json").read_text())
    assert config["id2label"] == {"0": "bird", "1": "cat", "2": "dog"}
    assert config["problem_type"] == "single_label_classification"
    record = json.loads((trained / "training.json").read_text())
    assert record["base_model"]["sha256"]["model.safetensors"] == weights(base)
    assert record["data"]["train"]["sha256"] == hashlib.sha256((animals / "train.csv").read_bytes()).hexdigest()
    assert record["data"]["train"]["labels"] == {"bird": 32, "cat": 32, "dog": 32}
    assert record["data"]["validation"]["rows"] == 30
    assert len(record["epochs"]) == 8
    assert record["parameters"]["learning_rate"] == 4e-3
    assert not {"lora_rank", "lora_dropout", "search_over"} & record["parameters"].keys()
    assert record["versions"]["transformers"] == transformers.__version__
    rows = labelled(30, 2)
    predicted = [config["id2label"][str(index)] for index in answers(trained, [row["text"] for row in rows]).argmax(-1)]
    accuracy = np.mean([label == row["label"] for label, row in zip(predicted, rows, strict=True)])
    assert accuracy == pytest.approx(record["test"]["accuracy"])
    assert accuracy > 0.9  # eight seeds reach it; a third is chance


def test_the_best_epoch_is_kept(trained: Path) -> None:
    record = json.loads((trained / "training.json").read_text())
    best = max(record["epochs"], key=lambda epoch: epoch["macro_f1"])
    assert record["best_epoch"] == best["epoch"]
    assert record["validation"]["macro_f1"] == best["macro_f1"]
    kept = load_file(trained / "checkpoints" / f"checkpoint-{best['step']}" / "model.safetensors")
    final = load_file(trained / "model.safetensors")
    assert all(torch.equal(final[name], tensor) for name, tensor in kept.items())


def test_the_folder_can_be_packed_as_it_is(base: Path, animals: Path, tmp_path: Path) -> None:
    fit(base, tmp_path / "out", "--train", animals / "train.csv", "--epochs", 1)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    model = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert names == model | {"training.json", "training.png"}
    tokenizer = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    assert (tokenizer["truncation"], tokenizer["padding"]) == (None, None)
    assert (tmp_path / "out" / "model.safetensors").stat().st_mode & 0o044
    for path in (tmp_path / "out").glob("*.json"):
        assert not {folder for folder in (tmp_path, base.parent, animals, ROOT) if str(folder) in path.read_text()}


def test_the_same_seed_gives_the_same_model(trained: Path, base: Path, animals: Path, tmp_path: Path) -> None:
    data = ("--train", animals / "train.csv", "--validation", animals / "validation.csv", "--epochs", 8)
    fit(base, tmp_path / "same", *data)
    fit(base, tmp_path / "other", *data, "--seed", 1)
    assert weights(tmp_path / "same") == weights(trained)
    assert weights(tmp_path / "other") != weights(trained)


def test_resuming_after_the_last_epoch_gives_the_same_model(
    trained: Path, base: Path, animals: Path, tmp_path: Path
) -> None:
    output = tmp_path / "resumed"
    shutil.copytree(trained / "checkpoints", output / "checkpoints")
    for state in output.glob("checkpoints/checkpoint-*/trainer_state.json"):  # as if the folder had moved
        state.write_text(state.read_text().replace(str(trained), "/nowhere"))
    data = ("--train", animals / "train.csv", "--validation", animals / "validation.csv", "--epochs", 8)
    fit(base, output, *data, "--resume")
    assert weights(output) == weights(trained)


def test_an_interrupted_training_goes_on(trained: Path, base: Path, animals: Path, tmp_path: Path) -> None:
    output = tmp_path / "interrupted"
    data = ("--train", animals / "train.csv", "--validation", animals / "validation.csv", "--epochs", 8)
    fit_interrupted(base, output, *data)
    assert not (output / "training.json").exists()
    with pytest.raises(ScriptError, match="--resume goes on, --overwrite starts anew"):
        fit(base, output, *data)
    with pytest.raises(ScriptError, match="cannot resume, these parameters changed: seed"):
        fit(base, output, *data, "--resume", "--seed", 7)
    for step, content in ((998, '{"epoch": '), (999, None)):  # checkpoints that were cut short
        (folder := output / "checkpoints" / f"checkpoint-{step}").mkdir()
        if content is not None:
            (folder / "trainer_state.json").write_text(content)
    record = fit(base, output, *data, "--resume")
    assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert weights(output) == weights(trained)
    with pytest.raises(ScriptError, match="this training is finished"):
        fit(base, output, *data, "--resume")


@pytest.mark.parametrize(
    ("size", "reason"),
    [(0.5, r"File too large \(os error 27\)"), (1.5, "a file is shorter than it should be")],
    ids=["model", "optimizer"],
)
def test_a_full_disk_is_named(
    size: float, reason: str, trained: Path, base: Path, animals: Path, tmp_path: Path
) -> None:
    """A limit for the size of files stands for the disk: as large as that part of the model."""
    output, limits = tmp_path / "full", resource.getrlimit(resource.RLIMIT_FSIZE)
    data = ("--train", animals / "train.csv", "--validation", animals / "validation.csv", "--epochs", 8)
    limit = int(size * (trained / "model.safetensors").stat().st_size)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(ScriptError, match=rf"full: {reason}; .* GB are free: make room, and .* --resume goes on"):
            fit(base, output, *data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    fit(base, output, *data, "--resume")
    assert weights(output) == weights(trained)


def test_two_processes_never_train_in_one_folder(base: Path, animals: Path, tmp_path: Path) -> None:
    """What is unfinished is refused by the packer; what another process writes to, by training."""
    data = ("--train", animals / "train.csv", "--validation", animals / "validation.csv", "--epochs", 2)
    fit_interrupted(base, tmp_path / "out", *data, epoch=2)
    with pytest.raises(ScriptError, match="its training is not finished"):
        build(ArchiveContents(tmp_path / "out", "out", "1.0", ModelConfig.read(ROOT / "model-config.yaml")), tmp_path)
    descriptor = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    for option in ("--resume", "--overwrite"):
        with pytest.raises(ScriptError, match="another training writes to it"):
            fit(base, tmp_path / "out", *data, option)
    os.close(descriptor)
    fit(base, tmp_path / "out", *data, "--overwrite")


@pytest.mark.parametrize(
    ("target", "rate", "reason"),
    [
        ("label", 1e20, "the model's (outputs|weights) are (not|no longer) numbers"),  # the last of the steps diverges
        ("label", 1e38, "not numbers|no longer numbers|no longer a number"),
        ("score", 1e20, "not numbers|no longer numbers|no longer a number"),
    ],
)
def test_a_model_that_diverged_is_not_saved(target: str, rate: float, reason: str, base: Path, tmp_path: Path) -> None:
    """Logits that are NaN have label 0 as their best, so accuracy alone would look sound."""
    rows = [{"text": text, "label": animal, "score": len(text) + 0.5} for text, animal in sentences(16)]
    data = ("--train", write(tmp_path / "train.csv", rows), "--label-column", target, "--batch-size", 16)
    options = ("--learning-rate", rate, "--epochs", 1, "--warmup-ratio", 0, "--validation-split", 0.3)
    with pytest.raises(ScriptError, match=f"({reason}): lower --learning-rate, or take --precision fp32"):
        fit(base, tmp_path / "out", *data, *options)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert not (tmp_path / "out" / "training.json").exists()


def test_a_base_model_with_nan_is_refused(base: Path, animals: Path, tmp_path: Path) -> None:
    """No learning rate helps, which is what a loss that is no number would advise."""
    shutil.copytree(base, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["encoder.layer.1.output.dense.bias"][3] = float("nan")
    save_file(tensors, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ScriptError, match=r"encoder\.layer\.1\.output\.dense\.bias holds values that are not numbers"):
        fit(tmp_path / "base", tmp_path / "out", "--train", animals / "train.csv")
    assert not (tmp_path / "out").exists()


def test_texts_without_a_token(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """BERT's normaliser deletes private-use characters: no token is left of some texts that a person can see."""
    rows = [{**row, "text": f"{row['text']} {number}"} for number, row in enumerate(labelled(24))]
    rows.append({"text": "\ue000 \ue001", "label": "cat"})
    validation = write(tmp_path / "validation.csv", [{"text": "a cat", "label": "cat"}])
    data = ("--train", write(tmp_path / "train.csv", rows), "--validation", validation, "--epochs", 1)
    with pytest.raises(ScriptError, match=r"--strict: train\.csv: 1 of 25 inputs have no token but special ones"):
        fit(base, tmp_path / "strict", *data, "--strict")
    fit(base, tmp_path / "out", *data)
    assert "train.csv: 1 of 25 inputs have no token but special ones" in capsys.readouterr().err


def test_early_stopping(base: Path, animals: Path, tmp_path: Path) -> None:
    options = ("--epochs", 9, "--early-stopping", 2, "--learning-rate", 1e-9)
    record = fit(base, tmp_path / "out", "--train", animals / "train.csv", *options)
    assert len(record["epochs"]) == record["best_epoch"] + 2


# --- problems and forms of data ------------------------------------------------------------------------------------


def test_multi_label_by_columns_and_by_list(base: Path, tmp_path: Path) -> None:
    rows: list[Row] = []
    for (left, first), (right, second) in zip(sentences(150), [*sentences(150, 5)[1:], sentences(1)[0]], strict=True):
        kinds = {first, second} if len(rows) % 3 else {first}
        text = f"{left} {right}" if len(rows) % 3 else left
        flags = {animal: int(animal in kinds) for animal in sorted(ANIMALS)}
        rows.append({"text": text, **flags, "label": "; ".join(sorted(kinds))})
    file = write(tmp_path / "train.csv", rows)
    common = ("--train", file, "--epochs", 8, "--validation-split", 0.2)
    columns = fit(base, tmp_path / "columns", *common, "--label-columns", "bird,cat,dog")
    listed = fit(base, tmp_path / "list", *common, "--label-separator", ";")
    assert columns["problem_type"] == "multi_label_classification"
    assert columns["validation"]["micro_f1"] > 0.8
    assert 0 < columns["validation"]["subset_accuracy"] <= 1
    assert weights(tmp_path / "columns") == weights(tmp_path / "list")
    assert columns["data"]["train"]["labels"] == listed["data"]["train"]["labels"]


def test_regression(base: Path, tmp_path: Path) -> None:
    value = {"cat": 0.5, "dog": -0.5, "bird": 0.0}
    rows = [{"text": text, "score": value[animal]} for text, animal in sentences(90)]
    file = write(tmp_path / "train.tsv", rows)
    record = fit(base, tmp_path / "out", "--train", file, "--label-column", "score", "--epochs", 6)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["problem_type"], config["id2label"]) == ("regression", {"0": "score"})
    assert record["best_epoch"] == min(record["epochs"], key=lambda epoch: epoch["mse"])["epoch"]
    assert record["validation"]["pearson"] > 0.8
    assert record["validation"]["spearman"] > 0.6


def test_pairs(base: Path, tmp_path: Path) -> None:
    generator = random.Random(0)  # noqa: S311 sentences, not secrets
    rows: list[Row] = []
    for text, animal in sentences(90):
        other = generator.choice([text for text, kind in sentences(30, 9) if (kind == animal) == (len(rows) % 2 == 0)])
        rows.append({"premise": text, "hypothesis": other, "label": "same" if len(rows) % 2 == 0 else "different"})
    file = write(tmp_path / "train.jsonl", rows)
    fit(
        base,
        tmp_path / "out",
        "--train",
        file,
        "--text-column",
        "premise",
        "--pair-column",
        "hypothesis",
        "--epochs",
        1,
    )
    alone = answers(tmp_path / "out", ["the cat"])
    assert not np.allclose(alone, answers(tmp_path / "out", ["the cat"], ["a dog barks"]), atol=1e-4)


def test_every_form_holds_the_same_examples(tmp_path: Path) -> None:
    rows = [{"text": 'he said "no", twice', "label": "a"}, {"text": "naïve 🙂 café", "label": "b"}]
    forms = [tables.read(write(tmp_path / f"data{end}", rows), TABLES) for end in TABLES]
    texts = [[row.text for row in SingleLabelClassification.from_table(t, COLUMNS).examples(t).rows] for t in forms]
    assert all(form == texts[0] for form in texts)
    assert texts[0] == [row["text"] for row in rows]


COLUMNS = tables.ColumnMapping("text", None, ("label",))


def test_a_hub_dataset_in_a_local_folder(
    base: Path, animals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    record = fit(base, tmp_path / "out", "--dataset", animals, "--epochs", 1)
    assert record["data"]["train"]["rows"] == 96
    assert record["data"]["train"]["name"] == f"{animals.name}[train]"
    assert record["test"] is not None


def test_holding_out_keeps_the_mix_of_labels() -> None:
    targets = [*[0] * 50, *[1] * 30, *[2] * 19, 3]
    rows = [LabelledText(str(index), None, target) for index, target in enumerate(targets)]
    task, examples = SingleLabelClassification("abcd", COLUMNS), Examples("x", "", rows)
    kept, held = splits.split(task, examples, 0.2, seed=3)
    assert sorted([*kept.rows, *held.rows], key=lambda row: int(row.text)) == rows
    counts = [[row.target for row in held.rows].count(label) for label in range(4)]
    assert all(abs(count - 0.2 * n) <= 1 for count, n in zip(counts, (50, 30, 19, 1), strict=True))
    assert counts[3] == 0
    assert held == splits.split(task, examples, 0.2, seed=3)[1]


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["a", "b"], "single"),
        (["0", "1"], "single"),
        ([1, 2], "single"),
        ([0.5, 1], "regression"),
        ([0.5, "nan"], "regression"),
        ([0.5, "high"], "single"),
        ([["a"], []], "multi"),
    ],
)
def test_the_problem_is_guessed(labels: list[object], kind: str, tmp_path: Path) -> None:
    table = tables.read(write(tmp_path / "data.jsonl", [{"text": "x", "label": label} for label in labels]), TABLES)
    assert tasks.guess(table, COLUMNS) == kind


# --- what is refused -----------------------------------------------------------------------------------------------


SECRET = "my secret is 12345"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("text,intent\nx,a\ny,b\n", (), "columns are text, intent: choose with --label-column"),
        ("body,label\nx,a\ny,b\n", (), "no column text; its columns are body, label: choose with --text-column"),
        (f"text,label\n{SECRET},a\n ,b\n", (), "train.csv row 3, column text: the text is empty"),
        (f"text,label\n{SECRET},a\n{SECRET},\n", (), "train.csv row 3, column label: the label is missing"),
        (f"text,label\n{SECRET},a\n{SECRET},a\n", (), "column label: 1 different label, at least 2 are needed"),
        (f"text,label\n{SECRET},a\n{SECRET},b,c\n", (), "train.csv row 3: 3 cells, but the header has 2"),
        (f'text,label\n"{SECRET},a\nx,b\n', (), "train.csv row 2: unexpected end of data"),
        ("text,label\n", (), "train.csv: no rows"),
        ("text,label,label\nx,a,b\n", (), "train.csv: column label appears twice"),
        ("", (), "train.csv: no"),
        (
            f"text,label\n{SECRET},0.5\n{SECRET},high\n",
            ("--problem", "regression"),
            "row 3, column label: the target of",
        ),
        (
            f"text,label\n{SECRET},0.5\n{SECRET},nan\n",
            ("--problem", "regression"),
            "row 3, column label: the target of",
        ),
        (
            f"text,a,b\n{SECRET},0,1\n{SECRET},2,0\n",
            ("--label-columns", "a,b"),
            "row 3, column a: a column of one label",
        ),
        (
            f"text,label\n{SECRET},a\n{SECRET},b\n",
            (),
            "train.csv: no label has two examples to hold one out: give --val",
        ),
        (
            f"text,label\n{SECRET},a\n{SECRET},b\n" + "x,a\ny,b\n",
            (),
            "train.csv: too few texts (4) to hold out 10% of them",
        ),
        (f"text,label\n{SECRET},0.5\n{SECRET},nan\n", (), "row 3, column label: the target of a regression must be"),
        (f"text,a,b\n{SECRET},0,1\nx,1,0\n", ("--label-columns", "a,b,a"), "column a is chosen twice"),
        (f"text,label\n{SECRET},a\nx,b\n", ("--text-column", "label"), "column label is chosen twice"),
        (f"text,label\n{SECRET},a\n{SECRET},b\n", ("--pair-column", "other"), "no column other"),
    ],
)
def test_bad_data(content: str, options: tuple[str, ...], message: str, base: Path, tmp_path: Path) -> None:
    error = refusal(base, tmp_path, "train.csv", content, *options)
    assert message in error
    assert "secret" not in error


def test_a_withheld_test_split_is_not_reported() -> None:
    import datasets

    kinds = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [1, -1]}, features=kinds)
    table = hub.to_table("glue[test]", rows)
    assert [record["label"] for _, record in table.rows] == ["yes", None]
    assert table.has_labels(COLUMNS)
    assert not hub.to_table("glue[test]", rows.select([1])).has_labels(COLUMNS)


def test_a_folder_that_is_not_there(animals: Path, tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match=r"none: no such folder, and no id of the hub"):
        fit(tmp_path / "none", tmp_path / "out", "--train", animals / "train.csv")


def test_bad_bytes_and_bad_json(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,label\n\xff,a\n")
    with pytest.raises(ScriptError, match="byte 11 is not UTF-8"):
        tables.read(tmp_path / "a.csv", TABLES)
    (tmp_path / "a.jsonl").write_text('{"text": "x", "label": "a"}\n{"text": \n')
    with pytest.raises(ScriptError, match="row 2: not a JSON object"):
        tables.read(tmp_path / "a.jsonl", TABLES)
    with pytest.raises(ScriptError, match=r"must end in one of \.csv, \.tsv, \.jsonl"):
        tables.read(tmp_path / "a.xlsx", TABLES)


def test_a_label_that_training_has_not_seen(base: Path, animals: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "validation.csv", [{"text": SECRET, "label": "cat"}, {"text": SECRET, "label": "cow"}])
    with pytest.raises(ScriptError, match=r"validation.csv row 3, column label: the label is none of the 3 "):
        fit(base, tmp_path / "out", "--train", animals / "train.csv", "--validation", file)
    alike = write(tmp_path / "alike.csv", [{"text": SECRET, "label": "Cat"}])
    with pytest.raises(ScriptError, match=r"none of the 3 of the training data: write it as there, 'cat'$"):
        fit(base, tmp_path / "out", "--train", animals / "train.csv", "--validation", alike)


def test_a_model_that_is_no_encoder(animals: Path, tmp_path: Path) -> None:
    transformers.GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=9).save_pretrained(tmp_path / "gpt")
    with pytest.raises(ScriptError, match="a gpt2 is no text encoder"):
        fit(tmp_path / "gpt", tmp_path / "out", "--train", animals / "train.csv")


ANOTHER_MODEL: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]], str]] = {
    "a layer that is missing": (
        {"num_hidden_layers": 3},
        {},
        r"the weights lack bert\.encoder\.layer\.2\..* and 13 more",
    ),
    "a table of words of another size": (
        {"vocab_size": 99},
        {},
        r"word_embeddings\.weight has the shape \(\d+, 32\) in the weights, but \(99, 32\) by config\.json",
    ),
    "fewer positions": ({"max_position_embeddings": 50}, {}, r"position_embeddings\.weight has the shape \(40, 32\)"),
    "a CRF": ({}, {"crf.transitions": (4, 4)}, r"hold crf\.transitions, which BertForSequenceClassification does not"),
    "relative positions": ({"position_embedding_type": "relative_key"}, {}, "which transformers 5 no longer computes"),
    "a number in quotes": ({"hidden_size": "32"}, {}, 'has hidden_size "32": write 32'),
    "an unknown activation": ({"hidden_act": "gelux"}, {}, "has hidden_act 'gelux', which transformers does not know"),
}


@pytest.mark.parametrize("case", ANOTHER_MODEL)
def test_weights_and_config_that_do_not_fit(case: str, base: Path, animals: Path, tmp_path: Path) -> None:
    """Only the head may be new: what else is missing, left over or of another size is named."""
    settings, tensors, message = ANOTHER_MODEL[case]
    folder = Path(shutil.copytree(base, tmp_path / "bad"))
    config = json.loads((base / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    weights = load_file(folder / "model.safetensors") | {name: torch.zeros(shape) for name, shape in tensors.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ScriptError, match=message):
        fit(folder, tmp_path / "out", "--train", animals / "train.csv")


def test_pickled_weights_are_refused(base: Path, animals: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "pickle")
    torch.save(load_file(base / "model.safetensors"), tmp_path / "pickle" / "pytorch_model.bin")
    (tmp_path / "pickle" / "model.safetensors").unlink()
    with pytest.raises(ScriptError, match="--convert-pickle converts them"):
        fit(tmp_path / "pickle", tmp_path / "out", "--train", animals / "train.csv")


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_file_without_examples(part: str, base: Path, animals: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("text,label\n")
    with pytest.raises(ScriptError, match=rf"empty\.csv: no rows: leave --{part} out"):
        fit(base, tmp_path / "out", "--train", animals / "train.csv", f"--{part}", tmp_path / "empty.csv")


def test_too_short(base: Path, animals: Path, tmp_path: Path) -> None:
    """A tokenizer with less room than its special tokens need does not truncate at all."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    assert len(tokenizer("cat dog", truncation=True, max_length=1)["input_ids"]) == 4
    data = ("--train", animals / "train.csv", "--validation", animals / "validation.csv", "--epochs", 1)
    with pytest.raises(ScriptError, match="--max-length 2: at least 3 tokens: 2 special ones, and one of the text"):
        fit(base, tmp_path / "out", *data, "--max-length", 2)
    rows = [{"text": "cat", "other": "dog", "label": label} for label in "ab" * 5]
    pairs = ("--train", write(tmp_path / "pairs.csv", rows), "--pair-column", "other")
    with pytest.raises(ScriptError, match="--max-length 4: at least 5 tokens: 3 special ones, and one of each text"):
        fit(base, tmp_path / "out", *pairs, "--max-length", 4)
    assert not (tmp_path / "out").exists()
    fit(base, tmp_path / "out", *data, "--max-length", 3)


def test_a_batch_is_no_larger_than_the_data(base: Path, animals: Path, tmp_path: Path) -> None:
    """The Trainer repeats each loss of the evaluation as often as a batch has texts, whether or not there are any."""
    data = ("--train", animals / "train.csv", "--validation", animals / "validation.csv", "--epochs", 2)
    fit(base, tmp_path / "all", *data, "--batch-size", 96)
    fit(base, tmp_path / "more", *data, "--batch-size", 2**31 - 1)
    assert weights(tmp_path / "all") == weights(tmp_path / "more")


def test_too_long(base: Path, animals: Path, tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match=r"--max-length 41: .* takes 40 tokens"):
        fit(base, tmp_path / "out", "--train", animals / "train.csv", "--max-length", 41)


def test_an_output_folder_of_someone_else(base: Path, animals: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ScriptError, match="is not empty"):
        fit(base, tmp_path, "--train", animals / "train.csv")
    with pytest.raises(ScriptError, match="replaces only what this script made"):
        fit(base, tmp_path, "--train", animals / "train.csv", "--overwrite")
    with pytest.raises(ScriptError, match="no training to resume"):
        fit(base, tmp_path, "--train", animals / "train.csv", "--resume")
    assert (tmp_path / "thesis.txt").exists()


def test_overwriting_replaces_the_model(base: Path, animals: Path, tmp_path: Path) -> None:
    fit(base, tmp_path / "out", "--train", animals / "train.csv", "--epochs", 1)
    before = weights(tmp_path / "out")
    with pytest.raises(ScriptError, match="--overwrite starts anew"):
        fit(base, tmp_path / "out", "--train", animals / "train.csv", "--epochs", 1)
    fit(base, tmp_path / "out", "--train", animals / "train.csv", "--epochs", 1, "--seed", 2, "--overwrite")
    assert weights(tmp_path / "out") != before


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstring_examples_are_true(path: Path) -> None:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    assert doctest.testmod(importlib.import_module(name)).failed == 0


# --- the command ---------------------------------------------------------------------------------------------------


def command(*options: object) -> subprocess.CompletedProcess[str]:
    """Run the script as a person does."""
    line = [sys.executable, ROOT / "scripts" / "train.py", *options]
    return subprocess.run([str(part) for part in line], capture_output=True, text=True, timeout=120, check=False)


def test_the_command_says_little_and_nothing_else(base: Path, animals: Path, tmp_path: Path) -> None:
    data = ("--train", animals / "train.csv", "--test", animals / "test.csv")
    done = command("--model", base, "--output", tmp_path / "out", *data, "--epochs", 2)
    assert done.returncode == 0
    lines = [line for line in done.stderr.splitlines() if not line.startswith("data: ")]
    assert "data: train.csv: bird 29, cat 29, dog 29" in done.stderr
    assert lines[0] == "87 texts to train, 9 to validate, 3 labels; loading the model"
    assert [line.split("  ")[0] for line in lines[1:-1]] == ["epoch 1/2", "epoch 2/2"]
    assert lines[-1] == f"saved in {tmp_path / 'out'}"
    assert done.stdout.splitlines()[-1].startswith("test accuracy ")
    assert done.stdout.splitlines()[-1].endswith("  (30 texts)")


def test_an_error_is_one_line(tmp_path: Path) -> None:
    done = command("--train", tmp_path / "none.csv", "--output", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "none.csv" in done.stderr
