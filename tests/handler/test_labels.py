"""Labels of config.json: served by the names that it gives, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import BertForTokenClassification

from handler.errors import ModelMismatch
from handler.labels import read_labels
from handler.loading import load_predictor
from tests.support.samples import MakeModel, ask, response_json

CLASSIFIER = {"architectures": ["BertForSequenceClassification"]}


def edited(folder: Path, **settings: Any) -> Path:
    """Change config.json; None removes a key."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({}, None),
        ({"num_labels": 3}, None),
        ({"id2label": {"1": "yes", "0": "no"}}, ["no", "yes"]),
        ({"label2id": {"yes": 1, "no": 0}}, ["no", "yes"]),
        ({"label2id": {"yes": "1", "no": "0"}}, ["no", "yes"]),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"no": 0, "yes": 1}}, ["no", "yes"]),
        ({"id2label": {"0": "no", "1": "yes"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}, ["no", "yes"]),
        ({"id2label": {"0": 1, "1": 5}}, ["1", "5"]),
        ({"id2label": {"0": "no", "1": "yes"}, "num_labels": 2}, ["no", "yes"]),
        ({"architectures": ["BertModel"], "id2label": {"0": "a"}, "num_labels": 3, "problem_type": "x"}, None),
    ],
    ids=str,
)
def test_names_come_from_either_map(config: dict[str, Any], names: list[str] | None) -> None:
    """Names that transformers makes up give way to real ones; other models than classifiers have no labels."""
    assert read_labels(CLASSIFIER | config) == names


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"problem_type": "multi_label"},
            "problem_type in config.json is 'multi_label', accepted: single_label_classification, "
            "multi_label_classification, regression",
        ),
        ({"problem_type": ""}, "problem_type in config.json is '', accepted: single_label"),
        ({"problem_type": "Regression"}, "problem_type in config.json is 'Regression', accepted: single_label"),
        (
            {"num_labels": 3, "id2label": {"0": "a", "1": "b"}},
            "config.json has num_labels 3 beside 2 names of labels: name every label in id2label, or remove num_labels",
        ),
        ({"num_labels": 2, "label2id": {"a": 0, "b": 1, "c": 2}}, "config.json has num_labels 2 beside 3 names"),
        ({"num_labels": "3"}, "num_labels in config.json is '3', accepted: a number of 1 or more"),
        ({"id2label": {"0": "a", "1": "a"}}, "id2label in config.json names two labels 'a': give each label"),
        ({"label2id": {"a": 0, "b": 0}}, "label2id in config.json gives two labels one number"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label in config.json does not number the labels from 0 without gaps"),
        ({"label2id": {"a": 1, "b": 2}}, "label2id in config.json does not number the labels from 0 without gaps"),
        ({"id2label": {"a": 0, "b": 1}}, "id2label in config.json numbers a label with what is no number"),
        ({"id2label": ["a", "b"]}, "id2label in config.json is no object"),
        ({"label2id": ["a", "b"]}, "label2id in config.json is no object"),
        ({"id2label": {"0": "a", "1": " "}}, "id2label in config.json gives label 1 no name"),
        ({"id2label": {"0": None, "1": "a"}}, "id2label in config.json gives label 0 no name"),
        (
            {"id2label": {"0": "a", "1": "b"}, "label2id": {"b": 0, "a": 1}},
            r"disagree \(label 0 is 'a' in one and 'b' in the other\): correct them, or remove label2id",
        ),
        (
            {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1, "c": 2}},
            r"disagree \(2 and 3 labels\)",
        ),
        (
            {"id2label": {"0": "spam"}, "problem_type": "single_label_classification"},
            "one label beside problem_type single_label_classification, which needs two or more: write regression",
        ),
    ],
    ids=str,
)
def test_contradictions_are_refused_by_name(config: dict[str, Any], message: str) -> None:
    """The message has the key, what it holds and what to write, whatever transformers makes of it."""
    with pytest.raises(ModelMismatch, match=message):
        read_labels(CLASSIFIER | config)


def test_a_folder_is_served_by_the_names_of_label2id(make_model: MakeModel) -> None:
    """transformers would make a head of two labels for it, and call them LABEL_0 and LABEL_1."""
    labels = ("anger", "joy", "fear")
    expected = response_json(ask(load_predictor(make_model(labels=labels)), "a letter")[0])
    folder = edited(make_model(labels=labels), id2label=None)
    predictor = load_predictor(folder)
    assert predictor.task.labels == list(labels)
    answer = response_json(ask(predictor, "a letter")[0])
    assert [item["label"] for item in answer] == [item["label"] for item in expected]
    tagger = edited(make_model(None, ("O", "B-X", "I-X"), BertForTokenClassification), id2label=None)
    assert load_predictor(tagger).task.labels == ["O", "B-X", "I-X"]


def test_a_misspelt_problem_type_is_not_served(make_model: MakeModel) -> None:
    """transformers loads it and computes a softmax over labels that may all be true."""
    folder = edited(make_model("multi_label_classification"), problem_type="multi_label")
    with pytest.raises(ModelMismatch, match=r"problem_type in config\.json is 'multi_label'"):
        load_predictor(folder)
    folder = edited(make_model(labels=("a", "b")), num_labels=3)
    with pytest.raises(ModelMismatch, match="num_labels 3 beside 2 names"):
        load_predictor(folder)
