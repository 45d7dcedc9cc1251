"""How a training runs: class weights, schedules, accumulated gradients, the metric that chooses, trackers, curves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

from scripts.cli.console import ROOT
from scripts.training import trackers
from scripts.training.class_weights import named
from scripts.training.curves import draw
from scripts.training.settings import SCHEDULERS, parse
from scripts.training.tasks.base import balanced, weighted_cross_entropy
from scripts.training.trackers import Trackers
from tests.support.animals import VOCABULARY, labelled
from tests.support.training import Row, fit, refusal, tiny, write

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of 2 layers and width 32, without dropout."""
    folder = tiny(tmp_path_factory.mktemp("models") / "base", VOCABULARY)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """The options of 48 texts to train and 12 to validate, of three labels."""
    folder = tmp_path_factory.mktemp("animals")
    train, validation = (write(folder / f"{n}.csv", labelled(n, seed)) for seed, n in enumerate((48, 12)))
    return ("--train", train, "--validation", validation)


# --- class weights -------------------------------------------------------------------------------------------------


def test_class_weights_save_the_rare_label(base: Path, tmp_path: Path) -> None:
    """Of 60 texts that all say the same, 54 have one label: only the weights decide which label wins."""
    rows: list[Row] = [{"text": "the cat", "label": "common" if n % 10 else "rare"} for n in range(60)]
    options = ("--train", write(tmp_path / "train.csv", rows), "--epochs", 2, "--validation-split", 0.2)
    record = fit(base, tmp_path / "weighted", *options, "--class-weights", "rare=100")
    assert record["parameters"]["class_weights"] == {"common": 1.0, "rare": 100.0}
    assert record["validation"]["accuracy"] < 0.2


def test_class_weights_of_several_labels_and_of_tags(base: Path, tmp_path: Path) -> None:
    rows: list[Row] = [
        {"text": f"the cat {n}", "label": ["a", "b"] if n % 4 == 0 else ["a"] * (n % 8 > 0)} for n in range(40)
    ]
    options = ("--epochs", 1, "--validation-split", 0.2, "--class-weights", "balanced")
    record = fit(base, tmp_path / "multi", "--train", write(tmp_path / "multi.jsonl", rows), *options)
    counts, n = record["data"]["train"]["labels"], record["data"]["train"]["rows"]
    assert record["parameters"]["class_weights"]["b"] == pytest.approx((n - counts["b"]) / counts["b"])
    lines = "\n\n".join(f"the O\ncat B-ANIMAL\n{word} O" for word in "abcdefghijklmnop")
    (tmp_path / "tags.conll").write_text(lines + "\n")
    record = fit(base, tmp_path / "tags", "--train", tmp_path / "tags.conll", *options)
    assert record["parameters"]["class_weights"] == {"O": 0.75, "B-ANIMAL": 1.5, "I-ANIMAL": 1.0}


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = ["mail"] * 7 + ["spam"] * 2 + ["news"]
    expected = compute_class_weight("balanced", classes=np.array(["mail", "news", "spam"]), y=labels)
    weights = balanced(Counter(labels))
    assert [weights[label] for label in ("mail", "news", "spam")] == pytest.approx(expected.tolist())


def test_the_weighted_loss_is_that_of_torch() -> None:
    """One label a text: torch's mean, which divides by the weights of the batch, times their mean."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 3, generator=generator), torch.tensor([0, 1, 2, 2, 2, -100])
    weights = torch.tensor([0.5, 1.0, 3.0])
    mean = torch.nn.CrossEntropyLoss(weights)(logits, labels)
    assert weighted_cross_entropy(logits, labels, weights) == pytest.approx(float(mean * weights[labels[:5]].sum()))


def test_weights_by_file(tmp_path: Path) -> None:
    (tmp_path / "weights.json").write_text('{"a=b": 2, "c,d": 0.5}')
    assert named(str(tmp_path / "weights.json")) == {"a=b": 2.0, "c,d": 0.5}
    assert named("a=b=2") == {"a=b": 2.0}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("cow=2", "--class-weights: no label is cow; the labels are cat, dog"),
        ("cat=0", "--class-weights: the weight of cat must be a number above 0"),
        ("cat=inf", "must be a number above 0"),
        ("cat=two", "must be a number above 0"),
        ("cat,dog=2", "--class-weights: a part without LABEL=: a JSON file names labels that have commas"),
        ("weights.json", "--class-weights weights.json: neither balanced, nor LABEL=WEIGHT,..., nor a file"),
    ],
)
def test_class_weights_that_mean_nothing(option: str, message: str, base: Path, tmp_path: Path) -> None:
    content = "text,label\n" + "\n".join(f"the cat {n},{'cat' if n % 2 else 'dog'}" for n in range(20))
    assert message in refusal(base, tmp_path, "train.csv", content, "--class-weights", option)


@pytest.mark.parametrize(
    ("option", "value", "needed"),
    [
        ("--lora-alpha", "8", "--peft"),
        ("--lora-dropout", "0", "--peft"),
        ("--search-over", "batch-size", "--search"),
        ("--dataset-config", "cola", "--dataset"),
    ],
)
def test_options_that_do_nothing(option: str, value: str, needed: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever forgets --peft would train all weights."""
    with pytest.raises(SystemExit):
        parse(["--train", "a.csv", "--output", "out", option, value], "")
    assert f"error: {option} does nothing without {needed}" in capsys.readouterr().err


