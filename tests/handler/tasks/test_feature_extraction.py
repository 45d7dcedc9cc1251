"""Embeddings: those of AutoModel, pooled as their definitions say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer, BertModel, MPNetConfig, MPNetModel, RobertaConfig, RobertaModel
from transformers import pipeline as pipeline_of

from handler.config import ServingConfig
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.protocol import Body, serialize_value
from handler.request_state import Request
from handler.tasks.scores import values_allclose
from tests.support.samples import BASE, JSON_TYPE, TEXTS, MakeModel, ask, response_json
from tests.support.tokenizers import byte_level_tokenizer

Vector = NDArray[np.float64]


@pytest.fixture(scope="module")
def folder(make_model: MakeModel) -> Path:
    """Return the folder of a bare encoder, which is what embeddings are mainly made with."""
    return make_model(architecture=BertModel)


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Predictor:
    """Return a predictor over it."""
    return load_predictor(folder)


def embed(predictor: Predictor, texts: list[str], **parameters: Any) -> Vector:
    """Return the vectors of texts, (n, width), computed in one batch."""
    return np.array(response_json(ask(predictor, {"inputs": texts, "parameters": parameters}, operation="embed")[0]))


def tokens_of(folder: Path, texts: list[str], max_length: int | None = None) -> list[Vector]:
    """Return what transformers' pipeline gives each text: a vector for every token."""
    pipeline = pipeline_of("feature-extraction", str(folder), device="cpu")
    cut = {"truncation": True} | ({"max_length": max_length} if max_length else {})
    return [np.array(pipeline(text, tokenize_kwargs=cut)[0]) for text in texts]


def test_pooled_vectors_equal_the_pipelines_tokens(embedder: Predictor, folder: Path) -> None:
    """The mean, the first token, scaled to length 1, cut to fewer dimensions; every script, texts too long."""
    tokens = tokens_of(folder, TEXTS)
    means = np.stack([its.mean(0) for its in tokens])
    first = np.stack([its[0] for its in tokens])
    assert embed(embedder, TEXTS) == pytest.approx(means, abs=1e-5)
    assert embed(embedder, TEXTS, pooling="cls") == pytest.approx(first, abs=1e-5)
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    assert embed(embedder, TEXTS, normalize=True) == pytest.approx(unit, abs=1e-5)
    short = means[:, :7]
    assert embed(embedder, TEXTS, dimensions=7) == pytest.approx(short, abs=1e-5)
    unit = short / np.linalg.norm(short, axis=1, keepdims=True)
    assert embed(embedder, TEXTS, dimensions=7, normalize=True) == pytest.approx(unit, abs=1e-5)


@pytest.mark.parametrize("packed", [True, False])
def test_a_padded_batch_gives_the_same(embedder: Predictor, folder: Path, packed: bool) -> None:
    """Padding is in no mean; a text has the same vector alone as among others."""
    predictor = load_predictor(folder, packed=packed)
    expected = embed(embedder, TEXTS)
    assert embed(predictor, TEXTS) == pytest.approx(expected, abs=1e-5)
    alone = np.concatenate([embed(predictor, [text]) for text in TEXTS])
    assert alone == pytest.approx(expected, abs=1e-5)


def test_other_families(make_model: MakeModel) -> None:
    """RoBERTa with byte-level tokens, and a family that is computed padded."""
    fairseq = {"pad_token_id": 1, "type_vocab_size": 1, "max_position_embeddings": 80}
    tokenizer = byte_level_tokenizer()
    for architecture, config_class in ((RobertaModel, RobertaConfig), (MPNetModel, MPNetConfig)):
        folder = make_model(architecture=architecture, config_class=config_class, **fairseq, vocab_size=len(tokenizer))
        tokenizer.save_pretrained(folder)
        predictor = load_predictor(folder)
        means = [its.mean(0) for its in tokens_of(folder, TEXTS, predictor.tokenizer.max_length)]
        assert embed(predictor, TEXTS) == pytest.approx(np.stack(means), abs=1e-5)


def test_the_base_model_as_sentence_transformers_pools_it() -> None:
    """all-MiniLM-L6-v2: the means and cosines of the code on its model card."""
    texts = ["That is a happy person", "That is a very happy person", "Today is a sunny day"]
    tokenizer, model = AutoTokenizer.from_pretrained(BASE), AutoModel.from_pretrained(BASE)
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    mask = tokens["attention_mask"].unsqueeze(-1)
    with torch.inference_mode():
        sums = (model(**tokens).last_hidden_state * mask).sum(1)
    expected = torch.nn.functional.normalize(sums / mask.sum(1)).numpy()
    predictor = load_predictor(BASE)
    assert predictor.task.name == "feature-extraction"
    assert embed(predictor, texts, normalize=True) == pytest.approx(expected, abs=1e-5)
    (similar,) = ask(predictor, {"source_sentence": texts[0], "sentences": texts[1:]}, operation="similarity")
    assert response_json(similar) == pytest.approx(expected[1:] @ expected[0], abs=1e-5)


