"""The training itself: a pretrained encoder is fitted to the examples, and measured.

Owns everything that needs torch and transformers, which take seconds to import: scripts/train.py imports this room
only when all that can be refused without them has been. Writes nothing but the Trainer's checkpoints.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from rich.progress import Progress
from transformers import EvalPrediction, PreTrainedTokenizerBase, TrainerState, TrainingArguments

from scripts.cli import console
from scripts.cli.console import ScriptError, say
from scripts.training.checkpoint import Checkpoint
from scripts.training.settings import Settings
from scripts.training.splits import Splits
from scripts.training.tasks.base import Encoded, Examples, Feature, Problem

N_SPECIAL = 4  # tokens around a pair of texts, at most


def settle(settings: Settings, splits: Splits, checkpoint: Checkpoint) -> None:
    """Fill in the settings that depend on the data, the model and the machine."""
    problem = splits.problem
    if settings.epochs is None:
        fewest, most = problem.epochs
        settings.epochs = min(most, max(fewest, 50_000 // problem.size(splits.train)))
    if settings.learning_rate is None:
        settings.learning_rate = 5e-5 * 768 / checkpoint.model.config.hidden_size
    if settings.max_length is None:
        settings.max_length = min(problem.max_length, checkpoint.max_length)
    if settings.max_length > checkpoint.max_length:
        raise ScriptError(f"--max-length {settings.max_length}: {settings.model} takes {checkpoint.max_length} tokens")
    if "doc_stride" in problem.options:
        settle_windows(settings, settings.max_length)
    settings.precision = mixed_precision(settings.precision)


def settle_windows(settings: Settings, max_length: int) -> None:
    """Fill in how questions and contexts share the tokens of a window."""
    settings.doc_stride = settings.doc_stride or min(128, max_length // 3)
    settings.max_question_length = settings.max_question_length or min(64, max_length // 3)
    settings.max_answer_length = settings.max_answer_length or 30
    if settings.doc_stride + settings.max_question_length + N_SPECIAL >= max_length:
        taken = f"--doc-stride {settings.doc_stride} and --max-question-length {settings.max_question_length}"
        raise ScriptError(f"{taken} leave nothing new of a context in a window of --max-length {max_length}")


def mixed_precision(wanted: str) -> str:
    """Choose the precision of the matrix products; weights and sums stay fp32.

    bf16 on a CPU without instructions for it is many times slower than fp32.
    """
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


@dataclass(frozen=True)
class Outcome:
    """What came of a training."""

    epochs: list[dict[str, float]]
    best_epoch: int
    validation: dict[str, float]
    test: dict[str, float] | None


def fit(settings: Settings, splits: Splits, checkpoint: Checkpoint, last: Path | None) -> Outcome:
    """Train, keep the best epoch in the model, and measure it."""
    problem, tokenizer = splits.problem, checkpoint.tokenizer
    encoded = encode(settings, splits.train, problem, tokenizer, training=True)
    validation = Judged(encode(settings, splits.validation, problem, tokenizer))
    trainer = InOrder(
        model=checkpoint.model,
        args=arguments(settings, problem),
        train_dataset=cast("Any", encoded.features),
        eval_dataset=cast("Any", validation.features),
        processing_class=tokenizer,
        data_collator=problem.collator(tokenizer, settings.limits),
        compute_metrics=validation.measure,
        preprocess_logits_for_metrics=problem.reduce,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    if settings.early_stopping:
        trainer.add_callback(transformers.EarlyStoppingCallback(settings.early_stopping))
    with console.progress() as bar:
        trainer.add_callback(Narrator(problem, bar))
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    epochs = history(trainer.state, problem)
    best = next(epoch for epoch in epochs if epoch["step"] == trainer.state.best_global_step)
    test = None
    if splits.test is not None:
        judged = Judged(encode(settings, splits.test, problem, tokenizer))
        trainer.compute_metrics = judged.measure
        reported = trainer.predict(cast("Any", judged.features)).metrics or {}
        test = {key: reported[f"test_{key}"] for key in problem.metrics}
    return Outcome(epochs, int(best["epoch"]), {key: best[key] for key in problem.metrics}, test)


def encode(
    settings: Settings,
    examples: Examples[Any],
    problem: Problem[Any],
    tokenizer: PreTrainedTokenizerBase,
    training: bool = False,
) -> Encoded:
    """Tokenize once, and say what was cut."""
    encoded = problem.encode(examples, tokenizer, settings.limits, training=training)
    for note in encoded.notes:
        say(f"{examples.name}: {note}")
    return encoded


class Judged:
    """Encoded examples, longest first so that batches are padded little; the judge sees them in their own order."""

    def __init__(self, encoded: Encoded) -> None:
        lengths = [len(feature["input_ids"]) for feature in encoded.features]
        self.judge = encoded.judge
        self.order = np.argsort(-np.array(lengths), kind="stable")
        self.features: list[Feature] = [encoded.features[index] for index in self.order]

    def measure(self, answers: EvalPrediction) -> dict[str, float]:
        """Return the metrics of a model's outputs."""
        places = np.argsort(self.order)
        outputs: Any = answers.predictions
        return self.judge(tuple(part[places] for part in outputs) if isinstance(outputs, tuple) else outputs[places])


class InOrder(transformers.Trainer):
    """A trainer that evaluates in the order of the data; that of transformers shuffles it when it groups by length."""

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return torch.utils.data.SequentialSampler(eval_dataset)


def arguments(settings: Settings, problem: Problem[Any]) -> TrainingArguments:
    """Return the settings in the Trainer's words."""
    return transformers.TrainingArguments(
        output_dir=str(settings.checkpoints.resolve()),
        num_train_epochs=cast("int", settings.epochs),
        learning_rate=cast("float", settings.learning_rate),
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=problem.eval_share * settings.batch_size,
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


class Narrator(transformers.TrainerCallback):
    """Move the progress bar, say one line an epoch, and stop when the loss is no longer a number."""

    def __init__(self, problem: Problem[Any], bar: Progress) -> None:
        self.problem = problem
        self.bar = bar

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.task = self.bar.add_task("training", total=state.max_steps, completed=state.global_step)
        self.started = time.monotonic()
        if state.best_global_step:  # the folder may have moved since the interruption
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{state.best_global_step}")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not math.isfinite(state.log_history[-1].get("loss", 0)):
            raise ScriptError("the loss is no longer a number: lower --learning-rate")

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        epoch = history(state, self.problem)[-1]
        line = f"epoch {epoch['epoch']}/{args.num_train_epochs}  loss {epoch['loss']:.3f}"
        seconds = f"{time.monotonic() - self.started:.0f} s"
        best = "  best" if state.best_global_step == state.global_step else ""
        say(f"{line}  validation {self.problem.titled(epoch)}  ({seconds}){best}")


def history(state: TrainerState, problem: Problem[Any]) -> list[dict[str, float]]:
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
