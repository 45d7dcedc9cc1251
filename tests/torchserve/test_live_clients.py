"""Clients that nobody here wrote, and every task: what each gets from a live server is what a local predictor says.

One tiny model of each head lies in each server; most have further operations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from handler.config import ServingConfig
from handler.description import describe
from handler.loading import load_predictor
from handler.predictor import Predictor
from handler.tasks import TASKS, Task
from scripts.client.settings import effective
from tests.support.live import Live
from tests.support.samples import HEADS

pytestmark = pytest.mark.server

TOLERANCE = 1e-5
ADA = "Ada Lovelace wrote to Charles Babbage in London, and Élodie Müller-Łukasz read it in 東京. 🙂 "
PARCEL = "The parcel left Hamburg on Monday, and Ms Müller-Łukasz signed for it at noon. "
COMPLAINT = "The screen went black after two days, and the shop does not answer my letters."


@dataclass(frozen=True)
class Case:
    """A question for one task: which model answers it, and by which word of the path."""

    model: str
    operation: str
    item: Any
    parameters: Mapping[str, Any] = field(default_factory=dict)


CASES = {
    "text-classification": Case("tiny", "predict", {"text": COMPLAINT, "text_pair": PARCEL}, {"top_k": 3}),
    "token-classification": Case("entities", "predict", ADA, {"aggregation_strategy": "first"}),
    "question-answering": Case("answers", "predict", {"question": "Who signed?", "context": PARCEL}, {"top_k": 2}),
    "fill-mask": Case("pretrained", "predict", "The capital of France is [MASK].", {"top_k": 3}),
    "next-sentence-prediction": Case("pretrained", "next-sentence", {"text": PARCEL, "next_sentence": COMPLAINT}),
    "feature-extraction": Case("encoder", "predict", COMPLAINT, {"normalize": True}),
    "sparse-embedding": Case("sparse", "predict", COMPLAINT, {"return_tokens": True}),
    "late-interaction": Case("late", "predict", {"text": ADA, "input_type": "query"}, {"return_tokens": True}),
    "sentence-similarity": Case("encoder", "similarity", {"source_sentence": ADA, "sentences": [PARCEL, COMPLAINT]}),
    "zero-shot-classification": Case("entailment", "predict", ADA, {"candidate_labels": "letters, parcels, 東京"}),
    "rerank": Case("reranker", "predict", {"query": "Where?", "texts": [PARCEL, ADA]}, {"return_text": True}),
    "tokenize": Case("encoder", "tokenize", {"text": ADA, "text_pair": PARCEL}),
}


@dataclass(frozen=True)
class Served:
    """The server, and the same models in this process."""

    live: Live
    local: Mapping[str, Predictor]

    def task(self, model: str, operation: str = "predict") -> Task:
        """Return the task behind a word of the path."""
        return self.local[model].operations[operation]

    def expected(self, case: Case, *, explain: bool = False) -> Any:
        """Answer or explain in this process."""
        parameters = {**case.parameters, "operation": case.operation}
        return self.local[case.model].answer_items([case.item], parameters, explain=explain)[0]

    def check(self, case: Case, answer: Any) -> None:
        """Hold an answer of the server against that of this process."""
        expected = self.expected(case)
        same = self.task(case.model, case.operation).answers_match(expected, answer, TOLERANCE)
        assert same, f"{case}: {answer} instead of {expected}"

    def ask(self, path: str, value: Any) -> Any:
        """Send JSON; return the JSON of a good answer."""
        response = self.live.post(path, json.dumps(value))
        assert response.status_code == 200, (path, response.text)
        return response.json()

    def hugging_face(self, path: str) -> InferenceClient:
        """Return Hugging Face's client of a model, or of one of its operations."""
        return InferenceClient(model=f"{self.live.url}/predictions/{path}", token=self.live.key)


