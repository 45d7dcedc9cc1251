"""Class weights: how much the examples of each label count in the loss, from the labels' frequencies or by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.cli.console import ScriptError
from scripts.training.splits import Splits
from scripts.training.tasks.base import TrainingTask

BALANCED = "balanced"


def resolve(option: str, splits: Splits) -> dict[str, float]:
    """Return the weight of each label: those of the training data, or those that the option or its file names.

    Raises:
        ScriptError: no such label, or a weight that is no finite number above 0.
    """
    task = splits.task
    if option == BALANCED:
        return task.class_weights(splits.train)
    weights = named(option)
    if unknown := [label for label in weights if label not in task.index]:
        raise ScriptError(f"--class-weights: no label is {unknown[0]}; the labels are {', '.join(task.labels)}")
    return {label: weights.get(label, 1.0) for label in task.labels}


def named(option: str) -> dict[str, float]:
    """Return the weights of `A=2,B=0.5`, or of a JSON file with an object of them.

    >>> named("spam=2,mail=0.5")
    {'spam': 2.0, 'mail': 0.5}
    """
    where = "--class-weights"
    pairs: dict[str, Any]
    if "=" in option and not Path(option).is_file():
        pairs = dict(part.rpartition("=")[::2] for part in option.split(","))
        if "" in pairs:
            raise ScriptError(f"{where}: a part without LABEL=: a JSON file names labels that have commas")
    else:
        where = f"--class-weights {option}"
        try:
            pairs = json.loads(Path(option).read_text(encoding="utf-8"))
        except OSError as error:
            reason = error.strerror or error
            raise ScriptError(f"{where}: neither balanced, nor LABEL=WEIGHT,..., nor a file: {reason}") from None
        except ValueError:
            pairs = {}
        if not isinstance(pairs, dict) or not pairs:
            raise ScriptError(f'{where}: the file must hold a JSON object of labels and weights: {{"LABEL": 2}}')
    weights = {}
    for label, value in pairs.items():
        try:
            weights[label.strip()] = float(value)
        except (TypeError, ValueError):
            weights[label.strip()] = math.nan
        if not 0 < weights[label.strip()] < math.inf:
            raise ScriptError(f"{where}: the weight of {label.strip() or 'a label'} must be a number above 0")
    return weights


def loss_function(task: TrainingTask[Any], weights: dict[str, float] | None) -> Callable[..., Any] | None:
    """Return the loss of the Trainer with class weights, the mean over all labels of a step; None without weights."""
    if weights is None:
        return None
    import torch

    values = torch.tensor([weights[label] for label in task.labels])

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        total = task.loss(outputs["logits"].float(), labels, values.to(labels.device))
        return total / (labels.ne(-100).sum() if num_items_in_batch is None else num_items_in_batch)

    return loss
