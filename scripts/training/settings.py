"""The settings of one training: the options of scripts/train.py, checked one by one.

Defaults that depend on the data, the model or the machine are set later, by `resolve_settings` in loop.py.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.cli.console import ScriptError
from scripts.cli.options import fraction, natural_float, natural_int, path_name, positive_float, positive_int
from scripts.pretrained.options import add_options
from scripts.readers.tables import ColumnMapping
from scripts.training.tasks import TRAINING_TASKS
from scripts.training.tasks.base import TokenLimits, TrainingTask

DEFAULT_MODEL = "models/base"
# As transformers calls them; each takes --warmup-ratio.
SCHEDULERS = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant_with_warmup",
    "polynomial": "polynomial",
    "inverse-sqrt": "inverse_sqrt",
}
SEARCHABLE = ("learning_rate", "batch_size", "warmup_ratio", "weight_decay")
TRACKERS = ("tensorboard", "mlflow", "wandb", "trackio")
DEPENDENT_OPTIONS = {  # an option -> those that do nothing without it
    "peft": ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets"),
    "search": ("search_over",),
    "dataset": ("dataset_config",),
}
TASK_OPTIONS = sorted(set().union(*(kind.options for kind in TRAINING_TASKS.values())))


class TrainingSettings(argparse.Namespace):
    """The command line."""

    model: str
    revision: str | None
    base_model: str | None
    convert_pickle: bool
    output: Path
    train: str | None
    validation: str | None
    test: str | None
    dataset: str | None
    dataset_config: str | None
    text_column: str | None
    pair_column: str | None
    label_column: str | None
    label_columns: str | None
    label_separator: str | None
    label_names: str | None
    strict: bool
    problem: str
    validation_split: float
    epochs: int | None
    learning_rate: float | None
    scheduler: str
    warmup_ratio: float
    weight_decay: float
    batch_size: int
    gradient_accumulation: int
    class_weights: Any  # of the option, then label -> weight
    max_length: int | None
    doc_stride: int | None
    max_question_length: int | None
    max_answer_length: int | None
    whole_words: bool
    metric: str | None
    early_stopping: int | None
    peft: str | None
    lora_rank: int
    lora_alpha: int | None
    lora_dropout: float
    lora_targets: str | None
    search: int | None
    search_over: list[str]
    precision: str
    seed: int
    report_to: list[str]
    project: str
    resume: bool
    overwrite: bool
    keep_checkpoints: bool
    processes: int = 1  # that train together; one of the parameters where there are several

    @property
    def checkpoints(self) -> Path:
        """The folder that holds the epochs' checkpoints until the end."""
        return self.output / "checkpoints"

    @property
    def on_cpu(self) -> bool:
        """Whether training runs on the processor, because torch sees no GPU."""
        import torch

        return not torch.cuda.is_available()

    @property
    def columns(self) -> ColumnMapping:
        """The columns that hold the text, its pair and the labels."""
        labels = split_names(self.label_columns)
        if not labels and self.label_column is not None:
            labels = (self.label_column,)
        names = split_names(self.label_names)
        return ColumnMapping(self.text_column or "text", self.pair_column, labels, self.label_separator, names)

    def choose_columns(self, task_class: type[TrainingTask[Any]], header: Sequence[str]) -> None:
        """Set the columns that no option names, and refuse options that do not apply to the task."""
        inapplicable = [name for name in TASK_OPTIONS if getattr(self, name) and name not in task_class.options]
        if inapplicable:
            raise ScriptError(f"--{inapplicable[0].replace('_', '-')} means nothing to --problem {self.problem}")
        self.text_column = self.text_column or default_column(task_class.text_columns, header)
        self.pair_column = self.pair_column or default_column(task_class.pair_columns, header)
        if not self.label_columns:
            self.label_column = self.label_column or default_column(task_class.label_columns, header)
        columns = [self.text_column, self.pair_column, *self.columns.labels]
        if repeated := [name for name, n in Counter(columns).items() if name is not None and n > 1]:
            raise ScriptError(f"column {repeated[0]} is chosen twice: texts and labels stand in columns of their own")

    def choose_metric(self, task: TrainingTask[Any]) -> None:
        """Set the metric that chooses the best epoch, where no option names it, and refuse one that the task lacks."""
        self.metric = self.metric or task.best_metric
        if self.metric not in (names := [*task.metrics, "loss"]):
            raise ScriptError(f"--metric {self.metric}: --problem {self.problem} has {', '.join(names)}")

    @property
    def limits(self) -> TokenLimits:
        """The token limits; call it after `resolve_settings`."""
        return TokenLimits(
            self.max_length or 0,
            self.doc_stride or 0,
            self.max_question_length or 0,
            self.max_answer_length or 0,
            self.whole_words,
            self.seed,
        )

    def parameters(self) -> dict[str, Any]:
        """Return the settings that decide the result, beside data and model."""
        excluded = {"output", "resume", "overwrite", "keep_checkpoints", "strict", "report_to", "project"}
        excluded |= {"model", "revision", "base_model", "convert_pickle", "dataset", "train", "validation", "test"}
        if self.peft is None:
            excluded |= {"lora_rank", "lora_alpha", "lora_dropout", "lora_targets"}
        if not self.search:
            excluded.add("search_over")
        return {key: value for key, value in sorted(vars(self).items()) if key not in excluded}