@pytest.fixture(scope="module")
def local(heads: Mapping[str, Path], model_folder: Path) -> Mapping[str, Predictor]:
    """Load the models that the servers have into this process."""
    loaded = {
        name: load_predictor(folder, ServingConfig(task=HEADS[name][1]), name=name) for name, folder in heads.items()
    }
    return {**loaded, "tiny": load_predictor(model_folder, name="tiny")}


@pytest.fixture
def served(each_server: Live, local: Mapping[str, Predictor]) -> Served:
    """Return each server, with the same models in this process."""
    return Served(each_server, local)


def test_every_task_is_asked_here() -> None:
    """A new task needs a case, and an operation of the right name."""
    assert CASES.keys() == TASKS.keys()


# --- huggingface_hub ---------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Turn what InferenceClient returns back into JSON; it fills fields that did not come with None."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [plain(one) for one in value]
    return {key: one for key, one in value.items() if one is not None} if isinstance(value, dict) else value


QUESTION = {"question": "When did the parcel leave?", "context": PARCEL}
LABELS = ["a letter", "a parcel, or two", "東京"]
LONG_QUESTION = {"question": "When did it leave? " * 9, "context": PARCEL * 40}

# Method of the client, model and operation, arguments by name; the text, or the object that it stands for.
HUGGING_FACE: list[tuple[str, str, dict[str, Any], Any]] = [
    ("text_classification", "tiny", {}, COMPLAINT),
    ("text_classification", "tiny", {"top_k": 2, "function_to_apply": "sigmoid"}, COMPLAINT),
    ("text_classification", "entailment/1.0/classify", {"function_to_apply": "none"}, COMPLAINT),
    ("token_classification", "entities", {}, ADA),
    *(
        ("token_classification", "entities", {"aggregation_strategy": strategy}, ADA)
        for strategy in ("none", "simple", "first", "average", "max")
    ),
    ("token_classification", "entities", {"ignore_labels": ["PER"], "stride": 16}, ADA * 60),
    ("question_answering", "answers", {}, QUESTION),
    ("question_answering", "answers", {"top_k": 3, "handle_impossible_answer": True}, QUESTION),
    ("question_answering", "answers", {"align_to_words": False, "max_answer_len": 4}, QUESTION),
    ("question_answering", "answers", {"doc_stride": 32, "max_seq_len": 96, "max_question_len": 12}, LONG_QUESTION),
    ("fill_mask", "pretrained", {}, "Paris is the [MASK] of France."),
    ("fill_mask", "pretrained", {"top_k": 2, "targets": ["capital", "heart", "town"]}, "Paris is the [MASK] of it."),
    ("fill_mask", "pretrained", {"top_k": 2}, "[MASK] is the [MASK] of France."),
    ("feature_extraction", "encoder", {}, COMPLAINT),
    (
        "feature_extraction",
        "encoder",
        {"normalize": True, "dimensions": 8, "truncate": True, "encoding_format": "float"},
        COMPLAINT * 60,
    ),
    ("feature_extraction", "pretrained/1.0/embed", {"normalize": False}, COMPLAINT),
    ("sentence_similarity", "encoder/1.0/similarity", {}, CASES["sentence-similarity"].item),
    ("zero_shot_classification", "entailment", {"candidate_labels": LABELS}, COMPLAINT),
    ("zero_shot_classification", "entailment", {"candidate_labels": LABELS, "multi_label": True}, COMPLAINT),
    (
        "zero_shot_classification",
        "entailment",
        {"candidate_labels": LABELS[:1], "hypothesis_template": "It is about {}."},
        COMPLAINT,
    ),
]


@pytest.mark.parametrize(
    ("method", "path", "parameters", "item"),
    HUGGING_FACE,
    ids=[f"{method}-{','.join(parameters) or 'plain'}" for method, _, parameters, _ in HUGGING_FACE],
)
def test_hugging_face(served: Served, method: str, path: str, parameters: dict[str, Any], item: Any) -> None:
    """Every method that the client has for these tasks, with everything that it can send."""
    model, _, operation = path.partition("/1.0/")
    arguments = {"text": item} if isinstance(item, str) else item
    if method == "sentence_similarity":
        arguments = {"sentence": item["source_sentence"], "other_sentences": item["sentences"]}
    answer = getattr(served.hugging_face(path), method)(**arguments, **parameters)
    served.check(Case(model, operation or "predict", item, parameters), plain(answer))


