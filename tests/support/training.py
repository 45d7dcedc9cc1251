"""Helpers for the tests of training: a tiny BERT, files of rows, and a training in this process."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from scripts import train
from scripts.cli.console import ScriptError

Row = dict[str, Any]

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tiny(folder: Path, words: Sequence[str], max_length: int = 40) -> Path:
    """Write a random BERT of 2 layers and width 32 with a vocabulary of whole words."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *words])}
    transformers.BertTokenizer(vocab=vocabulary, model_max_length=max_length).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=max_length,
        initializer_range=0.1,
    )
    transformers.AutoModel.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    return folder


def write(path: Path, rows: Sequence[Row]) -> Path:
    """Write rows in the format of the file name's suffix."""
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
        return path
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


def fit(base: Path, output: Path, *options: object) -> Row:
    """Train in this process and return training.json.

    One thread: a model this small is slower with two, and many times slower where another process wants the second.
    """
    common = ("--model", base, "--output", output, "--precision", "fp32", "--batch-size", 8, "--learning-rate", 4e-3)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train.main([str(option) for option in (*common, *options)])
    finally:
        torch.set_num_threads(before)
    record: Row = json.loads((output / "training.json").read_text())
    return record


def refusal(base: Path, folder: Path, name: str, content: str, *options: object) -> str:
    """Train on a file with such content, which must be refused before anything is written; return the message."""
    (folder / name).write_text(content)
    with pytest.raises(ScriptError) as refused:
        fit(base, folder / "out", "--train", folder / name, *options)
    assert "\n" not in str(refused.value)
    assert not (folder / "out").exists()
    return str(refused.value)


class Interruption(transformers.TrainerCallback):
    """Press Ctrl-C in the middle of an epoch."""

    epoch = 3

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.epoch > self.epoch - 0.5:
            raise KeyboardInterrupt


def fit_interrupted(base: Path, output: Path, *options: object, epoch: int = 3) -> None:
    """Train until the middle of an epoch."""
    callback = type("InterruptionThen", (Interruption,), {"epoch": epoch})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            transformers.trainer, "DEFAULT_CALLBACKS", [transformers.trainer_callback.DefaultFlowCallback, callback]
        )
        with pytest.raises(KeyboardInterrupt):
            fit(base, output, *options)


def weights(output: Path) -> str:
    """Return the hash of the trained weights."""
    return hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest()
