"""rerank: scores equal those of the cross-encoder in transformers, best first."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from handler.config import ServingConfig
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.protocol import loads
from tests.support.samples import TEXTS, MakeModel, ask, response_json
from tests.support.tokenizers import byte_level_tokenizer

QUESTION = {"query": TEXTS[0], "texts": TEXTS[1:]}


@pytest.fixture(scope="module")
def folder(make_model: MakeModel) -> Path:
    """Return the folder of a cross-encoder."""
    return make_model(problem_type=None, labels=("relevant",))


@pytest.fixture(scope="module")
def reranker(folder: Path) -> Predictor:
    """Return a predictor whose main task is to rank."""
    return load_predictor(folder, ServingConfig(task="rerank"))


def logits_of(folder: Path, query: str, texts: list[str], max_length: int = 512) -> NDArray[np.floating[Any]]:
    """Return what transformers gives each pair, of which only the text may be cut."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    found = []
    for text in texts:
        tokens = tokenizer(query, text, truncation="only_second", max_length=max_length, return_tensors="pt")
        with torch.inference_mode():
            found.append(model(**tokens).logits[0].numpy())
    return np.concatenate(found)


def ranked(scores: NDArray[np.floating[Any]]) -> list[Any]:
    """Return the answer that scores should give."""
    return [{"index": int(n), "score": pytest.approx(float(scores[n]), abs=1e-5)} for n in np.argsort(-scores)]


def test_scores_equal_transformers(reranker: Predictor, folder: Path) -> None:
    """Every script, texts too long; as probabilities and raw, all or the best few, with their texts or without."""
    logits = logits_of(folder, TEXTS[0], TEXTS[1:])
    expected = ranked(1 / (1 + np.exp(-logits)))
    assert response_json(ask(reranker, QUESTION)[0]) == expected
    assert response_json(ask(reranker, {**QUESTION, "parameters": {"top_k": 3}})[0]) == expected[:3]
    assert response_json(ask(reranker, {**QUESTION, "parameters": {"raw_scores": True}})[0]) == ranked(logits)
    texts = response_json(ask(reranker, {**QUESTION, "parameters": {"return_text": True}})[0])
    assert [one["text"] for one in texts] == [QUESTION["texts"][one["index"]] for one in expected]


def test_a_byte_level_model_equals_transformers(make_model: MakeModel) -> None:
    """RoBERTa parts a pair by other tokens and has no segments."""
    tokenizer = byte_level_tokenizer()
    folder = make_model(
        problem_type=None,
        labels=("relevant",),
        architecture=RobertaForSequenceClassification,
        config_class=RobertaConfig,
        pad_token_id=1,
        type_vocab_size=1,
        vocab_size=len(tokenizer),
    )
    tokenizer.save_pretrained(folder)
    predictor = load_predictor(folder)
    logits = logits_of(folder, TEXTS[0], TEXTS[1:], predictor.tokenizer.max_length)
    assert response_json(ask(predictor, QUESTION, operation="rerank")[0]) == ranked(1 / (1 + np.exp(-logits)))


def test_which_models_rank(reranker: Predictor, folder: Path, predictor: Predictor) -> None:
    """A model with one label scores texts in the main and ranks beside; one with four does not rank."""
    both = load_predictor(folder)
    assert both.task.name == "text-classification"
    (answer,) = ask(both, QUESTION, operation="rerank")
    assert response_json(answer) == response_json(ask(reranker, QUESTION)[0])
    assert "rerank" not in predictor.operations


def test_a_query_that_fills_the_model_shares_the_room(reranker: Predictor) -> None:
    """Where cutting the text alone would leave none of it, both are cut."""
    (reply,) = ask(reranker, {"query": "word " * 600, "texts": ["one", "two words"]})
    assert (reply.status, len(response_json(reply))) == (200, 2)
    assert int(reply.headers["x-truncated-tokens"]) > 0


def test_every_dialect_asks(reranker: Predictor) -> None:
    """The shape of the answer follows that of the question; texts of one v2 row lie beside each other."""
    question = {"query": "where", "texts": ["here", "there"]}
    columns = [("query", [1], ["where"]), ("texts", [1, 2], ["here", "there"])]
    tensors = [{"name": name, "shape": shape, "datatype": "BYTES", "data": data} for name, shape, data in columns]
    alone = [{**tensors[0]}, {**tensors[1], "shape": [1, 1], "data": ["here"]}]
    values = [question, {"inputs": question}, {"instances": [question]}, {"inputs": tensors}, {"inputs": alone}]
    plain, hugging, kserve, rows, row = map(response_json, ask(reranker, *values))
    assert plain == hugging == kserve["predictions"][0]
    assert loads(rows["outputs"][0]["data"][0]) == plain
    assert [one["index"] for one in loads(row["outputs"][0]["data"][0])] == [0]


@pytest.mark.parametrize(
    ("value", "status", "message"),
    [
        ("a", 422, "a question must be an object with query and texts, got a string"),
        ({"query": "a"}, 422, "texts must be a list of strings, got null"),
        ({"query": "a", "texts": []}, 422, "texts must be a list of strings, got none"),
        ({"query": "a", "texts": ["b", ""]}, 422, r"texts\[1\] is empty"),
        ({"query": " ", "texts": ["b"]}, 422, "query is empty"),
        ({"query": "a", "texts": ["b"], "documents": []}, 422, "unknown field, accepted: query, texts"),
        ({"query": "a", "texts": ["b"] * 1001}, 413, "more than 1000 texts or pairs"),
        ({"query": "a" * 50_000, "texts": ["b"] * 30}, 413, "accepted: at most 1000000"),
        ({"query": "a", "texts": ["b"], "parameters": {"top_k": 0}}, 422, "top_k must be a whole number of 1 or more"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_questions(reranker: Predictor, value: Any, status: int, message: str) -> None:
    """A message names the field and what is accepted; neighbours are answered."""
    bad, good = ask(reranker, value, {"query": "a", "texts": "b"})
    assert (bad.status, good.status) == (status, 200)
    assert re.search(message, response_json(bad)["message"])
