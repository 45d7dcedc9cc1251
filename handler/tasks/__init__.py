"""What a model is used for: one file a task, and the registry.

A new task is one file and one line here. No task is compared as a string anywhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from handler.config import ServingConfig
from handler.errors import ConfigError, ModelMismatch
from handler.tasks.base import Packed, Query, Row, Task
from handler.tasks.sequence_classification import SequenceClassification

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["TASKS", "Packed", "Query", "Row", "Task", "task_for"]

TASKS: dict[str, type[Task]] = {task.name: task for task in (SequenceClassification,)}


def task_for(model_config: PretrainedConfig, config: ServingConfig) -> Task:
    """Choose the task of a model: what the operator names, else what the architecture in its config is for.

    Raises:
        ConfigError: the operator names a task that is not in the registry.
        ModelMismatch: the architecture belongs to no task.
    """
    if config.task is not None:
        if config.task not in TASKS:
            raise ConfigError(f"handler.task is {config.task}, accepted: {', '.join(TASKS)}")
        return TASKS[config.task](model_config, config)
    architectures = model_config.architectures or []
    for task in TASKS.values():
        head = task.auto_class.removeprefix("AutoModel")  # e.g. ForSequenceClassification
        if any(architecture.endswith(head) for architecture in architectures):
            return task(model_config, config)
    named = ", ".join(architectures) or "no architecture"
    raise ModelMismatch(f"config.json names {named}, which belongs to no task served here ({', '.join(TASKS)})")