def test_windows_count_every_token_once(make_model: MakeModel) -> None:
    """A long text: the mean over all its tokens and the special ones of each window; the first tokens' mean for cls."""
    folder = make_model(architecture=BertModel)
    text = " ".join(TEXTS[:4] * 4)
    predictor = load_predictor(folder, ServingConfig(overflow="window", max_length=40, stride=20))
    (reply,) = ask(predictor, text)
    assert "x-truncated-tokens" not in reply.headers
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = [[101, *ids[start : start + 38], 102] for start in range(0, len(ids), 38)]
    assert len(pieces) > 2
    with torch.inference_mode():
        states = [model(torch.tensor([piece])).last_hidden_state[0] for piece in pieces]
    assert response_json(reply) == pytest.approx(torch.cat(states).mean(0).tolist(), abs=1e-5)
    firsts = np.average([its[0].numpy() for its in states], axis=0, weights=[len(piece) for piece in pieces])
    assert embed(predictor, [text], pooling="cls")[0] == pytest.approx(firsts, abs=1e-5)
    (cut,) = ask(predictor, {"inputs": text, "truncate": True})
    assert response_json(cut) == pytest.approx(states[0].mean(0).tolist(), abs=1e-5)
    assert cut.headers["x-truncated-tokens"] == str(len(ids) - 38)


def test_every_dialect_asks(embedder: Predictor) -> None:
    """The shape of the answer follows that of the question; v2 answers with numbers, (n, width)."""
    text, other = TEXTS[0], TEXTS[3]
    tensor = {"name": "text", "shape": [2], "datatype": "BYTES", "data": [text, other]}
    unset = {"normalize": None, "prompt_name": None, "truncation_direction": None, "encoding_format": "float"}
    replies = ask(
        embedder,
        text,
        {"text": text},
        {"inputs": text},
        {"instances": [text, other]},
        {"inputs": [tensor]},
        {"inputs": text, **unset, "truncate": True, "dimensions": 3},
        [other, text],
    )
    one, field, hugging, kserve, tensors, few, many = map(response_json, replies)
    assert one == field == hugging == kserve["predictions"][0] == many[1]
    (output,) = tensors["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("embedding", "FP32", [2, 32])
    assert output["data"] == [*one, *many[0]]
    assert few == one[:3]


@pytest.mark.parametrize(
    ("value", "status", "message"),
    [
        ({"inputs": "a", "parameters": {"pooling": "max"}}, 422, "pooling must be one of mean, cls"),
        ({"inputs": "a", "parameters": {"dimensions": 33}}, 422, "dimensions must be a whole number from 1 to 32, got"),
        ({"inputs": "a", "parameters": {"normalize": 1}}, 422, "normalize must be true or false"),
        ({"inputs": "a", "encoding_format": "base64"}, 422, "unknown parameter, accepted: pooling, normalize"),
        ({"inputs": "a", "prompt_name": "query"}, 422, "unknown parameter, accepted: pooling, normalize, dimensions"),
        ({"inputs": "word " * 700, "truncate": False}, 413, "text has 702 tokens, accepted: at most 512"),
        ({"text": ["a"]}, 422, "text must be a string, got a list"),
    ],
    ids=str,
)
def test_bad_questions(embedder: Predictor, value: Any, status: int, message: str) -> None:
    """A message names the field and what is accepted; neighbours are answered."""
    bad, good = ask(embedder, value, "fine")
    assert (bad.status, good.status) == (status, 200)
    assert re.search(message, response_json(bad)["message"])


def test_operations_of_one_model_share_a_batch(predictor: Predictor) -> None:
    """A classifier that embeds, compares and tokenises beside: each row as if it were asked alone."""
    pair = {"source_sentence": TEXTS[0], "sentences": TEXTS[1:4]}
    rows: list[tuple[Any, str]] = [
        (TEXTS[0], "predict"),
        (TEXTS[0], "embed"),
        ({"inputs": TEXTS[:5], "parameters": {"pooling": "cls"}}, "embed"),
        (pair, "similarity"),
        (TEXTS[4], "tokenize"),
        (TEXTS[10], "embed"),
        (TEXTS[3], "classify"),
        (7, "embed"),
    ]
    alone = [response_json(ask(predictor, value, operation=word)[0]) for value, word in rows]
    mixed = predictor.answer([Request(Body(serialize_value(value), JSON_TYPE), operation=word) for value, word in rows])
    assert [reply.status for reply in mixed] == [200] * 7 + [422]
    assert all(
        values_allclose(expected, response_json(reply), 1e-5) for expected, reply in zip(alone, mixed, strict=True)
    )


def test_two_answers_agree_as_points(embedder: Predictor) -> None:
    """Near in all, whatever a single number does; a vector of another text is far."""
    one, other = embed(embedder, TEXTS[:2])
    agree = embedder.task.answers_match
    nearly = one + np.float64(1e-3) * np.linalg.norm(one) * np.eye(32)[0]
    assert agree(one.tolist(), nearly.tolist(), 2e-3)
    assert not agree(one.tolist(), nearly.tolist(), 5e-4)
    assert not agree(one.tolist(), other.tolist(), 5e-2)
    assert not agree(one.tolist(), one[:5].tolist(), 1.0)
