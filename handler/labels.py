"""Read the labels of a classifier from its config.json: one name for each output of the head, or a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from handler.errors import ModelMismatch

if TYPE_CHECKING:
    from transformers import PretrainedConfig

CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification")  # heads with one output for each label
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")


def label_names(model_config: PretrainedConfig) -> list[str]:
    """Return the names of a model's labels by index; raises ModelMismatch where an index is missing."""
    labels: dict[Any, Any] = dict(model_config.id2label or {})
    return _in_order(labels, "id2label")


def read_labels(config: Mapping[str, Any]) -> list[str] | None:
    """Return the names that config.json gives the labels of a classifier; None where it gives none.

    transformers takes `id2label` alone: it drops names that only `label2id` has, and all names where `num_labels` is
    another number than theirs.

    Args:
        config: the content of config.json.

    Raises:
        ModelMismatch: names that contradict one another or `num_labels`, a name twice, or an unknown `problem_type`.

    >>> read_labels({"architectures": ["BertForSequenceClassification"], "label2id": {"no": 0, "yes": 1}})
    ['no', 'yes']
    """
    architectures = config.get("architectures") or []
    if any(str(architecture).endswith("ForQuestionAnswering") for architecture in architectures):
        n_outputs = len(config.get("id2label") or config.get("label2id") or "ab")
        if config.get("num_labels", n_outputs) != 2 or n_outputs != 2:
            raise ModelMismatch(
                f"config.json names {config.get('num_labels', n_outputs)} labels, but a model that answers questions "
                "has two outputs, start and end: remove id2label, label2id and num_labels"
            )
    if not any(str(architecture).endswith(CLASSIFIERS) for architecture in architectures):
        return None
    problem_type = config.get("problem_type")
    if problem_type is not None and problem_type not in PROBLEM_TYPES:
        raise ModelMismatch(f"problem_type in config.json is {problem_type!r}, accepted: {', '.join(PROBLEM_TYPES)}")
    names = _reconcile(_by_index(config), _by_name(config))
    number = config.get("num_labels")
    if number is not None and (type(number) is not int or number < 1):
        raise ModelMismatch(f"num_labels in config.json is {number!r}, accepted: a number of 1 or more")
    if names is not None and number is not None and number != len(names):
        raise ModelMismatch(
            f"config.json has num_labels {number} beside {len(names)} names of labels: name every label in id2label, "
            "or remove num_labels"
        )
    n_labels = len(names) if names is not None else (number or 2)  # 2: the default of transformers
    if n_labels == 1 and problem_type == PROBLEM_TYPES[0]:
        raise ModelMismatch(
            f"config.json has one label beside problem_type {problem_type}, which needs two or more: "
            "write regression, or multi_label_classification for one label that is true or not"
        )
    return names


def _by_index(config: Mapping[str, Any]) -> list[str] | None:
    labels = config.get("id2label")
    if not labels:
        return None
    if not isinstance(labels, dict):
        raise ModelMismatch('id2label in config.json is no object such as {"0": "no", "1": "yes"}')
    return _in_order(labels, "id2label")


def _by_name(config: Mapping[str, Any]) -> list[str] | None:
    labels = config.get("label2id")
    if not labels:
        return None
    if not isinstance(labels, dict):
        raise ModelMismatch('label2id in config.json is no object such as {"no": 0, "yes": 1}')
    names = {index: name for name, index in labels.items()}
    if len(names) < len(labels):
        raise ModelMismatch("label2id in config.json gives two labels one number")
    return _in_order(names, "label2id")


def _reconcile(by_index: list[str] | None, by_name: list[str] | None) -> list[str] | None:
    """Return the names of both maps; those that transformers makes up, LABEL_0 and on, give way to others."""
    if by_index is None or by_name is None or by_index == by_name:
        return by_name if by_index is None else by_index
    made_up = [f"LABEL_{index}" for index in range(max(len(by_index), len(by_name)))]
    if by_name == made_up[: len(by_name)]:
        return by_index
    if by_index == made_up[: len(by_index)] and len(by_index) == len(by_name):
        return by_name
    pairs = zip(by_index, by_name, strict=False)
    index = next((index for index, (first, second) in enumerate(pairs) if first != second), None)
    what = f"{len(by_index)} and {len(by_name)} labels"
    if index is not None:
        what = f"label {index} is {by_index[index]!r} in one and {by_name[index]!r} in the other"
    raise ModelMismatch(f"id2label and label2id in config.json disagree ({what}): correct them, or remove label2id")


def _in_order(labels: Mapping[Any, Any], key: str) -> list[str]:
    """Return names by index."""
    try:
        names = {int(index): name for index, name in labels.items()}
    except (TypeError, ValueError) as error:
        raise ModelMismatch(
            f"{key} in config.json numbers a label with what is no number: "
            'write {"0": "no", "1": "yes"} for id2label, {"no": 0, "yes": 1} for label2id'
        ) from error
    if sorted(names) != list(range(len(labels))):
        lacking = next(index for index in range(len(labels) + 1) if index not in names)
        raise ModelMismatch(
            f"{key} in config.json does not number the labels from 0 without gaps: {len(labels)} labels, none with the "
            f"number {lacking}"
        )
    ordered = [names[index] for index in range(len(names))]
    for index, name in enumerate(ordered):
        if name is None or not str(name).strip():
            raise ModelMismatch(f"{key} in config.json gives label {index} no name")
        if isinstance(name, (list, dict)):
            kind = "a list" if isinstance(name, list) else "an object"
            raise ModelMismatch(f"{key} in config.json gives label {index} {kind} for a name: write a string")
    ordered = [str(name) for name in ordered]
    if twice := next((name for index, name in enumerate(ordered) if name in ordered[:index]), None):
        raise ModelMismatch(f"{key} in config.json names two labels {twice!r}: give each label a name of its own")
    return ordered