def split_names(option: str | None) -> tuple[str, ...]:
    """Return the names between the commas of an option."""
    return tuple(name.strip() for name in (option or "").split(",") if name.strip())


def default_column(names: Sequence[str], header: Sequence[str]) -> str | None:
    """Return the first of the default names that the header has, else the first name."""
    return next((name for name in names if name in header), names[0] if names else None)


class DefaultsHelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keep the description's line breaks, and show defaults other than None and False."""

    def _get_help_string(self, action: argparse.Action) -> str:
        has_default = action.default not in (None, False, argparse.SUPPRESS) and not isinstance(action.default, list)
        return (action.help or "") + (" (default: %(default)s)" if has_default else "")


def parse(argv: Sequence[str] | None, description: str) -> TrainingSettings:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=DefaultsHelpFormatter)
    add = parser.add_argument
    add("--model", default=DEFAULT_MODEL, metavar="DIR|ID", help="the pretrained model: a local folder or a hub id")
    add_options(parser)
    add("--output", type=path_name, required=True, metavar="DIR", help="folder of the fine-tuned model")
    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--train", metavar="FILE", help="training data; with --dataset, the name of a split")
    add("--validation", metavar="FILE", help="validation data; without it a part of the training data is held out")
    add("--validation-split", type=fraction, default=0.1, metavar="FRACTION", help="the fraction that is then held out")
    add("--test", metavar="FILE", help="test data, reported at the end")
    add("--dataset", metavar="NAME", help="a hub dataset instead of files: its train, validation and test splits")
    add("--dataset-config", metavar="NAME", help="its configuration")
    add("--problem", choices=["auto", *TRAINING_TASKS], default="auto", help="the task; auto: by the data's columns")
    add("--text-column", metavar="COLUMN", help=f"the text ({columns_of('text_columns')})")
    add("--pair-column", metavar="COLUMN", help=f"the second text of a pair ({columns_of('pair_columns')})")
    add("--label-column", metavar="COLUMN", help=f"the label or target ({columns_of('label_columns')})")
    add("--label-columns", metavar="A,B,C", help="several labels for a text: columns of 0 and 1")
    add("--label-separator", metavar="CHAR", help="several labels for a text: their separator in --label-column")
    add("--label-names", metavar="A,B,C", help="several labels for a text: what 0 and 1 in a list stand for, in order")
    add("--strict", action="store_true", help="refuse data with duplicates, leakage, empty texts or personal data")
    group = parser.add_argument_group("training")
    add = group.add_argument
    default_rate = "default: 5e-5 * 768 / width of the model, with --peft ten times as much"
    add(
        "--epochs",
        type=positive_int,
        help="passes over the data (default: about 50,000 texts in all, 3 to 20 times)",
    )
    add("--learning-rate", type=positive_float, help=f"highest learning rate ({default_rate})")
    add("--scheduler", choices=SCHEDULERS, default="linear", help="how the learning rate falls after the warm-up")
    add("--warmup-ratio", type=fraction, default=0.1, help="fraction of the steps in which the learning rate rises")
    add("--weight-decay", type=natural_float, default=0.01, help="weight decay of AdamW")
    add("--batch-size", type=positive_int, default=32, help="texts in a batch, which several processes share")
    add(
        "--gradient-accumulation",
        type=positive_int,
        default=1,
        metavar="N",
        help="batches in a step: their gradients are added up, for large steps in little memory",
    )
    add(
        "--class-weights",
        metavar="balanced|A=2,B=1|FILE",
        help="single, multi, entailment, entities: how much the examples of each label count in the loss; balanced: by "
        "the rarity of the label; labels that are not named count 1; FILE: a JSON object of them",
    )
    add(
        "--max-length",
        type=positive_int,
        help=f"tokens of a text or window ({lengths_of()}; at most what the model takes)",
    )
    add("--doc-stride", type=positive_int, help="answers: tokens that neighbouring windows share (default: 128)")
    add("--max-question-length", type=positive_int, help="answers: tokens of a question, the rest is cut (default: 64)")
    add("--max-answer-length", type=positive_int, help="answers: tokens of the longest answer (default: 30)")
    add("--whole-words", action="store_true", help="masked-words, pretraining: mask all tokens of a word together")
    add("--metric", metavar="NAME", help="the validation metric that chooses the best epoch, or loss (by the task)")
    add(
        "--early-stopping",
        "--patience",
        type=positive_int,
        metavar="N",
        help="stop after N epochs without a better one",
    )
    add(
        "--precision",
        choices=["auto", "fp32", "bf16", "fp16"],
        default="auto",
        help="auto: mixed precision where the hardware has it",
    )
    add("--seed", type=natural_int, default=0, help="same seed, same machine: same model")
    group = parser.add_argument_group("adapter")
    add = group.add_argument
    add("--peft", choices=["lora"], help="train small matrices and the head instead of all weights (needs peft)")
    add("--lora-rank", type=positive_int, default=16, metavar="R", help="width of the matrices")
    add(
        "--lora-alpha", type=positive_int, metavar="ALPHA", help="their product counts ALPHA / R times (default: 2 * R)"
    )
    add("--lora-dropout", type=fraction, default=0.05, metavar="FRACTION", help="dropout before them")
    add("--lora-targets", metavar="A,B", help="linear modules of the layers, e.g. query,value (default: all of them)")
    group = parser.add_argument_group("search")
    add = group.add_argument
    add(
        "--search",
        type=positive_int,
        metavar="N",
        help="first try N settings on the validation data, then train with the best",
    )
    add(
        "--search-over",
        type=searchable,
        default=list(SEARCHABLE),
        metavar="A,B",
        help=f"what is tried, around the other options' values (default: {', '.join(map(option_name, SEARCHABLE))})",
    )
    group = parser.add_argument_group("tracking")
    add = group.add_argument
    add(
        "--report-to",
        action="extend",
        type=tracker_names,
        default=[],
        metavar="TRACKER",
        help=f"log settings and metrics, never texts, to {', '.join(TRACKERS)} (several: with commas)",
    )
    add("--project", default="fine-tuning", metavar="NAME", help="project or experiment of the run, named as DIR")
    group = parser.add_argument_group("output")
    add = group.add_argument
    add("--resume", action="store_true", help="continue after an interruption")
    add("--overwrite", action="store_true", help="replace the model in the output folder")
    add("--keep-checkpoints", action="store_true", help="keep checkpoints/ in the output folder")
    settings = parser.parse_args(argv, namespace=TrainingSettings())
    if settings.train is None and settings.dataset is None:
        parser.error("one of --train FILE and --dataset NAME is needed")
    if settings.label_columns and settings.label_separator:
        parser.error("--label-columns and --label-separator exclude each other")
    if settings.label_names and (settings.label_columns or settings.label_separator):
        parser.error("--label-names goes with one column of lists, not with --label-columns or --label-separator")
    if settings.validation_split == 0:
        parser.error("--validation-split must be above 0: the best epoch is chosen on that part")
    for needed, names in DEPENDENT_OPTIONS.items():
        changed = [name for name in names if getattr(settings, name) != parser.get_default(name)]
        if changed and not getattr(settings, needed):
            parser.error(f"--{option_name(changed[0])} does nothing without --{option_name(needed)}")
    return settings


