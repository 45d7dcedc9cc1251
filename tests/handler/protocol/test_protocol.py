"""Codecs: every row of the table of bodies, in both directions, and real clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from huggingface_hub import TextClassificationOutputElement
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from handler.errors import (
    Expired,
    InternalError,
    InvalidInput,
    MalformedBody,
    OutOfMemory,
    RequestError,
    UnsupportedMediaType,
)
from handler.predictor import Predictor
from handler.protocol import (
    JSON,
    KSERVE_V1,
    OPEN_INFERENCE,
    PLAIN,
    AnswerFormat,
    Body,
    ModelId,
    ParsedBody,
    loads,
    parse,
    serialize,
    serialize_error,
    serialize_value,
)
from handler.request_state import Request
from handler.tasks.judging import JUDGING
from tests.support.bodies import REFUSED_TYPES, binary_body, binary_elements, tensor
from tests.support.samples import JSON_TYPE, TEXTS, response_json

MODEL = ModelId("intents", "1.2")
LABELLED = AnswerFormat(nested=True, tensors="ranking")
JOY: JSON = [{"label": "joy", "score": 0.75}, {"label": "calm", "score": 0.25}]
CALM: JSON = [{"label": "calm", "score": 0.5}, {"label": "joy", "score": 0.25}]
HEAD: JSON = {"model_name": "intents", "model_version": "1.2"}
LABELS: JSON = {"name": "label", "datatype": "BYTES", "shape": [2, 2], "data": ["joy", "calm", "calm", "joy"]}
SCORES: JSON = {"name": "score", "datatype": "FP32", "shape": [2, 2], "data": [0.75, 0.25, 0.5, 0.25]}


@dataclass(frozen=True)
class Exchange:
    """A body, what a task sees of it, and how the answers to it are written."""

    value: JSON
    items: list[JSON]
    response_json: JSON
    parameters: dict[str, JSON] = field(default_factory=dict)


BODIES = {
    "JSON string": Exchange("a", ["a"], JOY),
    "JSON list": Exchange(["a", "b"], ["a", "b"], [JOY, CALM]),
    "JSON list of one": Exchange(["a"], ["a"], [JOY]),
    "JSON list of objects": Exchange(
        [{"text": "a", "text_pair": "b"}, "c"], [{"text": "a", "text_pair": "b"}, "c"], [JOY, CALM]
    ),
    "object": Exchange({"text": "a"}, [{"text": "a"}], JOY),
    "object with a pair": Exchange({"text": "a", "text_pair": "b"}, [{"text": "a", "text_pair": "b"}], JOY),
    "object with parameters": Exchange({"text": "a", "parameters": {"top_k": 1}}, [{"text": "a"}], JOY, {"top_k": 1}),
    "object of another task": Exchange({"question": "a", "context": "b"}, [{"question": "a", "context": "b"}], JOY),
    "Hugging Face": Exchange({"inputs": "a"}, ["a"], [JOY]),
    "Hugging Face list": Exchange({"inputs": ["a", "b"]}, ["a", "b"], [JOY, CALM]),
    "Hugging Face list of one": Exchange({"inputs": ["a"]}, ["a"], [JOY]),
    "Hugging Face pair": Exchange(
        {"inputs": {"text": "a", "text_pair": "b"}}, [{"text": "a", "text_pair": "b"}], [JOY]
    ),
    "Hugging Face parameters": Exchange({"inputs": "a", "parameters": {"top_k": 2}}, ["a"], [JOY], {"top_k": 2}),
    "Hugging Face without parameters": Exchange({"inputs": "a", "parameters": None}, ["a"], [JOY]),
    "Hugging Face parameters beside": Exchange({"inputs": "a", "normalize": True}, ["a"], [JOY], {"normalize": True}),
    "Hugging Face options": Exchange({"inputs": "a", "options": {"wait_for_model": True}}, ["a"], [JOY]),
    "KServe v1": Exchange({"instances": ["a", "b"]}, ["a", "b"], {"predictions": [JOY, CALM]}),
    "KServe v1 of one": Exchange({"instances": ["a"]}, ["a"], {"predictions": [JOY]}),
    "KServe v1 with parameters": Exchange(
        {"instances": ["a"], "parameters": {"top_k": 2}}, ["a"], {"predictions": [JOY]}, {"top_k": 2}
    ),
    "KServe v1 as TorchServe's examples": Exchange({"instances": [{"data": "a"}]}, ["a"], {"predictions": [JOY]}),
    "Open Inference v2": Exchange(
        {"inputs": [tensor("a", "b")]}, [{"text": "a"}, {"text": "b"}], {**HEAD, "outputs": [LABELS, SCORES]}
    ),
    "Open Inference v2 column": Exchange(
        {"inputs": [tensor("a", "b", shape=[2, 1])]},
        [{"text": "a"}, {"text": "b"}],
        {**HEAD, "outputs": [LABELS, SCORES]},
    ),
    "Open Inference v2 nested column": Exchange(
        {"inputs": [tensor(["a"], ["b"], shape=[2, 1])]},
        [{"text": "a"}, {"text": "b"}],
        {**HEAD, "outputs": [LABELS, SCORES]},
    ),
    "Open Inference v2 pair": Exchange(
        {"id": "7", "inputs": [tensor("a", "b"), tensor("c", "d", name="text_pair")], "parameters": {"top_k": 2}},
        [{"text": "a", "text_pair": "c"}, {"text": "b", "text_pair": "d"}],
        {**HEAD, "id": "7", "outputs": [LABELS, SCORES]},
        {"top_k": 2},
    ),
    "Open Inference v2 chosen outputs": Exchange(
        {"inputs": [tensor("a", "b")], "outputs": [{"name": "score"}]},
        [{"text": "a"}, {"text": "b"}],
        {**HEAD, "outputs": [SCORES]},
    ),
    "Open Inference v2 outputs in another order": Exchange(
        {"inputs": [tensor("a", "b")], "outputs": [{"name": "score", "parameters": {}}, {"name": "label"}]},
        [{"text": "a"}, {"text": "b"}],
        {**HEAD, "outputs": [SCORES, LABELS]},
    ),
    "Open Inference v2 names of model": Exchange(
        {"model_name": "x", "model_version": "9", "id": None, "inputs": [tensor("a", "b")]},
        [{"text": "a"}, {"text": "b"}],
        {**HEAD, "outputs": [LABELS, SCORES]},
    ),
}


def answers_to(parsed: ParsedBody) -> list[JSON]:
    """Return one answer an item."""
    return [JOY, CALM][: len(parsed.items)]


@pytest.mark.parametrize("exchange", BODIES.values(), ids=BODIES)
def test_the_shape_of_the_answer_follows_the_question(exchange: Exchange) -> None:
    """What `parse` finds in a body, `serialize` answers with the same codec."""
    parsed = parse(Body(serialize_value(exchange.value), JSON_TYPE))
    assert parsed.items == exchange.items
    assert parsed.parameters == exchange.parameters
    assert parsed.on_error == "refuse"
    assert loads(serialize(parsed, answers_to(parsed), MODEL, LABELLED).content.decode()) == exchange.response_json


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/octet-stream", "TEXT/Plain; charset=UTF-8"])
@pytest.mark.parametrize("text", [*TEXTS, '{"inputs": "not JSON here"}', '["a"]', '"a"', "7", "null"])
def test_a_plain_text_is_one_question(content_type: str, text: str) -> None:
    """Without a JSON type the body is the text itself, whatever it looks like."""
    parsed = parse(Body(text.encode(), content_type))
    assert (parsed.items, parsed.parameters, parsed.many) == ([text], {}, False)
    assert loads(serialize(parsed, [JOY], MODEL, LABELLED).content.decode()) == JOY


@pytest.mark.parametrize("nested", [True, False])
def test_hugging_face_clients_of_a_nesting_task_get_one_list_more(nested: bool) -> None:
    """Only the answer to one Hugging Face text depends on the task: its client expects a list around it."""
    form = AnswerFormat(nested=nested)
    one, many = (parse(Body(serialize_value({"inputs": text}), JSON_TYPE)) for text in ("a", ["a"]))
    assert loads(serialize(one, [JOY], MODEL, form).content.decode()) == ([JOY] if nested else JOY)
    assert loads(serialize(many, [JOY], MODEL, form).content.decode()) == [JOY]
    assert loads(serialize(parse(Body(b'"a"', JSON_TYPE)), [JOY], MODEL, form).content.decode()) == JOY


@pytest.mark.parametrize(
    ("form", "answers", "outputs"),
    [
        (
            "embedding",
            [np.array([0.5, 1.5], np.float32), np.array([2.0, 3.0], np.float32)],
            [{"name": "embedding", "datatype": "FP32", "shape": [2, 2], "data": [0.5, 1.5, 2.0, 3.0]}],
        ),
        (
            "json",
            [{"answer": "a"}, {"answer": "é"}],
            [
                {
                    "name": "answer",
                    "datatype": "BYTES",
                    "shape": [2],
                    "data": ['{"answer":"a"}', '{"answer":"\\u00e9"}'],
                }
            ],
        ),
        (
            "json",
            [[0.5, 1.5], [2.0]],
            [{"name": "answer", "datatype": "BYTES", "shape": [2], "data": ["[0.5,1.5]", "[2.0]"]}],
        ),
        (
            "json",
            [[{"entity": "B", "score": 0.5}], []],
            [{"name": "answer", "datatype": "BYTES", "shape": [2], "data": ['[{"entity":"B","score":0.5}]', "[]"]}],
        ),
    ],
    ids=["embedding", "object", "similarities", "entities"],
)
def test_open_inference_chooses_tensors_by_the_form(form: Any, answers: list[JSON], outputs: JSON) -> None:
    """Embeddings are FP32, whatever has no tensor of its own is JSON in BYTES."""
    parsed = parse(Body(serialize_value({"inputs": [tensor("a", "b")]}), JSON_TYPE))
    assert loads(serialize(parsed, answers, MODEL, AnswerFormat(tensors=form)).content.decode()) == {
        **HEAD,
        "outputs": outputs,
    }


def test_open_inference_reports_errors_beside_answers() -> None:
    """With on_error=report every row is JSON, for an error has no label."""
    request = {"inputs": [tensor("a", "")], "parameters": {"on_error": "report"}}
    parsed = parse(Body(serialize_value(request), JSON_TYPE))
    assert (parsed.on_error, parsed.parameters) == ("report", {})
    (output,) = loads(serialize(parsed, [JOY, {"error": {"code": 422}}], MODEL, LABELLED).content.decode())["outputs"]
    assert (output["name"], output["shape"]) == ("answer", [2])
    assert [loads(element) for element in output["data"]] == [JOY, {"error": {"code": 422}}]


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=UTF8",
        'application/json; charset="utf-8"',
        "application/json; charset=us-ascii",
        "application/json; version=1; charset=utf-8",
        "application/json;",
        "application/json; charset=",
        "APPLICATION/JSON",
        " Application/Json ; Charset=UTF-8 ",
    ],
)
def test_json_is_known_by_its_type(content_type: str) -> None:
    """With or without parameters, in any capitals."""
    assert parse(Body(b'["a"]', content_type)).items == ["a"]


@pytest.mark.parametrize(
    ("content", "items"),
    [
        (b'{"text": "a"}', [{"text": "a"}]),
        (b' \r\n["a"]', ["a"]),
        (b'"a"', ["a"]),
        (b"a text", ["a text"]),
        (b"7", ["7"]),
        (b"null", ["null"]),
    ],
)
def test_without_types_json_is_recognized_by_its_first_character(content: bytes, items: list[JSON]) -> None:
    """A gRPC call cannot say what its bytes are."""
    assert parse(Body(content, typed=False)).items == items


@pytest.mark.parametrize("content_type", REFUSED_TYPES)
def test_other_types_are_refused(content_type: str) -> None:
    """415, and the message says what to send; the type itself is not repeated."""
    with pytest.raises(UnsupportedMediaType, match=r"send text/plain or application/json|charset must be utf-8"):
        parse(Body(b'"a"', content_type))


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br", "zstd", "x-gzip", "gzip, identity", "chunked"])
def test_encoded_bodies_are_refused(encoding: str) -> None:
    """Nothing is decompressed here."""
    with pytest.raises(UnsupportedMediaType, match="Content-Encoding"):
        parse(Body(b'"a"', JSON_TYPE, encoding))


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_identity_is_no_encoding(encoding: str) -> None:
    """The one encoding that changes nothing is accepted."""
    assert parse(Body(b'"a"', JSON_TYPE, encoding)).items == ["a"]


def test_a_form_without_data_gets_a_hint() -> None:
    """What TorchServe's form decoder loses is answered with what to send instead."""
    with pytest.raises(UnsupportedMediaType, match=r"field named data.*curl: -H 'Content-Type: application/json'"):
        parse(Body(None))


