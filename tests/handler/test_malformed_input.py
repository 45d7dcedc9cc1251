"""Every bad input of the reliability notes: the documented 4xx, harmless neighbours, and no text of a user anywhere.

What is bad stands in tests/support/malformed.py; tests/reliability sends it to a live server.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from handler.predictor import Predictor
from handler.protocol import JSON, Body, serialize_value
from handler.request_state import Request, Response
from tests.support.bodies import tensor
from tests.support.malformed import (
    ALL,
    GOOD,
    IN_EVERY_CODEC,
    MARK,
    OF_TENSORS,
    ONE_BY_ONE,
    STRANGE,
    TEMPLATES,
    UNKNOWN_OUTPUT,
    Bad,
    requests,
)
from tests.support.samples import JSON_TYPE, MakePredictor, response_json


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Keep the tiny model from waiting for a second core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def neighbours(predictor: Predictor) -> list[bytes]:
    """Return what seven good requests get in one batch, which is what each gets alone."""
    together = predictor.answer(requests(*GOOD))
    alone = [predictor.answer([request])[0] for request in requests(*GOOD)]
    assert {response.status for response in (*together, *alone)} == {200}
    for one, other in zip(alone, together, strict=True):
        assert predictor.task.answers_match(response_json(one), response_json(other), 1e-6)
    return [response.content for response in together]


@pytest.fixture
def silent(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Fail a test in which a user's text reaches the log, standard output or standard error."""
    caplog.set_level(0)
    yield
    printed = "".join(capfd.readouterr())
    assert MARK.lower() not in (caplog.text + printed).lower()


def check_refusal(response: Response, expected: Bad) -> None:
    """Hold a reply against the documented refusal."""
    assert response.status == expected.status, expected.name
    value = response_json(response)
    if "error" in value:
        assert list(value) == ["error"]
        message = value["error"]
    else:
        assert list(value) == ["code", "type", "message"]
        assert (value["code"], value["type"]) == (expected.status, expected.kind)
        message = value["message"]
    assert isinstance(message, str)
    assert message
    check_discretion(response)
    assert response.headers["x-error-message"][:50] == message[:50].encode("ascii", "replace").decode()


def check_discretion(response: Response) -> None:
    """Fail if a reply holds a user's text, or anything that TorchServe or HTTP could stumble over."""
    written = response.content.decode("ascii")
    for shown in (written, response.phrase, *response.headers, *response.headers.values()):
        assert MARK.lower() not in shown.lower()
        assert shown.isascii()
        assert shown.isprintable()
        assert len(shown) < 3000


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("case", [*ONE_BY_ONE, UNKNOWN_OUTPUT], ids=str)
def test_bad_input_alone(predictor: Predictor, case: Bad) -> None:
    """The documented status, in the shape of the codec, and nothing of the text."""
    (response,) = predictor.answer([case.request])
    check_refusal(response, case)


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("cases", IN_EVERY_CODEC.values(), ids=IN_EVERY_CODEC)
def test_bad_items_of_every_codec_alone(predictor: Predictor, cases: list[Bad]) -> None:
    """The same refusal in all codecs."""
    for case in cases:
        (response,) = predictor.answer([case.request])
        check_refusal(response, case)


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("case", ONE_BY_ONE, ids=str)
def test_bad_input_among_good(predictor: Predictor, neighbours: list[bytes], case: Bad) -> None:
    """One bad row among seven good ones: the same refusal, and the bytes that the good ones get without it."""
    place = len(case.name) % 8
    responses = predictor.answer([*requests(*GOOD[:place]), case.request, *requests(*GOOD[place:])])
    check_refusal(responses.pop(place), case)
    assert [response.content for response in responses] == neighbours


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("cases", IN_EVERY_CODEC.values(), ids=IN_EVERY_CODEC)
def test_bad_items_of_every_codec_among_good(predictor: Predictor, neighbours: list[bytes], cases: list[Bad]) -> None:
    """Seven good rows, each between two bad ones with the same item in two codecs."""
    between = [row for case, good in zip(cases[:7], requests(*GOOD), strict=True) for row in (case.request, good)]
    responses = predictor.answer([*between, cases[7].request])
    for response, case in zip(responses[::2], cases, strict=True):
        check_refusal(response, case)
    assert [response.content for response in responses[1::2]] == neighbours


@pytest.mark.usefixtures("silent")
def test_every_bad_input_in_one_batch(predictor: Predictor, neighbours: list[bytes]) -> None:
    """A batch of nothing but bad rows, but for seven: each gets its own refusal."""
    cases = [*ALL[::3], *ALL[1::3]]
    responses = predictor.answer([*requests(*GOOD), *(case.request for case in cases)])
    assert [response.content for response in responses[:7]] == neighbours
    for response, case in zip(responses[7:], cases, strict=True):
        check_refusal(response, case)


@pytest.mark.parametrize("case", [case for case in OF_TENSORS if case.name.startswith("Open")], ids=str)
def test_open_inference_is_refused_in_its_own_shape(predictor: Predictor, case: Bad) -> None:
    """On the v2 route: `{"error": message}`."""
    (response,) = predictor.answer([replace(case.request, kserve=True)])
    assert response.status == case.status
    assert list(response_json(response)) == ["error"]


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("n_words", [511, 100_000])
@pytest.mark.parametrize("codec", TEMPLATES)
def test_too_many_tokens_under_refuse(long_refuser: Predictor, codec: str, n_words: int) -> None:
    """513 tokens, or 100,000: 413 that tells both numbers; 512 are answered."""
    template = TEMPLATES[codec]
    text = serialize_value("a " * n_words)
    (response,) = long_refuser.answer([Request(Body(template.replace(b"%s", text), JSON_TYPE))])
    check_refusal(response, Bad("", Request(Body(None)), 413, "InputTooLong"))
    assert b"accepted: at most 512" in response.content


