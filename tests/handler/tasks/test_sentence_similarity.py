"""sentence-similarity: cosines between the vectors that feature-extraction gives."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from transformers import BertModel

from handler.config import ServingConfig
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.protocol import loads
from tests.support.samples import TEXTS, MakeModel, ask, response_json

QUESTION = {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}


@pytest.fixture(scope="module")
def comparer(make_model: MakeModel) -> Predictor:
    """Return a predictor whose main task is to compare."""
    return load_predictor(make_model(architecture=BertModel), ServingConfig(task="sentence-similarity"))


def cosines(predictor: Predictor, **parameters: Any) -> list[float]:
    """Return what the embeddings of the question come to."""
    asked = {"inputs": TEXTS, "parameters": {"normalize": True, **parameters}}
    vectors = np.array(response_json(ask(predictor, asked, operation="embed")[0]))
    similar: list[float] = (vectors[1:] @ vectors[0]).tolist()
    return similar


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_cosines_equal_those_of_embeddings(comparer: Predictor, pooling: str) -> None:
    """Every script, and a text that is too long, in the order of the sentences."""
    (reply,) = ask(comparer, {**QUESTION, "parameters": {"pooling": pooling}})
    assert response_json(reply) == pytest.approx(cosines(comparer, pooling=pooling), abs=1e-5)


def test_windows_belong_to_their_own_sentence(make_model: MakeModel) -> None:
    """Several long sentences, each read through windows."""
    config = ServingConfig(overflow="window", max_length=12)
    predictor = load_predictor(make_model(architecture=BertModel), config)
    (reply,) = ask(predictor, QUESTION, operation="similarity")
    assert response_json(reply) == pytest.approx(cosines(predictor), abs=1e-5)
    assert "x-truncated-tokens" not in reply.headers


def test_every_dialect_asks(comparer: Predictor, predictor: Predictor) -> None:
    """The shape of the answer follows that of the question; a classifier compares too."""
    question = {"source_sentence": "where", "sentences": ["here", "where"]}
    columns = [("source_sentence", [1], ["where"]), ("sentences", [1, 2], ["here", "where"])]
    tensors = [{"name": name, "shape": shape, "datatype": "BYTES", "data": data} for name, shape, data in columns]
    values = [question, {"inputs": question}, {"instances": [question]}, {"inputs": tensors}]
    plain, hugging, kserve, rows = map(response_json, ask(comparer, *values))
    assert plain == hugging == kserve["predictions"][0] == loads(rows["outputs"][0]["data"][0])
    assert plain[1] == pytest.approx(1.0)
    assert response_json(ask(predictor, question, operation="similarity")[0])[1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("value", "status", "message"),
    [
        ("a", 422, "a question must be an object with source_sentence and sentences, got a string"),
        ({"source_sentence": "a"}, 422, "sentences must be a list of strings, got null"),
        ({"source_sentence": "a", "sentences": ["b", 7]}, 422, r"sentences\[1\] must be a string, got a number"),
        ({"source_sentence": "", "sentences": ["b"]}, 422, "source_sentence is empty"),
        ({"source_sentence": "a", "sentences": ["b"] * 1000}, 413, "more than 1000 texts or pairs"),
        ({"inputs": QUESTION, "parameters": {"pooling": "max"}}, 422, "pooling must be one of mean, cls"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_questions(comparer: Predictor, value: Any, status: int, message: str) -> None:
    """A message names the field and what is accepted; neighbours are answered."""
    bad, good = ask(comparer, value, {"source_sentence": "a", "sentences": "b"})
    assert (bad.status, good.status) == (status, 200)
    assert re.search(message, response_json(bad)["message"])
