"""Invariants of the predictor: order, batch invariance, isolation, and rows that differ in everything."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from handler.description import describe
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.protocol import JSON, Body, serialize_value
from handler.request_state import Request
from tests.support.samples import JSON_TYPE, TEXTS, MakePredictor, ask, response_json

BAD: list[JSON] = [None, 7, {}, [], "", [3], {"text": 1}, {"inputs": None}, {"instances": "x"}, ["a", " "]]


def requests(values: list[JSON]) -> list[Request]:
    """Make one request of each value."""
    return [Request(Body(serialize_value(value), JSON_TYPE)) for value in values]


def test_answers_follow_requests_under_any_permutation(predictor: Predictor) -> None:
    """Whatever the order of the rows, each gets its own answer."""
    expected = {text: response_json(ask(predictor, text)[0]) for text in TEXTS}
    shuffled = [*TEXTS, *TEXTS[:4]]
    for seed in range(5):
        random.Random(seed).shuffle(shuffled)  # noqa: S311
        for text, response in zip(shuffled, predictor.answer(requests(shuffled)), strict=True):
            assert predictor.task.answers_match(expected[text], response_json(response), 1e-5)


def test_one_request_of_many_texts_equals_many_requests_of_one(predictor: Predictor) -> None:
    """Rows and texts flatten into one plan."""
    (many,) = ask(predictor, TEXTS)
    singles = ask(predictor, *TEXTS)
    for single, other in zip(response_json(many), singles, strict=True):
        assert predictor.task.answers_match(single, response_json(other), 1e-5)
    assert many.headers["x-batch-tokens"] == singles[0].headers["x-batch-tokens"]
    assert many.headers["x-batch-texts"] == str(len(TEXTS))


@pytest.mark.parametrize("bad", BAD, ids=repr)
@pytest.mark.parametrize("place", [0, 3, 7])
def test_a_bad_row_harms_only_itself(predictor: Predictor, bad: JSON, place: int) -> None:
    """Seven good rows answer with the same bytes as without the bad one."""
    good: list[JSON] = list(TEXTS[:7])
    alone = predictor.answer(requests(good))
    mixed = predictor.answer(requests([*good[:place], bad, *good[place:]]))
    refused = mixed.pop(place)
    assert refused.status == 422
    assert [response.content for response in mixed] == [response.content for response in alone]
    assert {response.status for response in mixed} == {200}


def test_rows_of_one_batch_may_differ_in_everything(predictor: Predictor) -> None:
    """Dialects, parameters and pairs in one batch: each row is answered on its own terms."""
    text = "It works again."
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}
    values: list[JSON] = [
        text,
        [text],
        {"text": text},
        {"inputs": text},
        {"inputs": [text]},
        {"instances": [text, {"data": text}]},
        {"inputs": [tensor], "id": "42", "parameters": {"top_k": 2}},
        {"inputs": text, "parameters": {"top_k": 1}},
        {"text": text, "text_pair": text},
    ]
    responses = predictor.answer([*requests(values), Request(Body(text.encode(), "text/plain"))])
    single, many, field, hugging, hugging_list, kserve, tensors, top, pair, plain = map(response_json, responses)
    assert single == field == plain
    assert many == hugging == hugging_list == [single]
    assert kserve == {"predictions": [single, single]}
    assert tensors["id"] == "42"
    assert tensors["outputs"][0]["data"] == [ranked["label"] for ranked in single[:2]]
    assert tensors["outputs"][1] == {
        "name": "score",
        "datatype": "FP32",
        "shape": [1, 2],
        "data": [ranked["score"] for ranked in single[:2]],
    }
    assert top == [single[:1]]
    assert pair != single


def test_every_bad_index_of_a_list_is_named(predictor: Predictor) -> None:
    """The default refuses the whole request."""
    (response,) = ask(predictor, ["a", None, "b", ""])
    assert response.status == 422
    assert response_json(response)["message"] == "item 1: text must be a string, got null; item 3: text is empty"
    assert response.headers["x-error-message"] == response_json(response)["message"]


def test_on_error_report_answers_beside_errors(predictor: Predictor) -> None:
    """Each bad item gets its error in its place, good ones their answers."""
    (response,) = ask(predictor, {"inputs": ["a", None, "b"], "parameters": {"on_error": "report"}})
    first, second, third = response_json(response)
    assert response.status == 200
    assert second == {"error": {"code": 422, "type": "InvalidInput", "message": "text must be a string, got null"}}
    assert [first, third] == response_json(ask(predictor, ["a", "b"])[0])


def test_truncation_is_visible(predictor: Predictor) -> None:
    """The header appears only where something was cut."""
    long, short = ask(predictor, "word " * 700, "word")
    assert (long.headers["x-request-tokens"], long.headers["x-truncated-tokens"]) == ("512", "190")
    assert short.headers["x-request-tokens"] == "3"
    assert "x-truncated-tokens" not in short.headers


@pytest.mark.parametrize(
    ("settings", "value", "message"),
    [
        ({"overflow": "refuse"}, "word " * 700, "text has 702 tokens, accepted: at most 512"),
        ({"max_characters": 10}, "x" * 11, "text has 11 characters, accepted: at most 10"),
        ({"max_texts": 2}, ["a"] * 3, "3 texts in one request, accepted: at most 2"),
    ],
    ids=["tokens", "characters", "texts"],
)
def test_limits_are_413(make_predictor: MakePredictor, settings: dict[str, Any], value: JSON, message: str) -> None:
    """Each limit says what came and what is accepted."""
    good, refused = ask(make_predictor(**settings), "fine", value)
    assert (good.status, refused.status) == (200, 413)
    assert response_json(refused)["message"] == message


def test_an_answer_that_is_too_long_is_413_and_alone(predictor: Predictor, model_folder: Path) -> None:
    """Its size is known before it is sent: its neighbours are answered, and a smaller top_k fits."""
    limited = load_predictor(model_folder, max_response_bytes=1000)
    many = {"inputs": TEXTS[:8], "parameters": {"top_k": None}}
    before, refused, after = ask(limited, TEXTS[0], many, TEXTS[1])
    assert (before.status, after.status) == (200, 200)
    size = len(ask(predictor, many)[0].content)
    assert (refused.status, response_json(refused)["type"]) == (413, "AnswerTooLong")
    assert response_json(refused)["message"] == (
        f"the answer has {size} bytes, accepted: at most 1000 (max_response_size of TorchServe): "
        "send fewer texts at once, or ask for a smaller top_k"
    )
    (fitting,) = ask(limited, {**many, "parameters": {"top_k": 1}})
    assert len(response_json(fitting)) == 8


def test_a_passed_deadline_is_not_computed(predictor: Predictor) -> None:
    """504 for what nobody waits for any more; a deadline to come changes nothing."""
    now = time.time() * 1000
    assert ask(predictor, "late", deadline_ms=now - 1)[0].status == 504
    assert ask(predictor, "early", deadline_ms=now + 60_000)[0].status == 200


def test_metadata_of_open_inference_are_an_operation(predictor: Predictor) -> None:
    """Nothing is computed for them, and it explains nothing."""
    body = {"inputs": "-", "parameters": {"operation": "metadata"}}
    (response,) = ask(predictor, body)
    metadata = response_json(response)
    assert (response.status, metadata["name"]) == (200, predictor.model.name)
    assert metadata["versions"] == [predictor.model.version]
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["text", "text_pair"]
    assert {"name": "score", "datatype": "FP32", "shape": [-1, -1]} in metadata["outputs"]
    assert "x-request-tokens" not in response.headers
    assert ask(predictor, body, explain=True)[0].status == 404


def test_an_unknown_operation_is_404(predictor: Predictor) -> None:
    """The message names what there is; a stray header on KServe's routes is ignored."""
    assert ask(predictor, "a", operation="predict")[0].status == 200
    (unknown,) = ask(predictor, "a", operation="nonsense")
    accepted = "predict, classify, embed, similarity, tokenize"
    assert (unknown.status, response_json(unknown)["message"]) == (404, f"unknown operation, accepted: {accepted}")
    assert ask(predictor, {"instances": ["a"]}, operation="nonsense")[0].status == 200
    (unexplained,) = ask(predictor, "a", operation="nonsense", explain=True)
    assert unexplained.status == 404
    assert response_json(unexplained)["message"] == "no explanations of this operation, accepted: predict, classify"
    assert ask(predictor, {"inputs": "a", "parameters": {"operation": "classify"}})[0].status == 200
    assert ask(predictor, {"inputs": "a", "parameters": {"operation": "nonsense"}})[0].status == 404
    assert ask(predictor, {"inputs": "a", "parameters": {"operation": 1}})[0].status == 422


def test_describe_tells_what_is_served(predictor: Predictor) -> None:
    """Labels, limits and precision, without loading anything."""
    description = describe(predictor)
    assert description["task"] == "text-classification"
    assert description["labels"] == ["anger", "joy", "fear", "calm"]
    assert description["limits"]["max_length"] == 512
    assert description["openapi"]["openapi"] == "3.1.0"


def test_what_tells_drift_is_counted_without_texts(predictor: Predictor) -> None:
    """First labels of good answers and the sum of their scores; tokens that the vocabulary does not have."""
    body = {"inputs": ["hello", "", "hello ⁂ there"], "parameters": {"on_error": "report"}}
    batch = predictor.preprocess([Request(Body(serialize_value(body), JSON_TYPE))])
    predictor.inference(batch)
    (response,) = predictor.postprocess(batch)
    first, _, last = response_json(response)
    assert sum(batch.report.labels.values()) == 2
    assert batch.report.score_sum == pytest.approx(first[0]["score"] + last[0]["score"])
    assert batch.report.n_unknown == 1