@pytest.fixture(scope="module")
def long_refuser(make_predictor: MakePredictor) -> Predictor:
    """Return a predictor that refuses long texts, and takes many characters."""
    return make_predictor(overflow="refuse", max_characters=1_000_000)


def test_the_longest_text_under_refuse(long_refuser: Predictor) -> None:
    """512 tokens are not too many."""
    (response,) = long_refuser.answer(requests("a " * 510))
    assert (response.status, response.headers["x-request-tokens"]) == (200, "512")


@pytest.mark.usefixtures("silent")
def test_a_bad_item_is_named_by_its_index(predictor: Predictor) -> None:
    """Every bad index of a list, and no good one."""
    (response,) = predictor.answer([Request(Body(serialize_value([MARK, "", MARK, None, 7]), JSON_TYPE))])
    message = response_json(response)["message"]
    assert [f"item {n}:" in message for n in range(5)] == [False, True, False, True, True]
    check_discretion(response)


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("codec", ["list", "hugging face", "kserve v1", "open inference"])
def test_bad_items_can_be_reported_beside_answers(predictor: Predictor, codec: str) -> None:
    """With on_error=report each bad item has its own error, and each good one its answer."""
    texts: list[JSON] = ["fine", "", MARK, None, "\ud800"]
    body = {
        "list": {"inputs": texts},
        "hugging face": {"inputs": texts},
        "kserve v1": {"instances": texts},
        "open inference": {"inputs": [tensor(*texts)]},
    }[codec]
    (response,) = predictor.answer(
        [Request(Body(serialize_value({**body, "parameters": {"on_error": "report"}}), JSON_TYPE))]
    )
    assert response.status == 200
    value = response_json(response)
    if codec == "kserve v1":
        value = value["predictions"]
    if codec == "open inference":
        value = [response_json(Response(element.encode())) for element in value["outputs"][0]["data"]]
    assert [isinstance(answer, list) for answer in value] == [True, False, True, False, False]
    for index in (1, 3, 4):
        assert value[index]["error"]["code"] == 422
        assert value[index]["error"]["type"] == "InvalidInput"
    check_discretion(response)


@pytest.mark.parametrize("body", [{"text": ""}, {"inputs": None}], ids=["object", "Hugging Face"])
def test_a_single_bad_question_is_never_reported_as_an_answer(predictor: Predictor, body: dict[str, JSON]) -> None:
    """on_error=report is for lists: one bad question alone is refused."""
    (response,) = predictor.answer(
        [Request(Body(serialize_value({**body, "parameters": {"on_error": "report"}}), JSON_TYPE))]
    )
    assert response.status == 422


@pytest.mark.usefixtures("silent")
def test_a_refused_output_name_leaves_the_neighbours_alone(predictor: Predictor) -> None:
    """The one refusal that is known only when the answers are: the neighbours still get theirs."""
    responses = predictor.answer([*requests(*GOOD), UNKNOWN_OUTPUT.request])
    check_refusal(responses.pop(), UNKNOWN_OUTPUT)
    for text, response in zip(GOOD, responses, strict=True):
        assert predictor.task.answers_match(
            response_json(predictor.answer(requests(text))[0]), response_json(response), 1e-6
        )


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE)
def test_strange_texts_are_answered(predictor: Predictor, neighbours: list[bytes], text: str) -> None:
    """As text and as JSON alike, in one line of ASCII that holds only labels and scores."""
    bodies = [
        Body(text.encode(), "text/plain"),
        Body(serialize_value(text), JSON_TYPE),
        Body(serialize_value([text]), JSON_TYPE),
    ]
    responses = predictor.answer([Request(body) for body in bodies])
    assert [response.status for response in responses] == [200, 200, 200]
    plain, string, many = map(response_json, responses)
    assert predictor.task.answers_match(plain, string, 1e-6)
    assert predictor.task.answers_match(plain, many[0], 1e-6)
    assert [set(item) for item in plain] == [{"label", "score"}] * 4
    for response in responses:
        check_discretion(response)
    mixed = predictor.answer([*requests(*GOOD), Request(bodies[0])])
    for content, response in zip(neighbours, mixed, strict=False):
        assert predictor.task.answers_match(response_json(Response(content)), response_json(response), 1e-6)


def test_a_million_keys_cost_seconds_at_most(predictor: Predictor) -> None:
    """Ten megabytes of keys are refused before any work is done."""
    body = b"{" + b",".join(b'"%d":0' % n for n in range(1_000_000)) + b"}"
    began = time.process_time()
    (response,) = predictor.answer([Request(Body(body, JSON_TYPE))])
    assert response.status == 422
    assert time.process_time() - began < 10


@pytest.mark.parametrize("n_requests", [0, 1, 64])
def test_as_many_replies_as_requests(predictor: Predictor, n_requests: int) -> None:
    """An empty batch, a batch of nothing but bad rows."""
    responses = predictor.answer([ALL[0].request] * n_requests)
    assert [response.status for response in responses] == [ALL[0].status] * n_requests
