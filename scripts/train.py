#!/usr/bin/env python3
"""Fine-tune a BERT on labelled texts: one label a text, several, a number; single texts or pairs.

  scripts/train.py --train examples/intents/train.csv --validation examples/intents/validation.csv \\
      --test examples/intents/test.csv --output models/intents

Data: CSV and TSV with a header, JSONL, or --dataset NAME from the hub; columns are chosen by name. Several labels a
text are several columns of 0 and 1 (--label-columns refund,urgent) or one column with a list (--label-separator ";").
The best epoch on the validation data is kept. The output folder holds the model, its tokenizer and training.json,
which says what it was made from. While training runs it also holds checkpoints/: after an interruption the same
command with --resume goes on from the last finished epoch, to the same result.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from handler.archive import sha256
from scripts import console, dataset, problems
from scripts.console import ScriptError, say
from scripts.dataset import Columns, Examples, Table
from scripts.problems import PROBLEMS, Problem

# torch and transformers take seconds to import: functions do it, so that --help and errors in the data come at once.
if TYPE_CHECKING:
    from rich.progress import Progress
    from transformers import (
        PretrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
        TrainerCallback,
        TrainerState,
        TrainingArguments,
    )

BASE = "models/base"
LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate", "datasets", "safetensors", "scikit-learn")


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


@dataclass(frozen=True)
class Splits:
    """The data of one training; `test` is only reported."""

    problem: Problem
    train: Examples
    validation: Examples
    test: Examples | None

    def describe(self) -> dict[str, Any]:
        """Return what the data was, without any of it."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            name: {
                "name": examples.name,
                "sha256": examples.sha256,
                "rows": len(examples),
                "labels": self.problem.counts(examples),
            }
            for name, examples in named.items()
            if examples is not None
        }


@dataclass(frozen=True)
class Outcome:
    """What came of a training."""

    epochs: list[dict[str, float]]
    best_epoch: int
    validation: dict[str, float]
    test: dict[str, float] | None


class Help(argparse.RawDescriptionHelpFormatter):
    """Keep the description's lines, and show the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = action.default not in (None, False, argparse.SUPPRESS)
        return (action.help or "") + (" (default: %(default)s)" if shown else "")


def parse(argv: Sequence[str] | None) -> Settings:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
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


# --- before training: everything that can be refused in a second ----------------------------------------------------


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


def read(settings: Settings) -> Splits:
    """Read and check all data."""
    tables = hub_tables(settings) if settings.dataset else file_tables(settings)
    for table in tables.values():
        table.require(settings.columns)
    kind = problems.guess(tables["train"], settings.columns) if settings.problem == "auto" else settings.problem
    problem = PROBLEMS[kind].learn(tables["train"], settings.columns)
    examples = {name: problem.examples(table) for name, table in tables.items()}
    if "validation" not in examples:
        train, held = dataset.split(examples["train"], settings.validation_split, settings.seed)
        examples |= {"train": train, "validation": held}
    return Splits(problem, examples["train"], examples["validation"], examples.get("test"))


def file_tables(settings: Settings) -> dict[str, Table]:
    """Return the tables of the files that were named."""
    files = {"train": settings.train, "validation": settings.validation, "test": settings.test}
    return {name: dataset.read(Path(file)) for name, file in files.items() if file is not None}


def hub_tables(settings: Settings) -> dict[str, Table]:
    """Return the splits of a hub dataset; a test split nobody asked for is left out if its labels were withheld."""
    found = dataset.read_hub(str(settings.dataset), settings.dataset_config)
    tables = {}
    for name, asked in {"train": settings.train, "validation": settings.validation, "test": settings.test}.items():
        if (split := asked or name) in found:
            tables[name] = found[split]
        elif asked or name == "train":
            raise ScriptError(f"dataset {settings.dataset}: no split {split}; it has {', '.join(found)}")
    if settings.test is None and "test" in tables and not tables["test"].labelled(settings.columns):
        del tables["test"]
    return tables


# --- the model -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """A pretrained encoder with a new head for the labels, its tokenizer, and the hashes of its weights."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sha256: dict[str, str]

    @property
    def max_length(self) -> int:
        """How many tokens the model takes. RoBERTa's table of positions starts behind its padding index."""
        modules = [module for name, module in self.model.named_modules() if name.endswith("position_embeddings")]
        tables = [module for module in modules if hasattr(module, "num_embeddings")]
        sizes = [t.num_embeddings - (0 if t.padding_idx is None else t.padding_idx + 1) for t in tables]
        return int(min([self.tokenizer.model_max_length, *sizes]))


