"""What a model is used for: one file a task, and the registry.

A new task is one file and one line here. No task is compared as a string anywhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from handler.config import ServingConfig
from handler.errors import ConfigError, ModelMismatch
from handler.tasks.base import AttributionTarget, Output, Pooler, Query, RaggedOutput, SequenceOutput, Task
from handler.tasks.feature_extraction import FeatureExtraction
from handler.tasks.fill_mask import FillMask
from handler.tasks.next_sentence import NextSentencePrediction
from handler.tasks.question_answering import QuestionAnswering
from handler.tasks.rerank import Rerank
from handler.tasks.sentence_similarity import SentenceSimilarity
from handler.tasks.sequence_classification import SequenceClassification
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

# The first whose head a model has is its main task; the others are further operations of it where they fit.
TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        SequenceClassification,
        TokenClassification,
        QuestionAnswering,
        FillMask,
        NextSentencePrediction,
        FeatureExtraction,
        ZeroShotClassification,
        SentenceSimilarity,
        Rerank,
        Tokenize,
    )
}


def task_class_for(model_config: PretrainedConfig, config: ServingConfig) -> type[Task]:
    """Choose the main task of a model: what the operator names, else what the architecture in its config is for.

    Raises:
        ConfigError: the operator names a task that is not in the registry, or an overflow that it does not have.
        ModelMismatch: the architecture belongs to no task.
    """
    if config.task is not None and config.task not in TASKS:
        raise ConfigError(f"handler.task is {config.task}, accepted: {', '.join(TASKS)}")
    headed = (task for task in TASKS.values() if task.head_of(model_config))
    chosen = TASKS[config.task] if config.task else next(headed, None)
    if chosen is None:
        named = ", ".join(model_config.architectures or []) or "no architecture"
        raise ModelMismatch(f"config.json names {named}, which belongs to no task served here ({', '.join(TASKS)})")
    if config.overflow not in (None, *chosen.overflows):
        raise ConfigError(f"handler.overflow is {config.overflow}, accepted for {chosen.name}: {chosen.overflows}")
    return chosen


def auto_class_for(main: type[Task], model_config: PretrainedConfig) -> str:
    """Name the class of transformers that loads a model with the head that its main task reads.

    A task that reads no head takes the model with the one it has, for the sake of its other operations.
    """
    candidates = [main] if main.forward_scope == "head" else [main, *TASKS.values()]
    heads = (task.head_of(model_config) for task in candidates)
    return next((head for head in heads if head), main.auto_classes[0] if main.auto_classes else "AutoModel")


def operations_for(model_config: PretrainedConfig, config: ServingConfig, tokenizer: Tokenizer) -> dict[str, Task]:
    """Return every use of a model by its word in the path; the first, `predict`, is the main task.

    Raises:
        ConfigError, ModelMismatch: as `task_class_for`.
    """
    main = task_class_for(model_config, config)
    loaded = auto_class_for(main, model_config)
    others = [
        task
        for task in TASKS.values()
        if task is not main
        and (task.forward_scope != "head" or task.head_of(model_config) == loaded)
        and task.fits(model_config)
    ]
    tasks = [task(model_config, config, tokenizer) for task in (main, *others)]
    return {"predict": tasks[0], **{task.operation: task for task in tasks}}
