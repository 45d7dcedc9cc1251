"""next-sentence-prediction: BERT's own head, its first logit for a sentence that follows."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertForNextSentencePrediction, BertForPreTraining

from handler.loading import load_predictor
from handler.predictor import Predictor
from tests.support.samples import TEXTS, MakeModel, ask, response_json

PAIRS = [{"text": one, "next_sentence": other} for one, other in zip(TEXTS, TEXTS[::-1], strict=True)]


@pytest.fixture(scope="module")
def follower(make_model: MakeModel) -> Predictor:
    """Return a predictor over a model with this head alone."""
    return load_predictor(make_model(architecture=BertForNextSentencePrediction))


@pytest.mark.parametrize("architecture", [BertForNextSentencePrediction, BertForPreTraining])
def test_scores_equal_transformers(architecture: Any, make_model: MakeModel) -> None:
    """Pairs of every script, and such as are too long, with this head alone or beside the one for masks."""
    folder = make_model(architecture=architecture)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), architecture.from_pretrained(folder)
    (reply,) = ask(load_predictor(folder), PAIRS, operation="next-sentence")
    for pair, answer in zip(PAIRS, response_json(reply), strict=True):
        tokens = tokenizer(*pair.values(), truncation=True, return_tensors="pt")
        with torch.inference_mode():
            output = model(**tokens)
        logits = output.seq_relationship_logits if architecture is BertForPreTraining else output.logits
        is_next, not_next = logits.softmax(-1)[0].tolist()
        assert {one["label"]: one["score"] for one in answer} == pytest.approx(
            {"is_next": is_next, "not_next": not_next}, abs=1e-5
        )
        assert answer[0]["score"] >= answer[1]["score"]


def test_every_dialect_asks(follower: Predictor) -> None:
    """The shape of the answer follows that of the question; v2 answers with labels and scores."""
    pair = PAIRS[3]
    tensors = [{"name": name, "shape": [1], "datatype": "BYTES", "data": [text]} for name, text in pair.items()]
    values = [pair, {"inputs": pair}, {"instances": [pair]}, {"inputs": tensors}]
    plain, hugging, kserve, rows = map(response_json, ask(follower, *values))
    assert plain == hugging == kserve["predictions"][0]
    assert [output["data"] for output in rows["outputs"]] == [[one[key] for one in plain] for key in ("label", "score")]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a", "a question must be an object with text and next_sentence, got a string"),
        ({"text": "a"}, "next_sentence must be a string, got null"),
        ({"text": "a", "text_pair": "b"}, "unknown field, accepted: text, next_sentence"),
        ({"text": "", "next_sentence": "b"}, "text is empty"),
        ({"inputs": PAIRS[0], "parameters": {"top_k": 1}}, "unknown parameter, accepted: none"),
    ],
    ids=str,
)
def test_bad_questions(follower: Predictor, value: Any, message: str) -> None:
    """A message names the field and what is accepted; neighbours are answered."""
    bad, good = ask(follower, value, PAIRS[0])
    assert (bad.status, good.status) == (422, 200)
    assert re.search(message, response_json(bad)["message"])