def load(settings: Settings, problem: Problem) -> Checkpoint:
    """Load an encoder and its tokenizer; the head starts at random, from the seed."""
    import torch
    import transformers
    from transformers.utils.hub import cached_file

    name = settings.model
    if not Path(name).is_dir() and Path(name).parent not in (Path(), Path(name)) and Path(name).parent.is_dir():
        raise ScriptError(f"model {name}: no such folder{'; scripts/setup.sh fetches it' if name == BASE else ''}")
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        require_encoder(name, config)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        transformers.set_seed(settings.seed)
        model, report = getattr(transformers, problem.auto_class).from_pretrained(
            name,
            num_labels=len(problem.labels),
            id2label=dict(enumerate(problem.labels)),
            label2id=problem.index,
            problem_type=problem.problem_type,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
        folder = Path(str(cached_file(name, "config.json"))).parent
    except (OSError, ValueError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        where = "" if Path(name).is_dir() else "no such folder here, and the hub did not provide it: "
        raise ScriptError(f"model {name}: {where}{why}") from None
    encoder = f"{model.base_model_prefix}."
    lost = [key for key in report["missing_keys"] if key.startswith(encoder) and "pooler" not in key]
    if lost:
        raise ScriptError(f"model {name}: its file lacks {len(lost)} weights of the encoder, e.g. {min(lost)}")
    if len(tokenizer) > config.vocab_size:
        raise ScriptError(f"model {name}: {len(tokenizer)} tokens, but embeddings for {config.vocab_size} only")
    return Checkpoint(model, tokenizer, {path.name: sha256(path) for path in sorted(folder.glob("*.safetensors"))})


def require_encoder(name: str, config: PretrainedConfig) -> None:
    """Refuse what cannot fill in a masked word: decoders, sequence-to-sequence models, vision."""
    from transformers.models.auto import modeling_auto as auto

    kind = config.model_type
    fills = kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    classifies = kind in auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    if not (fills and classifies) or config.is_encoder_decoder or getattr(config, "is_decoder", False):
        raise ScriptError(f"model {name}: a {kind} is no text encoder; take a BERT, RoBERTa, ELECTRA, DistilBERT, ...")


def settle(settings: Settings, n_texts: int, checkpoint: Checkpoint) -> None:
    """Fill in the settings that depend on the data, the model and the machine."""
    if settings.epochs is None:
        settings.epochs = min(10, max(3, 50_000 // n_texts))
    if settings.learning_rate is None:
        settings.learning_rate = 5e-5 * 768 / checkpoint.model.config.hidden_size
    if settings.max_length is None:
        settings.max_length = min(256, checkpoint.max_length)
    if settings.max_length > checkpoint.max_length:
        raise ScriptError(f"--max-length {settings.max_length}: {settings.model} takes {checkpoint.max_length} tokens")
    settings.precision = mixed_precision(settings.precision)


def mixed_precision(wanted: str) -> str:
    """Choose the precision of the matrix products; weights and sums stay fp32.

    bf16 on a CPU without instructions for it is many times slower than fp32.
    """
    import torch

    if torch.cuda.is_available():
        has = ["bf16", "fp16"] if torch.cuda.is_bf16_supported(including_emulation=False) else ["fp16"]
    else:
        has = ["bf16"] if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else []
    if wanted == "auto":
        return [*has, "fp32"][0]
    if wanted not in (has := ["fp32", *has]):
        raise ScriptError(f"--precision {wanted}: no instructions for it on this machine, which has {', '.join(has)}")
    return wanted


# --- training ------------------------------------------------------------------------------------------------------


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


def fit(settings: Settings, splits: Splits, checkpoint: Checkpoint, last: Path | None) -> Outcome:
    """Train, keep the best epoch in the model, and measure it."""
    import transformers

    problem, tokenizer = splits.problem, checkpoint.tokenizer
    trainer = transformers.Trainer(
        model=checkpoint.model,
        args=arguments(settings, problem),
        train_dataset=encode(settings, splits.train, problem, tokenizer),
        eval_dataset=encode(settings, splits.validation, problem, tokenizer),
        processing_class=tokenizer,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda answers: problem.measure(
            cast("Any", answers.predictions), cast("Any", answers.label_ids)
        ),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    if settings.early_stopping:
        trainer.add_callback(transformers.EarlyStoppingCallback(settings.early_stopping))
    with console.progress() as bar:
        trainer.add_callback(narrator(problem, bar))
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    epochs = history(trainer.state, problem)
    best = next(epoch for epoch in epochs if epoch["step"] == trainer.state.best_global_step)
    test = None
    if splits.test is not None:
        answers: Any = trainer.predict(encode(settings, splits.test, problem, tokenizer))
        test = problem.measure(answers.predictions, answers.label_ids)
    return Outcome(epochs, int(best["epoch"]), {key: best[key] for key in problem.metrics}, test)


def encode(settings: Settings, examples: Examples, problem: Problem, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Tokenize once, and say how many texts may have lost their end."""
    encoded = problem.encode(examples, tokenizer, cast("int", settings.max_length))
    if full := sum(len(item["input_ids"]) == settings.max_length for item in encoded):
        say(f"{examples.name}: {full} of {len(encoded)} texts fill --max-length {settings.max_length}, the rest is cut")
    return encoded


def arguments(settings: Settings, problem: Problem) -> TrainingArguments:
    """Return the settings in the Trainer's words."""
    import torch
    import transformers

    return transformers.TrainingArguments(
        output_dir=str(settings.checkpoints.resolve()),
        num_train_epochs=cast("int", settings.epochs),
        learning_rate=cast("float", settings.learning_rate),
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=2 * settings.batch_size,
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,
        save_total_limit=1,  # beside the best one
        load_best_model_at_end=True,
        metric_for_best_model=problem.best,
        greater_is_better=not problem.lower_is_better,
        seed=settings.seed,
        bf16=settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
        log_level="error",
    )


def narrator(problem: Problem, bar: Progress) -> TrainerCallback:
    """Return a callback that moves the progress bar and says one line an epoch."""
    import transformers

    class Narrator(transformers.TrainerCallback):
        """Tell what the Trainer does."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.task = bar.add_task("training", total=state.max_steps, completed=state.global_step)
            self.started = time.monotonic()
            if state.best_global_step:  # the folder may have moved since the interruption
                state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{state.best_global_step}")

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            bar.update(self.task, completed=state.global_step)

        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if not math.isfinite(state.log_history[-1].get("loss", 0)):
                raise ScriptError("the loss is no longer a number: lower --learning-rate")

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            epoch = history(state, problem)[-1]
            line = f"epoch {epoch['epoch']}/{args.num_train_epochs}  loss {epoch['loss']:.3f}"
            seconds = f"{time.monotonic() - self.started:.0f} s"
            best = "  best" if state.best_global_step == state.global_step else ""
            say(f"{line}  validation {problem.titled(epoch)}  ({seconds}){best}")

    return Narrator()


def history(state: TrainerState, problem: Problem) -> list[dict[str, float]]:
    """Return the losses and metrics of every epoch."""
    losses = [entry for entry in state.log_history if "loss" in entry]
    measured = [entry for entry in state.log_history if f"eval_{problem.best}" in entry]
    return [
        {
            "epoch": round(after["epoch"]),
            "step": after["step"],
            "loss": before["loss"],
            "validation_loss": after["eval_loss"],
            **{key: after[f"eval_{key}"] for key in problem.metrics},
        }
        for before, after in zip(losses, measured, strict=True)
    ]


# --- afterwards ----------------------------------------------------------------------------------------------------


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
        "base_model": {"name": dataset.portable(settings.model), "sha256": checkpoint.sha256},
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


def report(splits: Splits, outcome: Outcome) -> None:
    """Print what the model is worth."""
    titles = splits.problem.metrics
    rows = [(f"validation (epoch {outcome.best_epoch})", outcome.validation, splits.validation)]
    if outcome.test is not None and splits.test is not None:
        rows.append(("test", outcome.test, splits.test))
    shown = [[name, *(f"{metrics[key]:.3f}" for key in titles), len(data)] for name, metrics, data in rows]
    console.table(["", *titles.values(), "texts"], shown)
    if outcome.test is not None and splits.test is not None:
        print(f"test {splits.problem.titled(outcome.test)}  ({len(splits.test)} texts)")


def main(argv: Sequence[str] | None = None) -> None:
    """Fine-tune from a command line."""
    started = time.monotonic()
    settings = parse(argv)
    check_output(settings)
    splits = read(settings)
    n_train, n_validation = len(splits.train), len(splits.validation)
    say(f"{n_train} texts to train, {n_validation} to validate, {len(splits.problem.labels)} labels; loading the model")
    quiet()
    checkpoint = load(settings, splits.problem)
    settle(settings, n_train, checkpoint)
    last = start(settings, splits, checkpoint)
    try:
        outcome = fit(settings, splits, checkpoint, last)
    except KeyboardInterrupt:
        say("interrupted; the same command with --resume goes on from the last finished epoch")
        raise
    save(settings, splits, checkpoint, outcome, time.monotonic() - started)
    report(splits, outcome)
    say(f"saved in {settings.output}")


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


if __name__ == "__main__":
    console.run(main)