@settings(deadline=None, max_examples=80, derandomize=True)
@given(st.lists(st.text(), min_size=1, max_size=5), st.text())
def test_open_inference_keeps_any_text_and_id(texts: list[str], identity: str) -> None:
    """Texts and the client's id stay unchanged."""
    parsed = parse(Body(serialize_value({"id": identity, "inputs": [tensor(*texts)]}), JSON_TYPE))
    assert [item["text"] for item in parsed.items] == texts
    assert loads(serialize(parsed, [JOY] * len(texts), MODEL, LABELLED).content.decode())["id"] == identity


# --- errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MalformedBody("m"), 400),
        (UnsupportedMediaType("m"), 415),
        (InvalidInput("m"), 422),
        (InternalError("m"), 503),
        (Expired("m"), 504),
        (OutOfMemory("m"), 507),
    ],
)
def test_errors_have_the_shape_of_the_codec(error: RequestError, code: int) -> None:
    """TorchServe's own shape, but for the v2 route."""
    plain = {"code": code, "type": type(error).__name__, "message": "m"}
    assert loads(serialize_error(error).decode()) == plain
    assert loads(serialize_error(error, PLAIN).decode()) == plain
    assert loads(serialize_error(error, KSERVE_V1).decode()) == plain
    assert loads(serialize_error(error, OPEN_INFERENCE).decode()) == {"error": "m"}


