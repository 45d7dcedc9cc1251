"""One training, from settings to a saved model."""

from __future__ import annotations

from scripts.cli.command import require

import contextlib
import importlib.util
import os
import time

from scripts.cli import console
from scripts.cli.console import ScriptError, say
from scripts.training import class_weights, data_report, output, processes, trackers
from scripts.training.output import TrainingResult
from scripts.training.processes import Processes
from scripts.training.settings import TrainingSettings
from scripts.training.splits import Splits, read


def run(settings: TrainingSettings) -> None:
    """Read the data, train, save the best epoch and print its metrics."""
    group = processes.join(settings)
    with group.quiet():
        train(settings, group)


def train(settings: TrainingSettings, group: Processes) -> None:
    """Train in one of several processes, or in the only one."""
    started = time.monotonic()
    trackers.check(settings)
    if settings.search and importlib.util.find_spec("optuna") is None:
        raise ScriptError("--search needs optuna: pip install -r requirements/search.txt")
    require("torch")  # rather than after the data was read
    if group.is_first:
        output.check(settings)
    splits = read(settings)
    task = splits.task
    settings.choose_metric(task)
    if settings.class_weights is not None:
        settings.class_weights = class_weights.resolve(settings.class_weights, splits)
    labels = f", {len(task.labels)} labels" if len(task.labels) > 1 else ""
    sizes = f"{len(splits.train)} {task.unit_name} to train, {len(splits.validation)} to validate"
    data_report.report(splits, settings.strict)
    say(f"{sizes}{labels}; loading the model")
    silence_libraries()
    # torch and transformers take seconds to import: --help and errors in the data must not wait for them.
    from scripts.training import checkpoint as checkpoints
    from scripts.training import loop, search

    checkpoint = checkpoints.load(settings, task)
    loop.resolve_settings(settings, splits, checkpoint)
    group.connect(settings.on_cpu)
    with output.locked(settings) if group.is_first else contextlib.nullcontext(), output.full_disk_named(settings):
        last_epoch = group.of_first(lambda: output.prepare(settings, splits, checkpoint))
        try:
            trials = search.search(settings, splits, checkpoint) if settings.search else None
            with trackers.opened(settings, splits, group.is_first) as open_trackers:
                result = loop.fit(settings, splits, checkpoint, last_epoch, open_trackers)
        except KeyboardInterrupt:
            say(f"interrupted; {output.RESUME_HINT}")
            raise
        group.wait()  # until then others read checkpoints, which `save` deletes
        if group.is_first:
            output.save(settings, splits, checkpoint, result, time.monotonic() - started, trials)
    report(splits, result)
    say(f"saved in {settings.output}")


def report(splits: Splits, result: TrainingResult) -> None:
    """Print the metrics of the best epoch."""
    task = splits.task
    parts = [(f"validation (epoch {result.best_epoch})", result.validation, splits.validation)]
    if result.test is not None and splits.test is not None:
        parts.append(("test", result.test, splits.test))
    rows = [[name, *(f"{metrics[key]:.3f}" for key in task.metrics), len(data)] for name, metrics, data in parts]
    console.table(["", *task.metrics.values(), task.unit_name], rows)
    if result.test is not None and splits.test is not None:
        print(f"test {task.format_metrics(result.test)}  ({len(splits.test)} {task.unit_name})")


def silence_libraries() -> None:
    """Silence the libraries' logs, and let idle OpenMP threads sleep.

    Spinning threads of OpenMP (the default) make a step ten times slower as soon as another process wants the cores:
    2.8 s against 0.3 s for 32 texts of 16 tokens on 2 shared cores (2026-11).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported
    import huggingface_hub
    import transformers

    huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
