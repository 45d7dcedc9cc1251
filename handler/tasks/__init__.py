"""The tasks of a model: one module a task, and the registry.

A new task is one module and one line here. No other code compares the names of tasks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from handler.config import ServingConfig
from handler.errors import ConfigError, ModelMismatch
from handler.late_interaction import STANFORD
from handler.model_folder import ModelFolder
from handler.sentence_modules import SpladePooling
from handler.tasks.base import Task
from handler.tasks.feature_extraction import FeatureExtraction
from handler.tasks.fill_mask import FillMask
from handler.tasks.late_interaction import LateInteraction, LateRerank, LateSimilarity
from handler.tasks.next_sentence import NextSentencePrediction
from handler.tasks.pooled_classification import PooledClassification
from handler.tasks.queries import AttributionTarget, Output, Pooler, Query, RaggedOutput, SequenceOutput
from handler.tasks.question_answering import QuestionAnswering
from handler.tasks.rerank import Rerank
from handler.tasks.sentence_similarity import SentenceSimilarity
from handler.tasks.sequence_classification import SequenceClassification
from handler.tasks.sparse_embedding import SparseEmbedding
from handler.tasks.token_classification import TokenClassification
from handler.tasks.tokenize import Tokenize
from handler.tasks.zero_shot import ZeroShotClassification
from handler.tokenization import Tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = [
    "TASKS",
    "AttributionTarget",
    "Output",
    "Pooler",
    "Query",
    "RaggedOutput",
    "SequenceOutput",
    "Task",
    "operations_for",
    "task_class_for",
]

# The main task of a model is the first one whose head it has; further tasks that it supports are its operations.
TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        SequenceClassification,
        TokenClassification,
        QuestionAnswering,
        FillMask,
        NextSentencePrediction,
        FeatureExtraction,
        SparseEmbedding,
        LateInteraction,
        ZeroShotClassification,
        SentenceSimilarity,
        Rerank,
        Tokenize,
    )
}


def task_class_for(model: ModelFolder, config: ServingConfig) -> type[Task]:
    """Return the main task of a model: the one of the configuration, else that of the architecture in config.json.

    Raises:
        ConfigError: the configuration names an unknown task, or an overflow that the task does not support.
        ModelMismatch: the architecture belongs to no task.
    """
    if config.task is not None and config.task not in TASKS:
        raise ConfigError(f"handler.task is {config.task}, accepted: {', '.join(TASKS)}")
    task_class = _variant(TASKS[config.task] if config.task else _task_of(model), model)
    if model.embedding.late is None and task_class is LateInteraction:
        raise ModelMismatch(
            f"{LateInteraction.name} needs a folder of PyLate, of colbert-ai or of a MultiVectorEncoder, which says "
            "how the vectors of tokens are made"
        )
    if model.embedding.late and (task_class is FeatureExtraction or task_class.forward_scope == "head"):
        raise ModelMismatch(
            f"the folder is that of {LateInteraction.name}, not for {task_class.name} as its task: leave out --task"
        )
    if model.embedding.splade and task_class in (FeatureExtraction, SentenceSimilarity):
        raise ModelMismatch(
            f"the folder is that of a SparseEncoder, not for {task_class.name} as its task: leave out --task, which "
            f"gives {SparseEmbedding.name} with the operation {SentenceSimilarity.operation}"
        )
    if config.overflow not in (None, *task_class.overflows):
        raise ConfigError(
            f"handler.overflow is {config.overflow}, accepted for {task_class.name}: {task_class.overflows}"
        )
    return task_class


def _variant(task: type[Task], model: ModelFolder) -> type[Task]:
    """Return the class of a task for a folder whose modules compute it otherwise than a head does."""
    if model.embedding.classifier and task is SequenceClassification:
        return PooledClassification
    late: dict[type[Task], type[Task]] = {SentenceSimilarity: LateSimilarity, Rerank: LateRerank}
    return late.get(task, task) if model.embedding.late else task


def _task_of(model: ModelFolder) -> type[Task]:
    """Return the task that a folder itself is for; raises ModelMismatch."""
    if model.embedding.classifier:
        return PooledClassification
    if model.embedding.splade:
        return SparseEmbedding
    if model.embedding.late:
        return LateInteraction
    (architecture, *_) = model.config.architectures or [""]
    if model.unnamed_head:
        raise ModelMismatch(
            f"config.json names {architecture}, an encoder, but the weights hold {model.unnamed_head}, a head: write "
            f"the class that it was trained with, e.g. {architecture.removesuffix('Model')}ForSequenceClassification, "
            f"or choose {FeatureExtraction.name} or {SentenceSimilarity.name} as the task (--task)"
        )
    for task in TASKS.values():
        if task.auto_class_of(model.config):
            return task
    if model.missing_head:
        raise ModelMismatch(
            f"config.json names {model.missing_head}, but the weights are those of an encoder without that head: "
            f"choose {FeatureExtraction.name} or {SentenceSimilarity.name} as the task (--task)"
        )
    if not architecture:
        raise ModelMismatch(
            "config.json names no architecture: choose what it was trained for as the task (--task): "
            + ", ".join(TASKS)
        )
    if architecture == STANFORD:
        raise ModelMismatch(
            f"config.json names {architecture}, a checkpoint of colbert-ai: scripts/package.py converts it, and serves "
            f"{LateInteraction.name}"
        )
    raise ModelMismatch(
        f"config.json names {', '.join(model.config.architectures or [])}, which belongs to no task served here "
        f"({', '.join(TASKS)})"
    )


def auto_class_for(main: type[Task], model_config: PretrainedConfig) -> str:
    """Return the auto class of transformers that loads a model with the head of its main task.

    For a task without a head the model is loaded with the head it has, for its other operations.
    """
    candidates = [main] if main.forward_scope == "head" else [main, *TASKS.values()]
    auto_classes = (task.auto_class_of(model_config) for task in candidates)
    return next((name for name in auto_classes if name), main.auto_classes[0] if main.auto_classes else "AutoModel")


def operations_for(model: ModelFolder, config: ServingConfig, tokenizer: Tokenizer) -> dict[str, Task]:
    """Return the tasks of a model by their names in the path; the first, `predict`, is the main task.

    Raises:
        ConfigError, ModelMismatch: as `task_class_for`.
    """
    main = task_class_for(model, config)
    if main is SparseEmbedding and model.embedding.splade is None:
        model = replace(model, embedding=replace(model.embedding, splade=SpladePooling()))
    auto_class = auto_class_for(main, model.config)
    others = [
        task
        for task in (_variant(task, model) for task in TASKS.values())
        if task is not main
        and (task.forward_scope != "head" or task.auto_class_of(model.config) == auto_class)
        and task.supports(model)
    ]
    tasks = [task(model, config, tokenizer) for task in (main, *others)]
    return {"predict": tasks[0], **{task.operation: task for task in tasks}}