@pytest.mark.parametrize(
    "value",
    [
        {"inputs": [{"name": "text", "shape": [1], "data": ["a"]}]},
        {"inputs": [tensor("a", datatype="INT32")]},
        {"inputs": "a", "unknown": 1},
        {"inputs": []},
        {"text": ""},
        ["a", 7],
        [],
        7,
    ],
    ids=["no datatype", "wrong datatype", "unknown parameter", "no tensor", "object", "list", "empty list", "number"],
)
def test_the_v2_route_tells_errors_in_its_own_shape(predictor: Predictor, value: JSON) -> None:
    """Whatever a client of KServe's v2 route sends, it can parse the refusal: `{"error": message}`."""
    (response,) = predictor.answer([Request(Body(serialize_value(value), JSON_TYPE), kserve=True)])
    assert response.status == 422
    assert list(response_json(response)) == ["error"]
    assert isinstance(response_json(response)["error"], str)


# --- clients that nobody here wrote ------------------------------------------------------------------------------


def infer_input(texts: list[str], name: str = "text", shape: list[int] | None = None, binary: bool = True) -> Any:
    """Return tritonclient's tensor of texts."""
    array = np.array([text.encode() for text in texts], dtype=np.object_).reshape(shape or [len(texts)])
    built = InferInput(name, list(array.shape), "BYTES")
    built.set_data_from_numpy(array, binary_data=binary)
    return built