def test_hugging_face_gets_arrays(served: Served) -> None:
    """One text is a vector, several are a matrix, of float32 both."""
    client = served.hugging_face("encoder")
    one, several = client.feature_extraction(COMPLAINT), client.feature_extraction([COMPLAINT, ADA], normalize=True)
    assert (one.shape, several.shape) == ((32,), (2, 32))
    assert one.dtype == several.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(several, axis=1), 1, atol=TOLERANCE)
    np.testing.assert_allclose(several[0], one / np.linalg.norm(one), atol=TOLERANCE)


@pytest.mark.parametrize(
    ("path", "ask", "reason"),
    [
        ("pretrained", lambda client: client.fill_mask("No mask."), "text must hold at least one [MASK]"),
        ("answers", lambda client: client.question_answering("Who?", " "), "context is empty"),
        ("encoder", lambda client: client.feature_extraction("a " * 600, truncate=False), "text has 602 tokens"),
        ("entailment", lambda client: client.zero_shot_classification("a", []), "candidate_labels"),
        ("encoder", lambda client: client.sentence_similarity("a", ["b"]), "text"),
        ("encoder/1.0/entities", lambda client: client.token_classification("a"), "unknown operation, accepted"),
        ("tiny", lambda client: client.token_classification("a", stride=1), "unknown parameter, accepted: top_k"),
    ],
    ids=["fill_mask", "question_answering", "feature_extraction", "zero_shot", "similarity", "operation", "other task"],
)
def test_hugging_face_shows_why_not(
    served: Served, path: str, ask: Callable[[InferenceClient], Any], reason: str
) -> None:
    """The message of its exception holds ours."""
    with pytest.raises(HfHubHTTPError) as refused:
        ask(served.hugging_face(path))
    assert reason in str(refused.value)


# --- tritonclient ------------------------------------------------------------------------------------------------


@pytest.fixture
def nvidia(each_server: Live) -> Iterator[Callable[..., Any]]:
    """Return a caller of `InferenceServerClient.infer` with the server's key."""
    client = triton.InferenceServerClient(each_server.url.removeprefix("http://"))

    def infer(model: str, inputs: list[Any], **more: Any) -> Any:
        return client.infer(model, inputs, headers={"Authorization": f"Bearer {each_server.key}"}, **more)

    with client:
        yield infer


OUTPUTS = {"ranking": ["label", "score"], "embedding": ["embedding"], "json": ["answer"]}  # by the form of answers


def tensors_of(items: list[Any], *, binary: bool) -> list[Any]:
    """Return one tensor a field, (items,) of texts and (items, k) of lists of k texts."""
    rows = [item if isinstance(item, dict) else {"text": item} for item in items]
    tensors = []
    for name in rows[0]:
        array = np.array([row[name] for row in rows], dtype=np.object_)
        tensor = triton.InferInput(name, list(array.shape), "BYTES")
        tensor.set_data_from_numpy(array, binary_data=binary)
        tensors.append(tensor)
    return tensors


def text_of(element: str | bytes) -> str:
    """Return an element of a BYTES tensor: tritonclient gives bytes for a binary one, and texts for JSON."""
    return element.decode() if isinstance(element, bytes) else element


def answers_in(get: Callable[[str], Any], case: Case, served: Served) -> list[Any]:
    """Return the answers in the tensors of a task, one of each item."""
    form = served.task(case.model, case.operation).answer_format.tensors
    if form == "embedding":
        assert get("embedding").dtype == np.float32
        return list(get("embedding").tolist())
    if form == "ranking":
        labels = [list(map(text_of, row)) for row in get("label").tolist()]
        pairs = zip(labels, get("score").tolist(), strict=True)
        return [[{"label": label, "score": score} for label, score in zip(*pair, strict=True)] for pair in pairs]
    return [json.loads(answer) for answer in get("answer")]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("name", CASES)
