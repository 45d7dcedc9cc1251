"""zero-shot-classification: labels, scores and order equal those of the pipeline of transformers."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

from handler.config import ServingConfig
from handler.errors import ModelMismatch
from handler.loading import load_predictor
from handler.predictor import Predictor
from tests.support.samples import TEXTS, MakeModel, ask, response_json

LABELS = ["a complaint", "praise", "屏幕", "a question 🙂"]
NLI = [
    ("contradiction", "neutral", "entailment"),
    ("Entailment", "neutral", "contradiction"),
    ("not_x", "entailed"),
]
Pair = tuple[Predictor, Any]


@pytest.fixture(scope="module", params=NLI, ids=str)
def pair(request: pytest.FixtureRequest, make_model: MakeModel) -> Pair:
    """Make a model of each order of labels: our predictor, which classifies in the main, and the pipeline."""
    folder = make_model(labels=request.param)
    return load_predictor(folder), pipeline("zero-shot-classification", str(folder), device="cpu")


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"multi_label": True},
        {"hypothesis_template": "Dies ist {}!"},
        {"candidate_labels": "rot, grün ,, blau"},
        {"candidate_labels": ["alone"]},
        {"candidate_labels": "alone", "multi_label": True},
    ],
    ids=str,
)
def test_every_text_equals_the_pipeline(pair: Pair, parameters: dict[str, Any]) -> None:
    """Labels as a list or a string, one or several true, other templates; only a text that is too long gives way."""
    predictor, reference = pair
    parameters = {"candidate_labels": LABELS} | parameters
    found = response_json(ask(predictor, {"inputs": TEXTS, "parameters": parameters}, operation="zero-shot")[0])
    for text, its in zip(TEXTS, found, strict=True):
        expected = reference(text, **parameters)
        assert [one["label"] for one in its] == expected["labels"]
        assert [one["score"] for one in its] == pytest.approx(expected["scores"], abs=1e-5)


def test_it_is_the_main_task_where_the_operator_says_so(make_model: MakeModel) -> None:
    """By default such a model classifies; a model without an entailment label is refused at the start."""
    folder = make_model(labels=NLI[0])
    assert load_predictor(folder).task.name == "text-classification"
    predictor = load_predictor(folder, ServingConfig(task="zero-shot-classification"))
    value = {"inputs": TEXTS[0], "parameters": {"candidate_labels": LABELS}}
    (main,) = ask(predictor, value)
    (other,) = ask(load_predictor(folder), value, operation="zero-shot")
    assert response_json(main) == response_json(other)
    plain = make_model()
    assert "zero-shot" not in load_predictor(plain).operations
    with pytest.raises(ModelMismatch, match=r"no label in config\.json starts with entail"):
        load_predictor(plain, ServingConfig(task="zero-shot-classification"))


def test_every_dialect_asks(pair: Pair) -> None:
    """The shape of the answer follows that of the question; v2 answers with labels and scores."""
    text, parameters = TEXTS[0], {"candidate_labels": "red, green"}
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}
    values = [
        {"text": text, "parameters": parameters},
        {"inputs": text, "parameters": parameters},
        {"instances": [text], "parameters": parameters},
        {"inputs": [tensor], "parameters": parameters},
    ]
    plain, hugging, kserve, tensors = map(response_json, ask(pair[0], *values, operation="zero-shot"))
    assert plain == hugging == kserve["predictions"][0]
    labels, scores = tensors["outputs"]
    assert (labels["shape"], labels["data"]) == ([1, 2], [one["label"] for one in plain])
    assert scores["data"] == [one["score"] for one in plain]


def test_a_template_is_no_program(pair: Pair) -> None:
    """Only {} is replaced: what str.format would obey stays as it stands."""
    template = "{0.__class__} {label!r:>9999999} %s {}"
    asked = {"inputs": "a", "parameters": {"candidate_labels": ["x", "{}"], "hypothesis_template": template}}
    (reply,) = ask(pair[0], asked, operation="zero-shot")
    pairs = pair[0].operations["zero-shot"].parse("a", asked["parameters"]).texts  # type: ignore[arg-type]
    assert reply.status == 200
    assert pairs[0][1] == "{0.__class__} {label!r:>9999999} %s x"


@pytest.mark.parametrize(
    ("value", "parameters", "status", "message"),
    [
        ("a", {}, 422, "candidate_labels is missing"),
        ("a", {"candidate_labels": []}, 422, "candidate_labels must be a list of strings, got none"),
        ("a", {"candidate_labels": " , "}, 422, "candidate_labels must be a list of strings, got none"),
        ("a", {"candidate_labels": ["b", " "]}, 422, r"candidate_labels\[1\] is empty"),
        ("a", {"candidate_labels": ["b", 7]}, 422, "candidate_labels must be a list of strings or one string"),
        ("a", {"candidate_labels": ["b"] * 1001}, 413, "candidate_labels are 1001, accepted: at most 1000"),
        (["a", "b"], {"candidate_labels": ["b"] * 501}, 413, "more than 1000 texts or pairs"),
        ("a", {"candidate_labels": ["b" * 1000], "hypothesis_template": "{}" * 1500}, 413, "have 1503001 characters"),
        (["a"] * 21, {"candidate_labels": ["b" * 99_000]}, 413, "of one request have more than 2000000 characters"),
        ("a" * 50_000, {"candidate_labels": ["b"] * 30}, 413, "have 1500600 characters, accepted: at most 1000000"),
        ("a", {"candidate_labels": "b", "hypothesis_template": "no place"}, 422, "hypothesis_template must be a str"),
        ("a", {"candidate_labels": "b", "multi_label": "yes"}, 422, "multi_label must be true or false"),
        ("a", {"candidate_labels": "b", "top_k": 3}, 422, "unknown parameter"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_questions(pair: Pair, value: Any, parameters: dict[str, Any], status: int, message: str) -> None:
    """A message names the field and what is accepted; neighbours are answered."""
    good = {"inputs": "fine", "parameters": {"candidate_labels": "b"}}
    replies = ask(pair[0], {"inputs": value, "parameters": parameters}, good, operation="zero-shot")
    assert [reply.status for reply in replies] == [status, 200]
    assert re.search(message, response_json(replies[0])["message"])


def test_a_short_body_makes_no_million_pairs(pair: Pair) -> None:
    """It is refused where the limit is passed, before the other pairs are made: they took 1.6 GB and 45 s."""
    parameters = {"candidate_labels": [f"label {n}" for n in range(1000)], "hypothesis_template": "x" * 300 + "{}"}
    tracemalloc.start()
    try:
        (reply,) = ask(pair[0], {"inputs": ["a"] * 300, "parameters": parameters}, operation="zero-shot")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reply.status == 413
    assert peak < 10_000_000


def test_the_operators_limits_hold(make_model: MakeModel) -> None:
    """A long text is refused where nothing may be cut, as a long pair."""
    folder: Path = make_model(labels=NLI[0])
    predictor = load_predictor(folder, ServingConfig(overflow="refuse"))
    asked = {"inputs": TEXTS[10], "parameters": {"candidate_labels": LABELS}}
    (reply,) = ask(predictor, asked, operation="zero-shot")
    assert reply.status == 413