def triton_body(*tensors: Any, **options: Any) -> Body:
    """Return the body that tritonclient sends."""
    content, json_length = InferenceServerClient.generate_request_body(list(tensors), **options)
    return Body(content, JSON_TYPE if json_length is None else "application/octet-stream", json_length=json_length)


def result_of(content: bytes, headers: Mapping[str, str]) -> Any:
    """Let tritonclient parse an answer."""
    length = headers.get("inference-header-content-length")
    return InferenceServerClient.parse_response_body(content, header_length=int(length) if length else None)


def texts_of(array: Any) -> Any:
    """Return an array with texts for bytes: tritonclient gives bytes for a binary tensor, and texts for JSON."""
    return (
        np.vectorize(lambda element: element.decode(), [object])(array) if isinstance(array.flat[0], bytes) else array
    )


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("column", [True, False], ids=["[n,1]", "[n]"])
@pytest.mark.parametrize(
    "texts", [TEXTS[:3], ["a"], ["", "b"], ["é\0\n", "屏幕"]], ids=["three", "one", "empty", "odd"]
)
def test_tritonclient_is_understood(texts: list[str], column: bool, binary: bool) -> None:
    """Both ways in which tritonclient sends texts, with the outputs it then asks for."""
    shape = [len(texts), 1] if column else None
    outputs = [InferRequestedOutput("score", binary_data=binary), InferRequestedOutput("label", binary_data=binary)]
    body = triton_body(infer_input(texts, shape=shape, binary=binary), outputs=outputs, request_id="id-1")
    parsed = parse(body)
    assert parsed.items == [{"text": text} for text in texts]
    assert parsed.parameters == {}
    response = serialize(parsed, [JOY] * len(texts), MODEL, LABELLED)
    result = result_of(response.content, response.headers)
    head = result.get_response()
    assert head["id"] == "id-1"
    assert [("data" in output, "parameters" in output) for output in head["outputs"]] == [(not binary, binary)] * 2
    assert texts_of(result.as_numpy("label")).tolist() == [["joy", "calm"]] * len(texts)
    np.testing.assert_allclose(result.as_numpy("score"), [[0.75, 0.25]] * len(texts))
    assert result.as_numpy("score").dtype == np.float32


