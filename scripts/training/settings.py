"""What one training is asked to do: the options of scripts/train.py, checked one by one.

What depends on the data, the model or the machine is left open here; scripts/training/loop.py settles it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.cli.console import ScriptError
from scripts.readers.tables import Columns
from scripts.training.tasks import PROBLEMS
from scripts.training.tasks.base import Limits, Problem

BASE = "models/base"
SPECIAL = sorted(set().union(*(kind.options for kind in PROBLEMS.values())))


class Settings(argparse.Namespace):
    """The command line."""

    model: str
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
    problem: str
    validation_split: float
    epochs: int | None
    learning_rate: float | None
    warmup_ratio: float
    weight_decay: float
    batch_size: int
    max_length: int | None
    doc_stride: int | None
    max_question_length: int | None
    max_answer_length: int | None
    whole_words: bool
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
        one = () if self.label_column is None else (self.label_column,)
        return Columns(self.text_column or "text", self.pair_column, several or one, self.label_separator)

    def settle_columns(self, kind: type[Problem[Any]], header: Sequence[str]) -> None:
        """Choose the columns that were left open, and refuse options that this kind of problem would not obey."""
        given = [name for name in SPECIAL if getattr(self, name) and name not in kind.options]
        if given:
            raise ScriptError(f"--{given[0].replace('_', '-')} means nothing to --problem {self.problem}")
        self.text_column = self.text_column or chosen(kind.text_columns, header)
        self.pair_column = self.pair_column or chosen(kind.pair_columns, header)
        if not self.label_columns:
            self.label_column = self.label_column or chosen(kind.label_columns, header)

    @property
    def limits(self) -> Limits:
        """How texts become tokens, once that is settled."""
        return Limits(
            self.max_length or 0,
            self.doc_stride or 0,
            self.max_question_length or 0,
            self.max_answer_length or 0,
            self.whole_words,
            self.seed,
        )

    def parameters(self) -> dict[str, Any]:
        """Return what decides the result."""
        apart = {"output", "resume", "overwrite", "keep_checkpoints", "model", "dataset", "train", "validation", "test"}
        return {key: value for key, value in sorted(vars(self).items()) if key not in apart}


def chosen(names: Sequence[str], header: Sequence[str]) -> str | None:
    """Return the first name that the header has, else the first at all."""
    return next((name for name in names if name in header), names[0] if names else None)


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
    add("--train", metavar="FILE", help="training data; with --dataset, the name of a split")
    add("--validation", metavar="FILE", help="validation data; without it a part of the training data is held out")
    add("--validation-split", type=share, default=0.1, metavar="PART", help="the part that is then held out")
    add("--test", metavar="FILE", help="test data, reported at the end")
    add("--dataset", metavar="NAME", help="a hub dataset instead of files: its train, validation and test splits")
    add("--dataset-config", metavar="NAME", help="its configuration")
    add("--problem", choices=["auto", *PROBLEMS], default="auto", help="auto: see what the data is")
    add("--text-column", metavar="COLUMN", help=f"the text ({columns_of('text_columns')})")
    add("--pair-column", metavar="COLUMN", help=f"the second text of a pair ({columns_of('pair_columns')})")
    add("--label-column", metavar="COLUMN", help=f"what is to be answered ({columns_of('label_columns')})")
    add("--label-columns", metavar="A,B,C", help="several labels a text: columns of 0 and 1")
    add("--label-separator", metavar="CHAR", help="several labels a text: what separates them in --label-column")
    group = parser.add_argument_group("training")
    add = group.add_argument
    add(
        "--epochs",
        type=count,
        help="passes over the data (default: about 50,000 texts in all, 3 to 20 times)",
    )
    add("--learning-rate", type=positive, help="highest learning rate (default: 5e-5 * 768 / width of the model)")
    add("--warmup-ratio", type=share, default=0.1, help="part of the steps in which the learning rate rises")
    add("--weight-decay", type=float, default=0.01, help="decay of the weights")
    add("--batch-size", type=count, default=32, help="texts a step")
    add("--max-length", type=count, help=f"tokens of a text or window ({lengths_of()}; at most what the model takes)")
    add("--doc-stride", type=count, help="answers: tokens that neighbouring windows share (default: 128)")
    add("--max-question-length", type=count, help="answers: tokens of a question, the rest is cut (default: 64)")
    add("--max-answer-length", type=count, help="answers: tokens of the longest answer (default: 30)")
    add("--whole-words", action="store_true", help="masked-words, pretraining: hide all tokens of a word together")
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


def columns_of(which: str) -> str:
    """Say which columns are looked for unless one is named."""
    kinds: dict[tuple[str, ...], list[str]] = {}
    for kind, problem in PROBLEMS.items():
        kinds.setdefault(getattr(problem, which), []).append(kind)
    usual = getattr(Problem, which)
    apart = [f"{', '.join(of)}: {' or '.join(names)}" for names, of in kinds.items() if names and names != usual]
    return "; ".join([f"default: {usual[0]}" if usual else "default: none", *apart])


def lengths_of() -> str:
    """Say how long texts are unless told."""
    apart = [f"{kind}: {problem.max_length}" for kind, problem in PROBLEMS.items() if problem.max_length != 256]
    return "; ".join([f"default: {Problem.max_length}", *apart])


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