def test_class_weights_without_classes(base: Path, tmp_path: Path) -> None:
    content = "text,label\n" + "\n".join(f"the cat {n},{n / 7}" for n in range(20))
    message = refusal(base, tmp_path, "train.csv", content, "--class-weights", "balanced")
    assert message == "--class-weights means nothing to --problem regression"


# --- steps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(), ("--class-weights", "cat=3")], ids=["plain", "weights"])
def test_accumulated_gradients_are_those_of_a_large_batch(
    base: Path, data: tuple[object, ...], tmp_path: Path, weights: tuple[str, ...]
) -> None:
    """The mean is over the texts of the step; with class weights too, where the batches' weights differ."""
    options = (*data, "--epochs", 1, *weights, "--learning-rate", 1e-3, "--scheduler", "cosine")
    large = fit(base, tmp_path / "large", *options, "--batch-size", 16)
    small = fit(base, tmp_path / "small", *options, "--batch-size", 4, "--gradient-accumulation", 4)
    assert small["epochs"][0]["step"] == large["epochs"][0]["step"] == 3
    assert small["epochs"][0]["loss"] == pytest.approx(large["epochs"][0]["loss"], rel=1e-2)
    expected, actual = (load_file(tmp_path / name / "model.safetensors") for name in ("large", "small"))
    assert all(torch.allclose(actual[name], tensor, atol=2e-4) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("scheduler", "rates"), [("constant", [1, 1, 1]), ("linear", [1, 0.5, 0]), ("cosine", [1, 0.5, 0])]
)
def test_schedules(scheduler: str, rates: list[float]) -> None:
    """The schedules of transformers by our names, the warm-up included."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = transformers.get_scheduler(SCHEDULERS[scheduler], optimizer, num_warmup_steps=2, num_training_steps=10)
    seen = []
    for _ in range(11):
        seen.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert seen[:3] == [0, 0.5, 1]
    assert seen[2::4] == pytest.approx(rates, abs=1e-9)


# --- the metric that chooses ---------------------------------------------------------------------------------------


def test_the_best_epoch_by_another_metric(
    base: Path, data: tuple[object, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--epochs", 6, "--patience", 2, "--learning-rate", 3e-2, "--scheduler", "constant")
    record = fit(base, tmp_path / "out", *data, *options, "--metric", "loss")
    best = min(record["epochs"], key=lambda epoch: epoch["validation_loss"])
    assert record["best_epoch"] == best["epoch"]
    assert len(record["epochs"]) == min(6, best["epoch"] + 2)
    chosen = [line.split()[1] for line in capsys.readouterr().err.splitlines() if "  best by validation loss" in line]
    assert chosen[-1] == f"{best['epoch']}/6"


def test_an_unknown_metric(base: Path, tmp_path: Path) -> None:
    content = "text,label\n" + "\n".join(f"the cat {n},{'cat' if n % 2 else 'dog'}" for n in range(20))
    message = refusal(base, tmp_path, "train.csv", content, "--metric", "f1")
    assert message == "--metric f1: --problem single has accuracy, macro_f1, loss"


# --- trackers and curves -------------------------------------------------------------------------------------------


def test_tensorboard_gets_settings_and_metrics_and_no_text(
    base: Path, data: tuple[object, ...], tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    output = tmp_path / "out"
    record = fit(base, output, *data, "--test", data[3], "--epochs", 2, "--report-to", "tensorboard")
    accumulator = EventAccumulator(str(output / "runs")).Reload()
    events = {tag: [event.value for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}
    for key, tag in (
        ("loss", "train/loss"),
        ("validation_loss", "validation/loss"),
        ("macro_f1", "validation/macro_f1"),
    ):
        assert events[tag] == pytest.approx([epoch[key] for epoch in record["epochs"]])
    assert events["test/accuracy"] == pytest.approx([record["test"]["accuracy"]])
    content = accumulator.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    table = metadata.parse_experiment_plugin_data(content)
    assert {info.name.tag for info in table.metric_infos} == set(events) - {"epoch"}, "the table lacks metrics"
    assert "learning_rate" in {info.name for info in table.hparam_infos}
    assert not [path for path in (output / "runs").iterdir() if path.is_dir()], "a run without metrics beside it"
    written = b"".join(path.read_bytes() for path in (output / "runs").rglob("*") if path.is_file())
    assert b"gradient_accumulation" in written
    assert not [row["text"] for row in labelled(48) if str(row["text"]).encode() in written]
    assert not [row["text"] for row in labelled(48) if str(row["text"]) in (output / "training.json").read_text()]


def test_the_curves_are_a_picture(tmp_path: Path) -> None:
    row = {"loss": 1.0, "validation_loss": 1.1, "accuracy": 0.5, "mse": 0.2}
    epochs = [{**row, "epoch": 1}, {**row, "epoch": 2, "loss": 0.5, "accuracy": 0.75}]
    draw(epochs, {"accuracy": "accuracy", "mse": "MSE"}, 2, tmp_path / "training.png")
    with Image.open(tmp_path / "training.png") as picture:
        assert picture.size == (1080, 432)
        colours = {tuple(pixel) for pixel in np.asarray(picture.convert("RGB")).reshape(-1, 3)[::7].tolist()}
    assert len(colours) > 5
    draw(epochs, {"accuracy": "accuracy", "mse": "MSE"}, 2, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "training.png").read_bytes()


def test_a_tracker_that_is_not_installed(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named before the data are read."""
    monkeypatch.setattr(trackers, "PACKAGES", {"wandb": ("no_such_package",)})
    message = refusal(base, tmp_path, "train.csv", "nonsense", "--report-to", "wandb")
    assert message.startswith("--report-to wandb: wandb is not installed: pip install wandb")
    assert (ROOT / trackers.REQUIREMENTS).is_file()