ANSWERS: dict[str, tuple[Any, list[JSON]]] = {  # by what they show: form, and answers to two texts
    "numbers": ("embedding", list(np.array([[0.1, -1e-30], [3.4028235e38, 0.0]], np.float32))),
    "words": ("ranking", [JOY, [{"label": "安心 🙂", "score": 1e-7}, {"label": "", "score": 0.0}]]),
    "flags": ("ranking", [{"ranking": JOY, "abstained": True}, {"ranking": CALM, "abstained": False}]),
    "sets": ("ranking", [{"ranking": JOY, "set": ["joy"]}, {"ranking": CALM, "set": []}]),
    "JSON": ("json", [{"answer": "é"}, [0.5]]),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_binary_answer_is_the_json_answer(name: str) -> None:
    """Whatever tritonclient gets in binary equals what it gets in JSON, value by value and type by type."""
    form, answers = ANSWERS[name]
    results = []
    for binary in (True, False):
        body = Body(
            serialize_value({"inputs": [tensor("a", "b")], "parameters": {"binary_data_output": binary}}), JSON_TYPE
        )
        response = serialize(parse(body), answers, MODEL, AnswerFormat(tensors=form))
        assert (response.headers.get("content-type") == "application/octet-stream") == binary
        results.append(result_of(response.content, response.headers))
    names = [output["name"] for output in results[0].get_response()["outputs"]]
    assert names == [output["name"] for output in results[1].get_response()["outputs"]]
    for output in names:
        one, other = (texts_of(result.as_numpy(output)) for result in results)
        assert (one.shape, one.dtype, one.tolist()) == (other.shape, other.dtype, other.tolist())
    described = {entry["name"]: entry for entry in OPEN_INFERENCE.describe_outputs(AnswerFormat(tensors=form), JUDGING)}
    for output in results[0].get_response()["outputs"]:
        assert output["datatype"] == described[output["name"]]["datatype"]
        assert len(output["shape"]) == len(described[output["name"]]["shape"])


@pytest.mark.parametrize(
    ("default", "named", "expected"),
    [
        (None, {}, {"label": False, "score": False}),
        (True, {}, {"label": True, "score": True}),
        (None, {"score": True, "label": None}, {"score": True, "label": False}),
        (True, {"score": None, "label": False}, {"score": True, "label": False}),
        (True, {"score": False}, {"score": False}),
        (False, {"score": True}, {"score": True}),
    ],
)
def test_each_output_may_be_binary(
    default: bool | None, named: dict[str, bool | None], expected: dict[str, bool]
) -> None:
    """What is said of an output goes before what is said of all; JSON where nothing is said."""
    outputs = [
        {"name": name} | ({} if flag is None else {"parameters": {"binary_data": flag}}) for name, flag in named.items()
    ]
    parameters = {} if default is None else {"binary_data_output": default}
    value = {"inputs": [tensor("a")], "parameters": parameters, **({"outputs": outputs} if outputs else {})}
    response = serialize(parse(Body(serialize_value(value), JSON_TYPE)), [JOY], MODEL, LABELLED)
    head = loads(response.content[: response.json_length].decode())
    assert {output["name"]: "parameters" in output for output in head["outputs"]} == expected
    result = result_of(response.content, response.headers)
    np.testing.assert_array_equal(result.as_numpy("score"), np.array([[0.75, 0.25]], dtype=np.float32))


def test_without_headers_every_answer_is_json() -> None:
    """gRPC has no place for the length of the JSON: a client could not read the rest."""
    value = {"inputs": [tensor("a")], "parameters": {"binary_data_output": True}}
    named = {**value, "outputs": [{"name": "score", "parameters": {"binary_data": True}}]}
    for asked in (value, named):
        response = serialize(parse(Body(serialize_value(asked), typed=False)), [JOY], MODEL, LABELLED)
        assert (response.json_length, response.headers) == (None, {})
        assert loads(response.content.decode())["outputs"][-1]["data"] == [0.75, 0.25]


def test_a_number_that_json_does_not_have_is_in_no_binary_answer() -> None:
    """A model that answers NaN is an error in both."""
    for binary in (True, False):
        value = {"inputs": [tensor("a")], "parameters": {"binary_data_output": binary}}
        answers = [np.array([np.nan], np.float32)]
        with pytest.raises(ValueError, match="not finite"):
            serialize(parse(Body(serialize_value(value), JSON_TYPE)), answers, MODEL, AnswerFormat(tensors="embedding"))


@pytest.mark.parametrize("content_type", ["", "application/octet-stream", JSON_TYPE])
def test_binary_tensors_are_known_by_the_length_of_their_json(content_type: str) -> None:
    """tritonclient says no content type; the header with the length is enough."""
    body = triton_body(infer_input(["a", "b"]), infer_input(["c", "d"], name="text_pair"), parameters={"top_k": 1})
    parsed = parse(Body(body.content, content_type, json_length=body.json_length))
    assert parsed.items == [{"text": "a", "text_pair": "c"}, {"text": "b", "text_pair": "d"}]
    assert parsed.parameters == {"top_k": 1}


@pytest.mark.parametrize("length", [1, 9, 40])
def test_a_stale_length_of_the_json_is_named(length: int) -> None:
    """A header of another body cuts the JSON: the message says that it does."""
    content = serialize_value({"inputs": [tensor("a text", "another")]})
    message = "body is not JSON: .* where Inference-Header-Content-Length ends it: send the length of the JSON"
    with pytest.raises(MalformedBody, match=message):
        parse(Body(content, json_length=length))
    with pytest.raises(MalformedBody, match="Inference-Header-Content-Length is more than the length of the body"):
        parse(Body(content, json_length=length + len(content)))
    with pytest.raises(MalformedBody, match="Inference-Header-Content-Length must be a number of bytes"):
        parse(Body(content, json_length=-1))
    assert parse(Body(content, json_length=len(content))).items == [{"text": "a text"}, {"text": "another"}]


def test_tritonclient_gets_the_predictors_answers(predictor: Predictor) -> None:
    """Labels and scores that tritonclient parses are those of the plain answer."""
    plain = predictor.answer([Request(Body(serialize_value(TEXTS[:3]), JSON_TYPE))])[0]
    response = predictor.answer([Request(triton_body(infer_input(TEXTS[:3])), kserve=True)])[0]
    assert (plain.status, response.status) == (200, 200)
    result = result_of(response.content, response.headers)
    for answer, labels, scores in zip(
        response_json(plain), result.as_numpy("label"), result.as_numpy("score"), strict=True
    ):
        assert [item["label"] for item in answer] == texts_of(labels).tolist()
        np.testing.assert_allclose([item["score"] for item in answer], scores, atol=1e-6)


def test_tritonclient_gets_the_reason_of_a_refusal() -> None:
    """Triton's own way to ask for the best labels would come back in another shape; ours is top_k."""
    outputs = [InferRequestedOutput("label", class_count=2)]
    with pytest.raises(InvalidInput, match=r"outputs\[0\]\.parameters has an unknown key, accepted: binary_data"):
        parse(triton_body(infer_input(["a"]), outputs=outputs))


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("datatype", ["INT32", "FP32", "UINT8"])
def test_tritonclient_with_a_wrong_datatype_gets_the_reason(datatype: str, binary: bool) -> None:
    """A tensor of numbers is well-formed, but no text: 422 that names BYTES, not 400 about its bytes."""
    numbers = {"INT32": np.int32, "FP32": np.float32, "UINT8": np.uint8}[datatype]
    wrong = InferInput("text", [3], datatype)
    wrong.set_data_from_numpy(np.array([1, 2, 250], dtype=numbers), binary_data=binary)
    with pytest.raises(InvalidInput, match=r"datatype.*BYTES"):
        parse(triton_body(wrong))


@pytest.mark.parametrize(
    "body",
    [
        binary_body(binary_elements(b"a"), 6),
        binary_body(binary_elements(b"a"), 4),
        binary_body(binary_elements(b"a"), -1),
        binary_body(binary_elements(b"a"), 10**15),
        binary_body(binary_elements(b"a") + b"x", 5),
        binary_body(binary_elements(b"a") + b"x", 6),
        binary_body(b"\xff\xff\xff\xffa", 5),
        binary_body(b"\x01", 1),
        binary_body(binary_elements(b"\xff"), 5),
        binary_body(binary_elements(b"\xe2\x82"), 6),
        binary_body(binary_elements(b"a"), 5, json_length=3),
        binary_body(binary_elements(b"a"), 5, json_length=0),
        Body(b'{"inputs": "a"}' + binary_elements(b"a"), json_length=15),
        Body(b"[]" + binary_elements(b"a"), json_length=2),
    ],
    ids=[
        "size too large",
        "size too small",
        "size below zero",
        "size huge",
        "bytes left over",
        "half a length after",
        "element past the end",
        "half a length",
        "not UTF-8",
        "truncated UTF-8",
        "JSON cut",
        "no JSON",
        "no tensor",
        "a list",
    ],
)
def test_broken_binary_tensors_are_malformed(body: Body) -> None:
    """Lengths that lie are 400, whatever they claim."""
    with pytest.raises(MalformedBody):
        parse(body)


def test_the_hugging_face_client_parses_the_answer(predictor: Predictor) -> None:
    """The body of InferenceClient.text_classification, and what the client makes of the answer."""
    request = {"inputs": TEXTS[0], "parameters": {"top_k": 2, "function_to_apply": "softmax"}}
    response = predictor.answer([Request(Body(serialize_value(request), JSON_TYPE))])[0]
    elements = TextClassificationOutputElement.parse_obj_as_list(response_json(response))[0]
    assert [type(element.score) for element in elements] == [float, float]


@pytest.mark.parametrize(
    "body",
    [
        Body(TEXTS[0].encode(), "text/plain"),
        Body(TEXTS[0].encode()),
        Body(TEXTS[0].encode(), typed=False),
        *(
            Body(serialize_value(value), JSON_TYPE)
            for value in (
                TEXTS[0],
                [TEXTS[0]],
                {"text": TEXTS[0]},
                {"inputs": TEXTS[0]},
                {"inputs": [TEXTS[0]]},
                {"instances": [TEXTS[0]]},
                {"instances": [{"data": TEXTS[0]}]},
                {"instances": [{"text": TEXTS[0]}]},
            )
        ),
    ],
    ids=str,
)
def test_one_text_has_one_answer_in_every_codec(predictor: Predictor, body: Body) -> None:
    """The codec wraps the answer and does not change it."""
    expected = response_json(predictor.answer([Request(Body(serialize_value(TEXTS[0]), JSON_TYPE))])[0])
    answer = response_json(predictor.answer([Request(body)])[0])
    answer = answer.get("predictions") if isinstance(answer, dict) else answer
    assert answer in (expected, [expected])
