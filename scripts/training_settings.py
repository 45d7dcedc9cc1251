"""What one training is asked to do: the options of scripts/train.py, checked one by one.

What depends on the data, the model or the machine is left open here; scripts/fine_tuning.py settles it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.dataset import Columns
from scripts.problems import PROBLEMS

BASE = "models/base"


class Settings(argparse.Namespace):
    """The command line."""

    model: str
    output: Path
    train: str | None
    validation: str | None
    test: str | None
    dataset: str | None
    dataset_config: str | None
    text_column: str
    pair_column: str | None
    label_column: str
    label_columns: str | None
    label_separator: str | None
    problem: str
    validation_split: float
    epochs: int | None
    learning_rate: float | None
    warmup_ratio: float
    weight_decay: float
    batch_size: int
    max_length: int | None
    early_stopping: int | None
    precision: str
    seed: int
    resume: bool
    overwrite: bool
    keep_checkpoints: bool

    @property
    def checkpoints(self) -> Path:
        """Where the epochs are kept until the end."""
        return self.output / "checkpoints"

    @property
    def columns(self) -> Columns:
        """Which columns hold what."""
        several = tuple(name.strip() for name in (self.label_columns or "").split(",") if name.strip())
        return Columns(self.text_column, self.pair_column, several or (self.label_column,), self.label_separator)

    def parameters(self) -> dict[str, Any]:
        """Return what decides the result."""
        apart = {"output", "resume", "overwrite", "keep_checkpoints", "model", "dataset", "train", "validation", "test"}
        return {key: value for key, value in sorted(vars(self).items()) if key not in apart}


class Help(argparse.RawDescriptionHelpFormatter):
    """Keep the description's lines, and show the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = action.default not in (None, False, argparse.SUPPRESS)
        return (action.help or "") + (" (default: %(default)s)" if shown else "")


def parse(argv: Sequence[str] | None, description: str) -> Settings:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=Help)
    add = parser.add_argument
    add("--model", default=BASE, metavar="DIR|ID", help="what to start from: a local folder or a hub id")
    add("--output", type=Path, required=True, metavar="DIR", help="where the fine-tuned model goes")
    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--train", metavar="FILE", help="training data (.csv, .tsv, .jsonl); with --dataset, the name of a split")
    add("--validation", metavar="FILE", help="validation data; without it a part of the training data is held out")
    add("--validation-split", type=share, default=0.1, metavar="PART", help="the part that is then held out")
    add("--test", metavar="FILE", help="test data, reported at the end")
    add("--dataset", metavar="NAME", help="a hub dataset instead of files: its train, validation and test splits")
    add("--dataset-config", metavar="NAME", help="its configuration")
    add("--text-column", default="text", metavar="COLUMN", help="the text")
    add("--pair-column", metavar="COLUMN", help="the second text of a pair")
    add("--label-column", default="label", metavar="COLUMN", help="the label, the list of labels, or the number")
    add("--label-columns", metavar="A,B,C", help="several labels a text: columns of 0 and 1")
    add("--label-separator", metavar="CHAR", help="several labels a text: what separates them in --label-column")
    add("--problem", choices=["auto", *PROBLEMS], default="auto", help="auto: see what the labels are")
    group = parser.add_argument_group("training")
    add = group.add_argument
    add("--epochs", type=count, help="passes over the training data (default: 50,000 texts in all, 3 to 10 passes)")
    add("--learning-rate", type=positive, help="highest learning rate (default: 5e-5 * 768 / width of the model)")
    add("--warmup-ratio", type=share, default=0.1, help="part of the steps in which the learning rate rises")
    add("--weight-decay", type=float, default=0.01, help="decay of the weights")
    add("--batch-size", type=count, default=32, help="texts a step")
    add("--max-length", type=count, help="tokens of a text, the rest is cut (default: 256, or what the model takes)")
    add("--early-stopping", type=count, metavar="PATIENCE", help="stop after so many epochs without a better one")
    add("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto", help="auto: mixed where it is faster")
    add("--seed", type=int, default=0, help="same seed, same machine: same model")
    group = parser.add_argument_group("output")
    add = group.add_argument
    add("--resume", action="store_true", help="go on after an interruption")
    add("--overwrite", action="store_true", help="replace the model in the output folder")
    add("--keep-checkpoints", action="store_true", help="leave checkpoints/ in the output folder")
    settings = parser.parse_args(argv, namespace=Settings())
    if settings.train is None and settings.dataset is None:
        parser.error("one of --train FILE and --dataset NAME is needed")
    if settings.label_columns and settings.label_separator:
        parser.error("--label-columns and --label-separator exclude each other")
    if settings.validation_split == 0:
        parser.error("--validation-split must be above 0: the best epoch is chosen on that part")
    return settings


def count(value: str) -> int:
    """Parse a whole number of at least 1."""
    if (number := int(value)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def positive(value: str) -> float:
    """Parse a number above 0."""
    if not 0 < (number := float(value)) < math.inf:
        raise argparse.ArgumentTypeError("must be above 0")
    return number


def share(value: str) -> float:
    """Parse a number between 0 and 1."""
    if not 0 <= (number := float(value)) < 1:
        raise argparse.ArgumentTypeError("must be between 0 and 1")
    return number