def test_a_tracker_that_fails_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    class Full:
        def log(self, values: dict[str, float], step: int) -> None:
            raise OSError("the disk is full")

    class Fine:
        logged: list[Any] = []  # noqa: RUF012 one instance

        def log(self, values: dict[str, float], step: int) -> None:
            self.logged.append((values, step))

    runs: Any = {"full": Full(), "fine": Fine()}
    opened = Trackers(runs)
    opened.log_epoch({"epoch": 1, "step": 6, "loss": 0.5, "validation_loss": 0.4, "accuracy": 1.0})
    opened.log({"test/accuracy": 1.0}, 6)
    assert capsys.readouterr().err == "full gets no more values (the disk is full); training goes on\n"
    first = {"epoch": 1, "train/loss": 0.5, "validation/loss": 0.4, "validation/accuracy": 1.0}
    assert Fine.logged == [(first, 6), ({"test/accuracy": 1.0}, 6)]


# --- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_train_one_model(base: Path, data: tuple[object, ...], tmp_path: Path) -> None:
    """As torchrun starts them: the same batches and loss as one process, said and written once."""
    options = [*data, "--epochs", 6, "--learning-rate", 4e-3, "--batch-size", 8, "--precision", "fp32"]
    alone = fit(base, tmp_path / "alone", *options)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, ROOT / "scripts" / "train.py", "--model", base, "--output", tmp_path / "both", *options]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("loading the model") == done.stderr.count("epoch 6/6") == 1
    assert done.stdout.count("validation (epoch") == 1
    both = json.loads((tmp_path / "both" / "training.json").read_text())
    assert both["parameters"] == {**alone["parameters"], "processes": 2}
    assert {path.name for path in (tmp_path / "both").iterdir()} == {
        path.name for path in (tmp_path / "alone").iterdir()
    }
    assert [epoch["step"] for epoch in both["epochs"]] == [epoch["step"] for epoch in alone["epochs"]]
    first, expected = both["epochs"][0]["loss"], alone["epochs"][0]["loss"]
    assert first == pytest.approx(expected, rel=0.3), "the loss is the mean over both processes, not their sum"
    assert both["epochs"][-1]["loss"] < 0.8 * first


@pytest.mark.parametrize(
    ("environment", "options", "reason"),
    [
        ({"WORLD_SIZE": "2"}, (), "WORLD_SIZE=2 without RANK and LOCAL_RANK"),
        ({"WORLD_SIZE": "two"}, (), "WORLD_SIZE and RANK must be numbers"),
        ({"WORLD_SIZE": "3", "RANK": "0", "LOCAL_RANK": "0"}, (), "--batch-size 8: 3 processes share each batch"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, ("--search", 2), "--search tries its settings in one"),
    ],
)
def test_processes_that_cannot_train_together(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    options: tuple[object, ...],
    reason: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert refusal(base, tmp_path, "train.csv", "text,label\na cat,cat\n", *options).startswith(reason)
