"""A whole training beside one by transformers' own Trainer: the same examples, settings and order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from scripts.training import checkpoint as checkpoints
from scripts.training import loop
from scripts.training.settings import TrainingSettings, parse
from scripts.training.splits import read
from tests.support.animals import ANIMALS, VOCABULARY, labelled, sentences
from tests.support.training import Row, fit, tiny, write

pytestmark = pytest.mark.slow

N_TRAIN, N_VALIDATION, EPOCHS = 200, 60, 3


def rows(problem: str, n: int, seed: int) -> list[Row]:
    """Return examples about animals for a problem."""
    if problem == "single":
        return labelled(n, seed)
    if problem == "regression":
        return [{"text": text, "label": len(text.split()) / 9} for text, _ in sentences(n, seed)]
    if problem == "multi":
        return [
            {"text": text, "label": [animal, "long"][: 1 + (len(text) > 30)]} for text, animal in sentences(n, seed)
        ]
    tags = {verb: f"B-{animal}" for animal, verbs in ANIMALS.items() for verb in verbs.split()}
    tokens = [text.split() for text, _ in sentences(n, seed)]
    return [{"tokens": words, "tags": [tags.get(word, "O") for word in words]} for words in tokens]


class SameOrder(transformers.TrainerCallback):
    """Draw the order of each epoch from a seed of its own: the two trainings draw other numbers for dropout."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        transformers.set_seed(100 * args.seed + round(state.epoch))


@pytest.fixture(autouse=True)
def same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every Trainer read the examples in the same order."""
    callbacks = [transformers.trainer_callback.DefaultFlowCallback, SameOrder]
    monkeypatch.setattr(transformers.trainer, "DEFAULT_CALLBACKS", callbacks)


def base_model(folder: Path, dropout: float) -> Path:
    """Write a tiny BERT with this probability of dropout."""
    tiny(folder, VOCABULARY)
    config = json.loads((folder / "config.json").read_text())
    config |= dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"), dropout)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def options(folder: Path, base: Path, problem: str, seed: int) -> list[str]:
    """Write the data, and return the options of a training in fp32."""
    files = {
        name: write(folder / f"{name}.jsonl", rows(problem, n, number))
        for number, (name, n) in enumerate({"train": N_TRAIN, "validation": N_VALIDATION}.items())
    }
    words = ("--train", files["train"], "--validation", files["validation"], "--problem", problem)
    return [str(word) for word in (*words, "--model", base, "--epochs", EPOCHS, "--seed", seed, "--metric", "loss")]


def by_transformers(output: Path, words: list[str]) -> list[tuple[float, float]]:
    """Train by transformers' Trainer, its layers and PyTorch's AdamW; return the losses of each epoch."""
    common = ["--output", str(output), "--precision", "fp32", "--batch-size", "8", "--learning-rate", "4e-3"]
    settings: TrainingSettings = parse([*words, *common], "")
    splits = read(settings)
    settings.choose_metric(splits.task)
    checkpoint = checkpoints.load(settings, splits.task)
    loop.resolve_settings(settings, splits, checkpoint)
    data = loop.encode_data(settings, splits, checkpoint.tokenizer)
    trainer: Any = loop.SequentialEvalTrainer(  # a loss of tokens depends on which texts are in a batch
        model=checkpoint.model,
        args=loop.arguments(settings, splits.task, len(data.train.features), is_trial=True),
        train_dataset=data.train.features,
        eval_dataset=data.validation.features,
        processing_class=checkpoint.tokenizer,
        data_collator=splits.task.collator(checkpoint.tokenizer, settings.limits),
    )
    trainer.train()
    entries = trainer.state.log_history
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    return list(zip(losses, [entry["eval_loss"] for entry in entries if "eval_loss" in entry], strict=True))


def here(base: Path, output: Path, words: list[str]) -> list[tuple[float, float]]:
    """Train by this repository; return the losses of each epoch."""
    return [(epoch["loss"], epoch["validation_loss"]) for epoch in fit(base, output, *words)["epochs"]]


@pytest.mark.parametrize("problem", ["single", "multi", "regression", "entities"])
def test_without_dropout_the_losses_are_the_same(problem: str, tmp_path: Path) -> None:
    words = options(tmp_path, base_model(tmp_path / "base", 0.0), problem, seed=0)
    own, other = here(tmp_path / "base", tmp_path / "own", words), by_transformers(tmp_path / "other", words)
    assert np.allclose(own, other, rtol=1e-3)


def test_with_dropout_the_losses_are_the_same_in_the_mean_of_three_seeds(tmp_path: Path) -> None:
    base, curves = base_model(tmp_path / "base", 0.1), []
    for seed in range(3):
        words = options(tmp_path, base, "single", seed)
        curves.append((here(base, tmp_path / f"own{seed}", words), by_transformers(tmp_path / f"other{seed}", words)))
    own, other = np.array(curves).swapaxes(0, 1)  # (seeds, epochs, 2)
    spread = np.maximum(own.std(0, ddof=1), other.std(0, ddof=1))
    assert (np.abs(own.mean(0) - other.mean(0)) < 2 * spread).all()