def test_triton(served: Served, nvidia: Callable[..., Any], name: str, binary: bool) -> None:
    """Two rows of tensors there and back; beside them operation and parameters, which may be words, numbers, flags."""
    case = CASES[name]
    names = OUTPUTS[served.task(case.model, case.operation).answer_format.tensors]
    in_json = [triton.InferRequestedOutput(output, binary_data=False) for output in names]
    result = nvidia(
        case.model,
        tensors_of([case.item, case.item], binary=binary),
        outputs=None if binary else in_json,
        request_id="id-1",
        parameters={**case.parameters, "operation": case.operation},
    )
    head = result.get_response()
    assert (head["model_name"], head["model_version"], head["id"]) == (case.model, "1.0", "id-1")
    assert [(output["name"], "data" in output) for output in head["outputs"]] == [(name, not binary) for name in names]
    answers = answers_in(result.as_numpy, case, served)
    assert len(answers) == 2
    for answer in answers:
        served.check(case, answer)


@pytest.mark.usefixtures("served")
def test_triton_shows_why_not(nvidia: Callable[..., Any]) -> None:
    """Its exception is our message: a missing tensor, a task's own error, an operation that is not there."""
    for model, item, parameters, reason in (
        ("answers", {"question": "Who?"}, {}, "context must be a string, got null"),
        ("entailment", "a", {}, "candidate_labels is missing"),
        ("encoder", "a", {"operation": "entities"}, "unknown operation, accepted: predict"),
    ):
        with pytest.raises(triton.InferenceServerException) as refused:
            nvidia(model, tensors_of([item], binary=True), parameters=parameters)
        assert reason in refused.value.message()


# --- requests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_kserve_v1(served: Served, name: str) -> None:
    """`:predict` of two instances, and `:explain` of a task that explains; another one says so."""
    case = CASES[name]
    path = f"/v1/models/{case.model}"
    body = {
        "instances": [case.item, case.item],
        "parameters": {**case.parameters, "operation": case.operation},
    }
    predictions = served.ask(f"{path}:predict", body)["predictions"]
    assert len(predictions) == 2
    for answer in predictions:
        served.check(case, answer)
    if served.task(case.model, case.operation).explains:
        response = served.ask(f"{path}:explain", {**body, "instances": [case.item]})
        served.check(case, response["predictions"][0])
        assert "attribution" in json.dumps(response["explanations"])
        assert_alike(response["explanations"][0], served.expected(case, explain=True))
    else:
        refused = served.live.post(f"{path}:explain", json.dumps(body))
        assert (refused.status_code, refused.json()["type"]) == (404, "UnknownOperation")


def assert_alike(answer: Any, expected: Any) -> None:
    """Compare two JSON values, numbers with a tolerance."""
    if isinstance(expected, dict):
        assert answer.keys() == expected.keys()
        for key in expected:
            assert_alike(answer[key], expected[key])
    elif isinstance(expected, list):
        assert len(answer) == len(expected)
        for pair in zip(answer, expected, strict=True):
            assert_alike(*pair)
    else:
        assert answer == (pytest.approx(expected, abs=1e-4) if isinstance(expected, float) else expected)


@pytest.mark.parametrize("name", CASES)
def test_open_inference_v2(served: Served, name: str) -> None:
    """Tensors written by hand; parameters may be lists here."""
    case = CASES[name]
    fields = case.item if isinstance(case.item, dict) else {"text": case.item}
    body = {
        "inputs": [
            {
                "name": field,
                "shape": [1, len(value)] if isinstance(value, list) else [1],
                "datatype": "BYTES",
                "data": value if isinstance(value, list) else [value],
            }
            for field, value in fields.items()
        ],
        "parameters": {**case.parameters, "operation": case.operation},
    }
    response = served.ask(f"/v2/models/{case.model}/infer", body)
    tensors = {one["name"]: np.array(one["data"]).reshape(one["shape"]) for one in response["outputs"]}
    tensors = {
        name: values.astype(np.float32) if values.dtype == np.float64 else values for name, values in tensors.items()
    }
    (answer,) = answers_in(tensors.__getitem__, case, served)
    served.check(case, answer)


