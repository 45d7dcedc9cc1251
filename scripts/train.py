#!/usr/bin/env python3
"""Fine-tune a BERT. What for, --problem says; where the data tells it, nothing needs to be said.

  scripts/train.py --train examples/intents/train.csv --validation examples/intents/validation.csv \\
      --test examples/intents/test.csv --output models/intents

  problem        data (columns are chosen by name)                  example of --train
  single         text, label: CSV, TSV, JSONL                       intents.csv
  multi          several labels a text: lists or columns of 0/1     topics.csv --label-separator ";"
  regression     text, number                                       stars.csv --label-column stars
  entailment     premise, hypothesis, label; serves zero-shot       nli.csv
  ranking        query, text, label from 0 to 1: a cross-encoder    passages.csv
  entities       CoNLL; JSONL with tokens and tags, or with         names.conll
                 text and entities (start, end, label)
  answers        SQuAD 1.1 or 2.0: JSON                             squad.json
  masked-words   plain text, a passage a line                       mails.txt --problem masked-words
  next-sentence  plain text, a sentence a line, a blank line        books.txt --problem next-sentence
                 between documents
  pretraining    the same, both objectives of BERT                  books.txt --problem pretraining

Texts of single, multi and regression may be pairs (--pair-column). Instead of files, --dataset NAME takes a dataset
from the hub. The best epoch on the validation data is kept; without such data a part of the training data is held out,
whole queries, contexts and documents of it. The output folder holds the model, its tokenizer and training.json, which
says what it was made from. While training runs it also holds checkpoints/: after an interruption the same command with
--resume goes on from the last finished epoch, to the same result.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.cli import console
from scripts.cli.console import ScriptError, say
from scripts.readers import tables
from scripts.training.settings import Settings, parse
from scripts.training.splits import Splits, read

# torch and transformers take seconds to import: `main` waits, so that --help and errors in the data come at once.
if TYPE_CHECKING:
    from scripts.training.checkpoint import Checkpoint
    from scripts.training.loop import Outcome

LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate", "datasets", "safetensors", "scikit-learn", "seqeval")


def main(argv: Sequence[str] | None = None) -> None:
    """Fine-tune from a command line."""
    started = time.monotonic()
    settings = parse(argv, __doc__ or "")
    check_output(settings)
    splits = read(settings)
    n_train, n_validation, n_labels = len(splits.train), len(splits.validation), len(splits.problem.labels)
    labels = f", {n_labels} labels" if n_labels > 1 else ""
    say(f"{n_train} {splits.problem.noun} to train, {n_validation} to validate{labels}; loading the model")
    quiet()
    from scripts.training import checkpoint as checkpoints
    from scripts.training import loop

    checkpoint = checkpoints.load(settings, splits.problem)
    loop.settle(settings, splits, checkpoint)
    last = start(settings, splits, checkpoint)
    try:
        outcome = loop.fit(settings, splits, checkpoint, last)
    except KeyboardInterrupt:
        say("interrupted; the same command with --resume goes on from the last finished epoch")
        raise
    save(settings, splits, checkpoint, outcome, time.monotonic() - started)
    report(splits, outcome)
    say(f"saved in {settings.output}")


def report(splits: Splits, outcome: Outcome) -> None:
    """Print what the model is worth."""
    titles = splits.problem.metrics
    rows = [(f"validation (epoch {outcome.best_epoch})", outcome.validation, splits.validation)]
    if outcome.test is not None and splits.test is not None:
        rows.append(("test", outcome.test, splits.test))
    shown = [[name, *(f"{metrics[key]:.3f}" for key in titles), len(data)] for name, metrics, data in rows]
    console.table(["", *titles.values(), splits.problem.noun], shown)
    if outcome.test is not None and splits.test is not None:
        print(f"test {splits.problem.titled(outcome.test)}  ({len(splits.test)} {splits.problem.noun})")


def quiet() -> None:
    """Silence the libraries, and let their threads sleep while they wait.

    Spinning threads of OpenMP (the default) make a step ten times slower as soon as another process wants the cores:
    2.8 s against 0.3 s for 32 texts of 16 tokens on 2 shared cores (2026-11).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported
    import huggingface_hub
    import transformers

    huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


# --- the output folder ---------------------------------------------------------------------------------------------


def check_output(settings: Settings) -> None:
    """Refuse an output folder that must not be written to; it is emptied only when training can start."""
    output = settings.output
    if output.exists() and not output.is_dir():
        raise ScriptError(f"{output} is not a folder")
    finished, begun = (output / "training.json").exists(), settings.checkpoints.exists()
    if settings.resume and finished:
        raise ScriptError(f"{output}: this training is finished; --overwrite starts anew")
    if settings.resume and not begun:
        raise ScriptError(f"{output}: there is no training to resume here")
    if settings.resume or not output.exists() or not any(output.iterdir()):
        return
    if not settings.overwrite:
        raise ScriptError(f"{output} is not empty: {'--resume goes on, ' if begun else ''}--overwrite starts anew")
    if not finished and not begun:
        raise ScriptError(f"{output}: --overwrite replaces only what this script made; choose another folder")


def start(settings: Settings, splits: Splits, checkpoint: Checkpoint) -> Path | None:
    """Clear the output folder, or return the last finished epoch of the very same training."""
    identity = {
        "parameters": settings.parameters(),
        "data": {"train": splits.train.sha256, "validation": splits.validation.sha256},
        "model": checkpoint.sha256,
    }
    record = settings.checkpoints / "run.json"
    if settings.resume and record.exists():
        before = json.loads(record.read_text())
        for part, values in identity.items():
            changed = [key for key in before[part] | values if before[part].get(key) != values.get(key)]
            if changed:
                raise ScriptError(f"{settings.output}: cannot resume, these {part} changed: {', '.join(changed)}")
    if settings.overwrite:
        shutil.rmtree(settings.output, ignore_errors=True)
    settings.checkpoints.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(identity, indent=2))
    folders = settings.checkpoints.glob("checkpoint-*")
    for folder in sorted(folders, key=lambda folder: int(folder.name.partition("-")[2]), reverse=True):
        if (folder / "trainer_state.json").exists():  # the Trainer writes it last
            return folder
        shutil.rmtree(folder)
    return None


def save(settings: Settings, splits: Splits, checkpoint: Checkpoint, outcome: Outcome, seconds: float) -> None:
    """Write the model, its tokenizer and where they come from; training.json comes last and marks the end."""
    output, tokenizer = settings.output, checkpoint.tokenizer
    if hasattr(tokenizer, "backend_tokenizer"):  # the lengths of this training are no business of the server
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    checkpoint.model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    for weights in output.glob("*.safetensors"):  # written for the owner alone; a server is often another user
        weights.chmod((output / "config.json").stat().st_mode)
    if not settings.keep_checkpoints:
        shutil.rmtree(settings.checkpoints)
    record = {
        "base_model": {"name": tables.portable(settings.model), "sha256": checkpoint.sha256},
        "problem": settings.problem,
        "problem_type": splits.problem.problem_type,
        "labels": list(splits.problem.labels),
        "data": splits.describe(),
        "parameters": settings.parameters(),
        **asdict(outcome),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "seconds": round(seconds, 1),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    (output / "training.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    console.run(main)
