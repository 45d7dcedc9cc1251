"""Search of hyper-parameters by optuna: trials on the validation data, of which the best settings train the model.

The first trial has the settings of the command; the following ones are chosen by what the earlier ones reached (TPE),
and those that fall behind the median of the others by epoch are stopped. The study is kept in checkpoints/search.db:
--resume goes on with the next trial, and seeds are fixed by the number of the trial, so that the result is the same.
"""

from __future__ import annotations

import copy
import importlib
import time
from typing import Any

from transformers import TrainerCallback

from scripts.cli import console
from scripts.cli.console import ScriptError, say
from scripts.training import loop
from scripts.training.checkpoint import Checkpoint
from scripts.training.settings import TrainingSettings
from scripts.training.splits import Splits
from scripts.training.tasks.base import LOWER_IS_BETTER

DATABASE = "search.db"


def search(settings: TrainingSettings, splits: Splits, checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Run the trials that are left, put the best settings into `settings`, and return all trials.

    Raises:
        ScriptError: no trial reached its end.
    """
    optuna: Any = importlib.import_module("optuna")  # which mypy would read for a minute
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = open_study(optuna, settings)
    initial = copy.deepcopy(checkpoint.model.state_dict())
    data = loop.encode_data(settings, splits, checkpoint.tokenizer)
    with loop.accelerated(settings, checkpoint, data):
        run_trials(optuna, settings, splits, checkpoint, data, study, initial)
    checkpoint.model.load_state_dict(initial)
    done = finished(study)
    complete = [trial for trial in done if trial.value is not None and trial.state.name == "COMPLETE"]
    if not complete:
        raise ScriptError(f"--search: none of {len(done)} trials reached its end: {loop.DIVERGED_HINT}")
    sign = 1 if settings.metric in LOWER_IS_BETTER else -1
    best = min(complete, key=lambda trial: (sign * trial.value, trial.number))
    report(done, best, splits.task.metric_title(str(settings.metric)))
    for name, value in best.params.items():
        setattr(settings, name, value)
    return [
        {"settings": trial.params, "value": trial.value if trial in complete else None, "best": trial is best}
        for trial in done
    ]


def run_trials(
    optuna: Any,
    settings: TrainingSettings,
    splits: Splits,
    checkpoint: Checkpoint,
    data: loop.EncodedData,
    study: Any,
    initial: dict[str, Any],
) -> None:
    """Run the trials that are left, each from the weights `initial`."""
    n_trials, done = int(settings.search or 0), finished(study)
    metric = splits.task.metric_title(str(settings.metric))
    while len(done) < n_trials:
        study.sampler = optuna.samplers.TPESampler(seed=settings.seed + len(done), multivariate=False)
        trial = study.ask(space(optuna, settings))
        checkpoint.model.load_state_dict(initial)
        started = time.monotonic()
        value = run_trial(optuna, changed(settings, trial.params), splits, checkpoint, data, trial)
        state = optuna.trial.TrialState.PRUNED if value is None else optuna.trial.TrialState.COMPLETE
        study.tell(trial, value, state=state)
        done = finished(study)
        reached = "stopped" if value is None else f"{metric} {value:.4f}"
        say(f"trial {len(done)}/{n_trials}  {reached}  {describe(trial.params)}  ({time.monotonic() - started:.0f} s)")


def open_study(optuna: Any, settings: TrainingSettings) -> Any:
    """Open the study of this training; a trial that was interrupted is given up, and the first one is the command's."""
    study = optuna.create_study(
        study_name="search",
        storage=f"sqlite:///{(settings.checkpoints / DATABASE).resolve()}",
        direction="minimize" if settings.metric in LOWER_IS_BETTER else "maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1),
        load_if_exists=True,
    )
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    if not finished(study):
        study.enqueue_trial({name: getattr(settings, name) for name in space(optuna, settings)})
    return study


def finished(study: Any) -> list[Any]:
    """Return the trials that reached their end or were stopped by comparison, in order."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name in ("COMPLETE", "PRUNED")]


def space(optuna: Any, settings: TrainingSettings) -> dict[str, Any]:
    """Return the range of each setting that is searched, around its value in the command."""
    rate, batch = float(settings.learning_rate or 0), settings.batch_size
    distributions = optuna.distributions
    ranges = {
        "learning_rate": distributions.FloatDistribution(rate / 5, rate * 5, log=True),
        "batch_size": distributions.CategoricalDistribution(sorted({max(1, batch // 2), batch, 2 * batch})),
        "warmup_ratio": distributions.FloatDistribution(0, max(0.3, settings.warmup_ratio)),
        "weight_decay": distributions.CategoricalDistribution(sorted({0.0, 0.01, 0.1, settings.weight_decay})),
    }
    return {name: ranges[name] for name in settings.search_over}


def changed(settings: TrainingSettings, values: dict[str, Any]) -> TrainingSettings:
    """Return the settings of a trial."""
    trial = copy.copy(settings)
    for name, value in values.items():
        setattr(trial, name, value)
    return trial


def run_trial(
    optuna: Any, settings: TrainingSettings, splits: Splits, checkpoint: Checkpoint, data: loop.EncodedData, trial: Any
) -> float | None:
    """Train once without saving; return the best epoch's metric, None where the trial was stopped or diverged."""
    callback = TrialCallback(optuna, trial, str(settings.metric))
    trainer = loop.make_trainer(settings, splits.task, checkpoint, data, is_trial=True)
    trainer.add_callback(callback)
    try:
        trainer.train()
    except (optuna.TrialPruned, ScriptError):  # a ScriptError: the loss is no number
        return None
    return (min if settings.metric in LOWER_IS_BETTER else max)(callback.values)


class TrialCallback(TrainerCallback):
    """Report the metric of each epoch to the study, and stop a trial that falls behind."""

    def __init__(self, optuna: Any, trial: Any, metric: str) -> None:
        self.optuna = optuna
        self.trial = trial
        self.metric = metric
        self.values: list[float] = []

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        value = float(metrics[f"eval_{self.metric}"])
        if value != value:
            raise self.optuna.TrialPruned
        self.values.append(value)
        self.trial.report(value, len(self.values))
        if len(self.values) < args.num_train_epochs and self.trial.should_prune():
            raise self.optuna.TrialPruned


def describe(values: dict[str, Any]) -> str:
    """Return settings as one line.

    >>> describe({"learning_rate": 0.000123456, "batch_size": 16})
    'learning rate 0.000123  batch size 16'
    """
    return "  ".join(f"{title(name)} {value:.3g}" for name, value in values.items())


def title(name: str) -> str:
    """Return how a setting is called in messages, in words between which a narrow table breaks."""
    return name.replace("_", " ")


def report(trials: list[Any], best: Any, metric: str) -> None:
    """Print all trials as a table."""
    names = list(best.params)
    rows = [
        [
            number,
            *(f"{trial.params[name]:.3g}" for name in names),
            f"{trial.value:.4f}" if trial.state.name == "COMPLETE" else "stopped",
            "best" if trial is best else "",
        ]
        for number, trial in enumerate(trials, start=1)
    ]
    console.table(["trial", *map(title, names), metric, ""], rows)
