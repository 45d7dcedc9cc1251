"""Experiment trackers, by accelerate: each training is a run with its settings and, by epoch, its losses and metrics.

No text, label count or example is logged. TensorBoard's files are in DIR/runs; the others keep or send their runs as
their own environment variables say, without any of them on this machine. A tracker that fails while training runs is
left out, with a message.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import netrc
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from scripts.cli.console import ScriptError, say
from scripts.readers.hub import without_parents
from scripts.training.settings import TrainingSettings
from scripts.training.splits import Splits

PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX")}  # others: the tracker's name
REQUIREMENTS = "requirements/trackers.txt"


def check(settings: TrainingSettings) -> None:
    """Raise ScriptError for a tracker that is not installed."""
    for name in settings.report_to:
        if not any(importlib.util.find_spec(package) for package in PACKAGES.get(name, (name,))):
            raise ScriptError(
                f"--report-to {name}: {name} is not installed: pip install {name} ({REQUIREMENTS} has versions)"
            )


class Trackers:
    """The open runs of one training."""

    def __init__(self, runs: dict[str, Any]) -> None:
        self.runs = runs

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers by name; a tracker that fails is left out from then on."""
        for name, run in list(self.runs.items()):
            try:
                run.log(dict(values), step=step)
            except Exception as error:  # noqa: BLE001 each tracker has errors of its own; the training matters more
                del self.runs[name]
                say(f"{name} gets no more values ({first_line(error)}); training goes on")

    def log_epoch(self, epoch: Mapping[str, float]) -> None:
        """Log one epoch of training.json."""
        names = {"loss": "train/loss", "validation_loss": "validation/loss", "epoch": "epoch"}
        values = {names.get(key, f"validation/{key}"): value for key, value in epoch.items() if key != "step"}
        self.log(values, int(epoch["step"]))


@contextlib.contextmanager
def opened(settings: TrainingSettings, splits: Splits, is_main: bool = True) -> Iterator[Trackers]:
    """Start a run in each tracker, and end them afterwards.

    Args:
        is_main: whether this is the process that logs, of several that train together.

    Raises:
        ScriptError: a tracker cannot start, for example because its server does not answer.
    """
    trackers = Trackers({})
    try:
        for name in dict.fromkeys(settings.report_to if is_main else ()):
            try:
                with contextlib.redirect_stdout(sys.stderr):
                    trackers.runs[name] = start(name, settings)
                    store_settings(trackers.runs[name], run_settings(settings, splits), metric_names(splits))
            except Exception as error:
                raise ScriptError(f"--report-to {name}: it cannot start a run: {first_line(error)}") from error
        yield trackers
    finally:
        for name, run in trackers.runs.items():
            with contextlib.redirect_stdout(sys.stderr):
                try:
                    run.finish()
                except Exception as error:  # noqa: BLE001 as above
                    say(f"{name}: the run could not be ended ({first_line(error)})")


def start(name: str, settings: TrainingSettings) -> Any:
    """Return a started tracker of accelerate."""
    from accelerate import PartialState, tracking

    PartialState(cpu=settings.on_cpu)  # which accelerate's messages need
    run_name = settings.output.resolve().name
    run: Any
    if name == "tensorboard":
        run = tracking.TensorBoardTracker("runs", logging_dir=settings.output)
    elif name == "mlflow":
        run = tracking.MLflowTracker(settings.project, run_name=run_name)
    elif name == "wandb":
        run = tracking.WandBTracker(os.environ.get("WANDB_PROJECT", settings.project), **wandb_options(run_name))
    else:
        run = tracking.TrackioTracker(os.environ.get("TRACKIO_PROJECT", settings.project), name=run_name)
    run.start()
    return run


def store_settings(run: Any, values: dict[str, str | float], metrics: Sequence[str]) -> None:
    """Log what decides the result.

    accelerate would write TensorBoard's as a run of its own that has no metrics: the table of settings had none either.
    """
    if run.name != "tensorboard":
        run.store_init_configuration(values)
        return
    summaries = importlib.import_module(type(run.writer).__module__)  # of PyTorch, or tensorboardX
    for summary in summaries.hparams(values, dict.fromkeys(metrics, 0.0)):
        run.writer.file_writer.add_summary(summary)
    run.writer.flush()


def metric_names(splits: Splits) -> list[str]:
    """Return the names of what will be logged, but for the epoch."""
    tested = [f"test/{key}" for key in splits.task.metrics] if splits.test is not None else []
    return [*(f"validation/{key}" for key in splits.task.metrics), *tested, "validation/loss", "train/loss"]


def wandb_options(run_name: str) -> dict[str, Any]:
    """Return the options of wandb.init: no code, no console; without a key the run stays in ./wandb."""
    import wandb

    options: dict[str, Any] = {"name": run_name, "settings": wandb.Settings(console="off", save_code=False)}
    if "WANDB_MODE" not in os.environ and not has_wandb_key():
        options["mode"] = "offline"
        say("wandb: no key (WANDB_API_KEY, wandb login): the run is kept in ./wandb, and `wandb sync` sends it")
    return options


def has_wandb_key() -> bool:
    """Return whether the environment or ~/.netrc, where `wandb login` writes it, has a key."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return bool(os.environ.get("WANDB_API_KEY") or netrc.netrc().authenticators(host))
    except (OSError, netrc.NetrcParseError):
        return False


def run_settings(settings: TrainingSettings, splits: Splits) -> dict[str, str | float]:
    """Return what decides the result of a training, flat: settings, the model, data by hash and size."""
    data = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    values: dict[str, Any] = {"model": without_parents(settings.model), "model_revision": settings.revision}
    for part, examples in data.items():
        if examples is not None:
            values |= {f"data_{part}": examples.name, f"data_{part}_sha256": examples.sha256}
            values[f"data_{part}_{splits.task.unit_name}"] = len(examples)
    values |= settings.parameters()
    flat = {key: json.dumps(value) if isinstance(value, (dict, list)) else value for key, value in values.items()}
    return {key: value for key, value in flat.items() if value is not None}


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
