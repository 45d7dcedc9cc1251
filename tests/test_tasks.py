"""Parity: every answer equals that of the pipeline of transformers on the same text."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import pipeline

from handler.predictor import Predictor
from tests.samples import TEXTS, MakeModel, ask, told

KINDS: dict[str, dict[str, Any]] = {
    "single-label": {},
    "single-label, unnamed": {"problem_type": None},
    "multi-label": {"problem_type": "multi_label_classification"},
    "one label": {"problem_type": None, "labels": ("spam",)},
    "regression": {"problem_type": "regression", "labels": ("stars",)},
    "many labels": {"labels": tuple(f"label {index}" for index in range(40))},
}


@pytest.fixture(scope="module", params=KINDS, ids=str)
def pair(request: pytest.FixtureRequest, make_model: MakeModel) -> tuple[Predictor, Any]:
    """Make a model of each kind: our predictor and the pipeline over it."""
    folder = make_model(**KINDS[request.param])
    return Predictor.load(folder), pipeline("text-classification", str(folder), truncation=True, device="cpu")


@pytest.mark.parametrize("function", [None, "softmax", "sigmoid", "none"])
@pytest.mark.parametrize("top_k", [1, 3, None])
def test_classification_equals_the_pipeline(
    pair: tuple[Predictor, Any], function: str | None, top_k: int | None
) -> None:
    """Labels, scores and order, for texts and pairs, under every function and number of labels."""
    predictor, reference = pair
    parameters = {"top_k": top_k} | ({"function_to_apply": function} if function else {})
    texts_and_pairs: list[Any] = [*TEXTS[::2], {"text": TEXTS[1], "text_pair": TEXTS[3]}, *TEXTS[1::2]]
    got = told(ask(predictor, {"inputs": texts_and_pairs, "parameters": parameters})[0])
    for item, answer in zip(texts_and_pairs, got, strict=True):
        expected = reference(item, **parameters)
        assert [one["label"] for one in answer] == [one["label"] for one in expected]
        assert [one["score"] for one in answer] == pytest.approx([one["score"] for one in expected], abs=1e-5)


def test_the_operators_top_k_is_the_default(pair: tuple[Predictor, Any]) -> None:
    """A request without parameters gets `top_k` labels; never more than there are."""
    predictor, _ = pair
    answer = told(ask(predictor, "hello")[0])
    assert len(answer) == min(5, len(predictor.task.labels))
