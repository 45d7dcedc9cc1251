"""Training and evaluation by transformers' Trainer.

Imports torch and transformers, which takes seconds: run.py imports this module when the data are checked. Writes
nothing but the Trainer's checkpoints.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
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
from scripts.training import compact, native, optimizer, unpadded
from scripts.training.allocator import kept_memory
from scripts.training.checkpoint import Checkpoint
from scripts.training.class_weights import loss_function
from scripts.training.output import TrainingResult
from scripts.training.settings import SCHEDULERS, TrainingSettings
from scripts.training.splits import Splits
from scripts.training.tasks.base import LOWER_IS_BETTER, EncodedExamples, Examples, Feature, TrainingTask
from scripts.training.trackers import Trackers

MAX_SPECIAL_TOKENS = 4  # around a pair of texts
DIVERGED_HINT = "lower --learning-rate, or take --precision fp32; nothing is saved"


def resolve_settings(settings: TrainingSettings, splits: Splits, checkpoint: Checkpoint) -> None:
    """Set the defaults that depend on the data, the model and the machine."""
    task = splits.task
    if settings.epochs is None:
        min_epochs, max_epochs = task.epochs
        settings.epochs = min(max_epochs, max(min_epochs, 50_000 // task.n_texts(splits.train)))
    if settings.learning_rate is None:
        rate = 5e-4 if settings.peft else 5e-5  # the best for LoRA is ten times that of all weights
        settings.learning_rate = rate * 768 / checkpoint.model.config.hidden_size
    if settings.max_length is None:
        settings.max_length = min(task.max_length, checkpoint.max_length)
    if settings.max_length > checkpoint.max_length:
        raise ScriptError(f"--max-length {settings.max_length}: {settings.model} takes {checkpoint.max_length} tokens")
    n_texts = 2 if task.reads_pairs else 1
    n_special = checkpoint.tokenizer.num_special_tokens_to_add(pair=task.reads_pairs)
    if settings.max_length < n_special + n_texts:  # tokenizers may ignore such a limit (docs/surprises.md)
        needed = f"{n_special} special ones, and one of {'each' if task.reads_pairs else 'the'} text"
        raise ScriptError(f"--max-length {settings.max_length}: at least {n_special + n_texts} tokens: {needed}")
    if "doc_stride" in task.options:
        resolve_windows(settings, settings.max_length)
    settings.precision = mixed_precision(settings.precision)


def resolve_windows(settings: TrainingSettings, max_length: int) -> None:
    """Set how questions and contexts share the tokens of a window."""
    settings.doc_stride = settings.doc_stride or min(128, max_length // 3)
    settings.max_question_length = settings.max_question_length or min(64, max_length // 3)
    settings.max_answer_length = settings.max_answer_length or 30
    if settings.doc_stride + settings.max_question_length + MAX_SPECIAL_TOKENS >= max_length:
        lengths = f"--doc-stride {settings.doc_stride} and --max-question-length {settings.max_question_length}"
        raise ScriptError(f"{lengths} leave nothing new of a context in a window of --max-length {max_length}")


def mixed_precision(precision: str) -> str:
    """Return the precision of the matrix products; weights and sums stay fp32.

    bf16 on a CPU without instructions for it is many times slower than fp32.
    """
    if torch.cuda.is_available():
        supported = ["bf16", "fp16"] if torch.cuda.is_bf16_supported(including_emulation=False) else ["fp16"]
    else:
        supported = ["bf16"] if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else []
    if precision == "auto":
        return [*supported, "fp32"][0]
    if precision not in (supported := ["fp32", *supported]):
        names = ", ".join(supported)
        raise ScriptError(f"--precision {precision}: no instructions for it on this machine, which has {names}")
    return precision


# --- training ------------------------------------------------------------------------------------------------------


def fit(
    settings: TrainingSettings, splits: Splits, checkpoint: Checkpoint, last_epoch: Path | None, trackers: Trackers
) -> TrainingResult:
    """Train, load the best epoch into the model, and evaluate it."""
    task, data = splits.task, encode_data(settings, splits, checkpoint.tokenizer)
    with accelerated(settings, checkpoint, data):
        trainer = make_trainer(settings, task, checkpoint, data)
        if settings.early_stopping:
            trainer.add_callback(transformers.EarlyStoppingCallback(settings.early_stopping))
        with console.progress() as bar:
            trainer.add_callback(ProgressCallback(task, bar, trackers))
            trainer.train(resume_from_checkpoint=None if last_epoch is None else str(last_epoch))
        return evaluate(settings, splits, checkpoint, trainer, trackers)


def evaluate(
    settings: TrainingSettings,
    splits: Splits,
    checkpoint: Checkpoint,
    trainer: SequentialEvalTrainer,
    trackers: Trackers,
) -> TrainingResult:
    """Return the metrics of every epoch, of the best one, and on the test data."""
    task, tokenizer = splits.task, checkpoint.tokenizer
    epochs = history(trainer.state, task)
    best = next((epoch for epoch in epochs if epoch["step"] == trainer.state.best_global_step), None)
    if best is None:  # NaN is never better than anything
        raise ScriptError(f"validation {settings.metric} is not a number in any epoch: {DIVERGED_HINT}")
    test = None
    if splits.test is not None:
        test_dataset = EvalDataset(encode(settings, splits.test, task, tokenizer))
        trainer.compute_metrics = test_dataset.compute_metrics
        metrics = trainer.predict(cast("Any", test_dataset.features)).metrics or {}
        test = {key: metrics[f"test_{key}"] for key in task.metrics}
        trackers.log({f"test/{key}": value for key, value in test.items()}, trainer.state.global_step)
    return TrainingResult(epochs, int(best["epoch"]), {key: best[key] for key in task.metrics}, test)


@contextlib.contextmanager
def accelerated(settings: TrainingSettings, checkpoint: Checkpoint, data: EncodedData) -> Iterator[None]:
    """Compute what can be left out or computed faster on a CPU in another way until the end, to the same result."""
    if not settings.on_cpu:
        yield
        return
    if reason := native.why_missing():
        say(f"training without the kernels in C, which takes twice as long: {reason}")
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    tokens = {token for feature in data.train.features for token in feature["input_ids"]}
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    vocabulary = compact.vocabulary(model, tokens.union(tokenizer.all_special_ids))
    with kept_memory(), vocabulary, unpadded.layers(model, dtype):
        yield


@dataclass(frozen=True)
class EncodedData:
    """The encoded examples of training and validation."""

    train: EncodedExamples
    validation: EvalDataset


def encode_data(settings: TrainingSettings, splits: Splits, tokenizer: PreTrainedTokenizerBase) -> EncodedData:
    """Tokenize the examples of training and validation."""
    train = encode(settings, splits.train, splits.task, tokenizer, training=True)
    return EncodedData(train, EvalDataset(encode(settings, splits.validation, splits.task, tokenizer)))


def make_trainer(
    settings: TrainingSettings,
    task: TrainingTask[Any],
    checkpoint: Checkpoint,
    data: EncodedData,
    is_trial: bool = False,
) -> SequentialEvalTrainer:
    """Return the Trainer of a model; that of a trial of a search saves nothing."""
    args = arguments(settings, task, len(data.train.features), is_trial)
    has_kernels = optimizer.fits(checkpoint.model)
    adamw = {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
    adamw["packed"] = unpadded.packed_weights(checkpoint.model)
    trainer = SequentialEvalTrainer(
        model=checkpoint.model,
        args=args,
        train_dataset=cast("Any", data.train.features),
        eval_dataset=cast("Any", data.validation.features),
        processing_class=checkpoint.tokenizer,
        data_collator=task.collator(checkpoint.tokenizer, settings.limits),
        compute_metrics=data.validation.compute_metrics,
        compute_loss_func=loss_function(task, settings.class_weights),
        preprocess_logits_for_metrics=task.reduce_logits,
        optimizer_cls_and_kwargs=(optimizer.ClippingAdamW, adamw) if has_kernels else None,
    )
    if has_kernels:
        optimizer.clip_in_step(trainer)
    trainer.remove_callback(transformers.PrinterCallback)
    # Models take these arguments and ignore them; believing them multiplies the loss by the batches of a step, and
    # by the processes (docs/surprises.md).
    trainer.model_accepts_loss_kwargs = False
    return trainer


def encode(
    settings: TrainingSettings,
    examples: Examples[Any],
    task: TrainingTask[Any],
    tokenizer: PreTrainedTokenizerBase,
    training: bool = False,
) -> EncodedExamples:
    """Tokenize examples, and print what was truncated."""
    encoded = task.encode(examples, tokenizer, settings.limits, training=training)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    if n_empty := sum(special.issuperset(feature["input_ids"]) for feature in encoded.features):
        note = f"{n_empty} of {len(encoded.features)} inputs have no token but special ones"
        if settings.strict:
            raise ScriptError(f"--strict: {examples.name}: {note}: correct the data, or train without --strict")
        encoded.notes.append(note)
    for note in encoded.notes:
        say(f"{examples.name}: {note}")
    return encoded


class EvalDataset:
    """Encoded examples, longest first so that batches have little padding; metrics see them in their own order."""

    def __init__(self, encoded: EncodedExamples) -> None:
        lengths = [len(feature["input_ids"]) for feature in encoded.features]
        self.metrics = encoded.compute_metrics
        self.order = np.argsort(-np.array(lengths), kind="stable")
        self.features: list[Feature] = [encoded.features[index] for index in self.order]

    def compute_metrics(self, evaluation: EvalPrediction) -> dict[str, float]:
        """Return the metrics of a model's outputs."""
        inverse = np.argsort(self.order)
        outputs: Any = evaluation.predictions
        for part in outputs if isinstance(outputs, tuple) else (outputs,):
            if np.isnan(part).any():  # the best of NaN logits is label 0, which would look like an answer
                raise ScriptError(f"the model's outputs are not numbers: {DIVERGED_HINT}")
        if isinstance(outputs, tuple):
            return self.metrics(tuple(part[inverse] for part in outputs))
        return self.metrics(outputs[inverse])


