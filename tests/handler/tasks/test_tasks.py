"""Parity: every answer equals that of the pipeline of transformers on the same text."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from transformers import RobertaConfig, RobertaForSequenceClassification, pipeline

from handler.loading import load_predictor
from handler.predictor import Predictor
from tests.support.samples import TEXTS, MakeModel, ask, response_json
from tests.support.tokenizers import byte_level_tokenizer, generic_tokenizer

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
    return load_predictor(folder), pipeline("text-classification", str(folder), truncation=True, device="cpu")


@pytest.mark.parametrize("function", [None, "softmax", "sigmoid", "none"])
@pytest.mark.parametrize("top_k", [1, 3, None])
def test_classification_equals_the_pipeline(
    pair: tuple[Predictor, Any], function: str | None, top_k: int | None
) -> None:
    """Labels, scores and order, for texts and pairs, under every function and number of labels."""
    predictor, reference = pair
    parameters = {"top_k": top_k} | ({"function_to_apply": function} if function else {})
    texts_and_pairs: list[Any] = [*TEXTS[::2], {"text": TEXTS[1], "text_pair": TEXTS[3]}, *TEXTS[1::2]]
    got = response_json(ask(predictor, {"inputs": texts_and_pairs, "parameters": parameters})[0])
    for item, answer in zip(texts_and_pairs, got, strict=True):
        expected = reference(item, **parameters)
        assert [one["label"] for one in answer] == [one["label"] for one in expected]
        assert [one["score"] for one in answer] == pytest.approx([one["score"] for one in expected], abs=1e-5)


def test_the_operators_top_k_is_the_default(pair: tuple[Predictor, Any]) -> None:
    """A request without parameters gets `top_k` labels; never more than there are."""
    predictor, _ = pair
    answer = response_json(ask(predictor, "hello")[0])
    assert len(answer) == min(5, len(predictor.task.labels))


@pytest.mark.parametrize(
    ("make_tokenizer", "settings"),
    [
        (
            byte_level_tokenizer,
            {
                "architecture": RobertaForSequenceClassification,
                "config_class": RobertaConfig,
                "pad_token_id": 1,
                "type_vocab_size": 1,
            },
        ),
        (generic_tokenizer, {"whole_vocabulary": True}),
    ],
    ids=["byte-level BPE", "generic class"],
)
def test_other_tokenizers_equal_the_pipeline(
    make_tokenizer: Callable[[], Any], settings: dict[str, Any], make_model: MakeModel
) -> None:
    """Texts that spell a padding token, and pairs, whatever tokenizer a model has."""
    folder = make_model(**settings)
    make_tokenizer().save_pretrained(folder)
    predictor = load_predictor(folder)
    longest = predictor.tokenizer.max_length
    reference: Any = pipeline("text-classification", str(folder), truncation=True, max_length=longest, device="cpu")
    reference.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    odd = ["hi <pad> there <pad> friend", "[PAD] or [SEP]", "</s>"]
    pairs = [{"text": one, "text_pair": other} for one, other in itertools.pairwise(TEXTS)]
    items: list[Any] = [*odd, *TEXTS[:10], *pairs]
    got = response_json(ask(predictor, {"inputs": items, "parameters": {"top_k": None}})[0])
    for item, answer in zip(items, got, strict=True):
        expected = {one["label"]: one["score"] for one in reference(item, top_k=None)}
        assert {one["label"]: one["score"] for one in answer} == pytest.approx(expected, abs=1e-5)
