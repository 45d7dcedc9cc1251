"""The output folder of a training: checkpoints while it runs, then the model, its tokenizer and training.json.

A folder with checkpoints/run.json and without training.json holds no finished model; scripts/package.py refuses it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.cli.console import ScriptError
from scripts.readers.hub import without_parents
from scripts.training import curves
from scripts.training.settings import TrainingSettings
from scripts.training.splits import Splits

if TYPE_CHECKING:
    from scripts.training.checkpoint import Checkpoint

LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate", "datasets", "safetensors", "scikit-learn", "seqeval")

CURVES = "training.png"
RESUME_HINT = "the same command with --resume goes on from the last finished epoch"


@dataclass(frozen=True)
class TrainingResult:
    """The losses and metrics of every epoch, and the metrics of the best one."""

    epochs: list[dict[str, float]]
    best_epoch: int
    validation: dict[str, float]
    test: dict[str, float] | None


def check(settings: TrainingSettings) -> None:
    """Refuse an output folder that must not be written to; nothing is deleted before training can start."""
    output = settings.output
    if output.exists() and not output.is_dir():
        raise ScriptError(f"{output} is not a folder")
    finished, has_checkpoints = (output / "training.json").exists(), settings.checkpoints.exists()
    if settings.resume and finished:
        raise ScriptError(f"{output}: this training is finished; --overwrite starts anew")
    if settings.resume and not has_checkpoints:
        raise ScriptError(f"{output}: there is no training to resume here")
    if settings.resume or not output.exists() or not any(output.iterdir()):
        return
    if not settings.overwrite:
        hint = "--resume goes on, " if has_checkpoints else ""
        raise ScriptError(f"{output} is not empty: {hint}--overwrite starts anew")
    if not finished and not has_checkpoints:
        raise ScriptError(f"{output}: --overwrite replaces only what this script made; choose another folder")


@contextlib.contextmanager
def locked(settings: TrainingSettings) -> Iterator[None]:
    """Create the output folder, and keep every other process from training in it.

    The lock is on the folder itself and ends with the process.

    Raises:
        ScriptError: another process trains there, or did so since `check` was called.
    """
    settings.output.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(settings.output, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ScriptError(f"{settings.output}: another training writes to it; wait, or choose another") from None
        check(settings)
        yield
    finally:
        os.close(descriptor)


def prepare(settings: TrainingSettings, splits: Splits, checkpoint: Checkpoint) -> Path | None:
    """Clear the output folder, or return the last finished epoch of the same training; raises where it differs."""
    identity = {
        "parameters": settings.parameters(),
        "data": {"train": splits.train.sha256, "validation": splits.validation.sha256},
        "model": checkpoint.sha256,
        "checkpoints": {"format": 2},  # 2: the optimizer has the embeddings of the training data's tokens alone
    }
    record = settings.checkpoints / "run.json"
    if settings.resume and record.exists():
        before = json.loads(record.read_text())
        for part, values in identity.items():
            earlier = before.get(part, {})
            changed = [key for key in earlier | values if earlier.get(key) != values.get(key)]
            if changed:
                raise ScriptError(f"{settings.output}: cannot resume, these {part} changed: {', '.join(changed)}")
    settings.checkpoints.mkdir(parents=True, exist_ok=True)
    unfinished = settings.checkpoints / "run.json.part"
    unfinished.write_text(json.dumps(identity, indent=2))
    unfinished.replace(record)
    if settings.overwrite:  # training.json first: a model of which a part is deleted is no finished one
        (settings.output / "training.json").unlink(missing_ok=True)
        remove([*settings.output.iterdir(), *settings.checkpoints.iterdir()], but={settings.checkpoints, record})
    folders = settings.checkpoints.glob("checkpoint-*")
    for folder in sorted(folders, key=lambda folder: int(folder.name.partition("-")[2]), reverse=True):
        if is_whole(folder):
            return folder
        shutil.rmtree(folder)
    return None


def is_whole(checkpoint: Path) -> bool:
    """Tell whether a checkpoint was written to its end: the Trainer writes trainer_state.json last."""
    try:
        return isinstance(json.loads((checkpoint / "trainer_state.json").read_text()), dict)
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def full_disk_named(settings: TrainingSettings) -> Iterator[None]:
    """Raise ScriptError, which says what to do, where a library could not write a file to its end."""
    try:
        yield
    except Exception as error:
        if (reason := why_unwritten(error)) is None:
            raise
        room = f"{shutil.disk_usage(settings.output).free / 1e9:.1f} GB are free"
        raise ScriptError(f"{settings.output}: {reason}; {room}: make room, and {RESUME_HINT}") from None


def why_unwritten(error: Exception) -> str | None:
    """Return why a library could not write a file to its end; None where that is not what failed."""
    from safetensors import SafetensorError

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error.strerror
    if isinstance(error, SafetensorError) and "Error while serializing" in str(error):
        return str(error).rpartition("I/O error: ")[2]
    is_of_torch_save = isinstance(error, RuntimeError) and "inline_container" in str(error)
    return "a file is shorter than it should be" if is_of_torch_save else None


def base_model(settings: TrainingSettings, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what training began with: the name, the hashes of its weights, and on the hub the commit."""
    record = {"name": without_parents(settings.model), "sha256": checkpoint.sha256}
    hub = {"revision": settings.revision, "commit": checkpoint.commit} if checkpoint.commit else {}
    provenance = checkpoint.provenance.to_json()
    return record | hub | {key: value for key, value in provenance.items() if value}


def save(
    settings: TrainingSettings,
    splits: Splits,
    checkpoint: Checkpoint,
    result: TrainingResult,
    seconds: float,
    trials: list[dict[str, Any]] | None = None,
) -> None:
    """Write the model, its tokenizer and training.json, which comes last and marks the end.

    Every file appears in the folder when it is whole.
    """
    from scripts.training import lora  # imports torch

    output, tokenizer = settings.checkpoints / "finished", checkpoint.tokenizer
    tokenizer.backend_tokenizer.no_truncation()  # the lengths of this training do not bind the server
    tokenizer.backend_tokenizer.no_padding()
    if settings.peft:
        lora.save(checkpoint.model, output)
    else:
        checkpoint.model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    curves.draw(result.epochs, splits.task.metrics, result.best_epoch, output / CURVES)
    for weights in output.glob("*.safetensors"):  # written for the owner alone; a server is often another user
        weights.chmod((output / "config.json").stat().st_mode)
    record = {
        "base_model": base_model(settings, checkpoint),
        "problem": settings.problem,
        "problem_type": splits.task.problem_type,
        "labels": list(splits.task.labels),
        "data": splits.describe(),
        "parameters": settings.parameters(),
        **asdict(result),
        **({"search": trials} if trials else {}),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "seconds": round(seconds, 1),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    for path in output.iterdir():
        path.replace(settings.output / path.name)
    (output / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    (output / "training.json").replace(settings.output / "training.json")
    output.rmdir()
    if not settings.keep_checkpoints:
        shutil.rmtree(settings.checkpoints)


def remove(paths: list[Path], but: set[Path]) -> None:
    """Delete files and folders, except some."""
    for path in paths:
        if path in but:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