class SequentialEvalTrainer(transformers.Trainer):
    """A Trainer that evaluates in the order of the data; transformers' own reorders it when it groups by length."""

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return torch.utils.data.SequentialSampler(eval_dataset)


def arguments(settings: TrainingSettings, task: TrainingTask[Any], n_train: int, is_trial: bool) -> TrainingArguments:
    """Return the settings as TrainingArguments; `n_train` is the number of features to train on."""
    batch_size = min(settings.batch_size, n_train)  # the Trainer repeats a loss as often, also for fewer texts
    return transformers.TrainingArguments(
        output_dir=str(settings.checkpoints.resolve()),
        num_train_epochs=cast("int", settings.epochs),
        learning_rate=cast("float", settings.learning_rate),
        lr_scheduler_type=SCHEDULERS[settings.scheduler],
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        per_device_train_batch_size=-(-batch_size // settings.processes),
        gradient_accumulation_steps=settings.gradient_accumulation,
        per_device_eval_batch_size=task.eval_batch_factor * batch_size,
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,
        eval_strategy="epoch",
        save_strategy="no" if is_trial else "epoch",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,
        save_total_limit=1,  # beside the best one
        load_best_model_at_end=not is_trial,
        metric_for_best_model=settings.metric,
        greater_is_better=settings.metric not in LOWER_IS_BETTER,
        seed=settings.seed,
        bf16=settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        use_cpu=settings.on_cpu,
        disable_tqdm=True,
        report_to="none",
        log_level="error",
    )


class ProgressCallback(transformers.TrainerCallback):
    """Advance the progress bar, print and log each epoch, and stop when the loss is no longer a number."""

    def __init__(self, task: TrainingTask[Any], bar: Progress, trackers: Trackers) -> None:
        self.task = task
        self.bar = bar
        self.trackers = trackers

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar_id = self.bar.add_task("training", total=state.max_steps, completed=state.global_step)
        self.started = time.monotonic()
        if state.best_global_step:  # the folder may have moved since the interruption
            state.best_model_checkpoint = str(Path(args.output_dir) / f"checkpoint-{state.best_global_step}")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.update(self.bar_id, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not math.isfinite(state.log_history[-1].get("loss", 0)):
            raise ScriptError(f"the loss is no longer a number: {DIVERGED_HINT}")

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        # The loss of an epoch is that before its last step; the weights show whether that step diverged.
        if not all(torch.isfinite(weights).all() for weights in model.parameters()):
            raise ScriptError(f"the model's weights are no longer numbers: {DIVERGED_HINT}")

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        epoch = history(state, self.task)[-1]
        self.trackers.log_epoch(epoch)
        line = f"epoch {epoch['epoch']}/{args.num_train_epochs}  loss {epoch['loss']:.3f}"
        seconds = f"{time.monotonic() - self.started:.0f} s"
        metric = self.task.metric_title(args.metric_for_best_model)
        best = f"  best by {metric}" if state.best_global_step == state.global_step else ""
        say(f"{line}  validation {self.task.format_metrics(epoch)}  ({seconds}){best}")


def history(state: TrainerState, task: TrainingTask[Any]) -> list[dict[str, float]]:
    """Return the losses and metrics of every epoch."""
    losses = [entry for entry in state.log_history if "loss" in entry]
    evaluations = [entry for entry in state.log_history if "eval_loss" in entry]
    return [
        {
            "epoch": round(after["epoch"]),
            "step": after["step"],
            "loss": before["loss"],
            "validation_loss": after["eval_loss"],
            **{key: after[f"eval_{key}"] for key in task.metrics},
        }
        for before, after in zip(losses, evaluations, strict=True)
    ]