@pytest.mark.parametrize("model", ["tiny", *HEADS])
def test_every_operation_by_path_and_by_parameter(served: Served, model: str) -> None:
    """The example of its schema, asked in three ways."""
    for operation, task in served.local[model].operations.items():
        schema = task.schema()
        case = Case(model, operation, schema["example"], schema.get("parameters", {}))
        body = {"inputs": [case.item], "parameters": case.parameters}
        served.check(case, served.ask(f"/predictions/{model}/1.0/{operation}", body)[0])
        named = {**case.parameters, "operation": operation}
        served.check(case, served.ask(f"/predictions/{model}", {**body, "parameters": named})[0])
        item = case.item if isinstance(case.item, dict) else {"text": case.item}
        plainly = {**item, "parameters": case.parameters}
        served.check(case, served.ask(f"/predictions/{model}/1.0/{operation}", plainly))


@pytest.mark.parametrize("name", ["question-answering", "next-sentence-prediction"])
def test_grpc(live: Live, local: Mapping[str, Predictor], name: str) -> None:
    """The path cannot name an operation there, a parameter can. TorchServe alone has gRPC."""
    case, served = CASES[name], Served(live, local)
    body = {**case.item, "parameters": {**case.parameters, "operation": case.operation}}
    served.check(case, json.loads(served.live.grpc(case.model, json.dumps(body).encode())))


@pytest.mark.parametrize("model", ["tiny", *HEADS])
def test_describe(served: Served, model: str) -> None:
    """Task, operations and what explains, and a route of each operation in the document."""
    response = json.loads(served.live.script("models.py", "describe", model).stdout)
    expected = describe(served.local[model])
    limit = effective(served.live.config)["max_response_size"].value
    expected["limits"]["max_response_bytes"] = int(limit)  # which only a worker of the server knows
    for key in ("task", "labels", "operations", "explained", "limits"):
        assert response[key] == expected[key]
    others = [word for word, task in response["operations"].items() if task != response["task"]]
    assert {f"/predictions/{model}/1.0/{word}" for word in others} < response["openapi"]["paths"].keys()


def test_one_bad_question_beside_good_ones(served: Served) -> None:
    """Reported in its place where that is asked for; refused with its number otherwise."""
    case = CASES["question-answering"]
    bad = {"question": "Who?", "context": ""}
    answers = served.ask("/predictions/answers", {"inputs": [case.item, bad], "parameters": {"on_error": "report"}})
    served.check(replace(case, parameters={}), answers[0])
    assert answers[1] == {"error": {"code": 422, "type": "InvalidInput", "message": "context is empty"}}
    refused = served.live.post("/predictions/answers", json.dumps({"inputs": [case.item, bad]}))
    assert refused.status_code == 422
    assert refused.json()["message"] == "item 1: context is empty"


@pytest.mark.parametrize(
    ("path", "body", "cut"),
    [
        ("entities", {"inputs": ADA * 60}, False),
        ("answers", {"inputs": {"question": "Who signed?", "context": PARCEL * 60}}, False),
        ("encoder", {"inputs": ADA * 60}, True),
        ("encoder/1.0/similarity", {"inputs": {"source_sentence": ADA * 60, "sentences": ["a"]}}, True),
    ],
)
def test_long_texts(served: Served, path: str, body: Any, cut: bool) -> None:
    """Entities and answers are read through windows, all of a text; what an embedding leaves out is counted."""
    response = served.live.post(f"/predictions/{path}", json.dumps(body))
    assert response.status_code == 200
    assert ("x-truncated-tokens" in response.headers) == cut
    model, _, operation = path.partition("/1.0/")
    served.check(Case(model, operation or "predict", body["inputs"]), response.json())
    if not cut:
        assert int(response.headers["x-request-tokens"]) > 1000