def columns_of(attribute: str) -> str:
    """Describe the default names of a column for the help text."""
    task_names: dict[tuple[str, ...], list[str]] = {}
    for task_name, task in TRAINING_TASKS.items():
        task_names.setdefault(getattr(task, attribute), []).append(task_name)
    default = getattr(TrainingTask, attribute)
    others = [
        f"{', '.join(of)}: {' or '.join(names)}" for names, of in task_names.items() if names and names != default
    ]
    return "; ".join([f"default: {default[0]}" if default else "default: none", *others])


def lengths_of() -> str:
    """Describe the default lengths for the help text."""
    default = TrainingTask.max_length
    others = [f"{name}: {task.max_length}" for name, task in TRAINING_TASKS.items() if task.max_length != default]
    return "; ".join([f"default: {default}", *others])


def option_name(name: str) -> str:
    """Return the option of a setting without its hyphens in front.

    >>> option_name("learning_rate")
    'learning-rate'
    """
    return name.replace("_", "-")


def searchable(value: str) -> list[str]:
    """Parse names of options that --search can try."""
    names = [name.removeprefix("--").replace("-", "_") for name in split_names(value)]
    if not names or (unknown := [name for name in names if name not in SEARCHABLE]):
        wrong = option_name(unknown[0]) if names else "nothing"
        raise argparse.ArgumentTypeError(f"{wrong} is none of {', '.join(map(option_name, SEARCHABLE))}")
    return [name for name in SEARCHABLE if name in names]


def tracker_names(value: str) -> list[str]:
    """Parse names of trackers between commas."""
    names = [name for name in split_names(value) if name != "none"]
    if unknown := [name for name in names if name not in TRACKERS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(TRACKERS)}")
    return names
