"""Fuzzing: whatever bytes come, and whatever is asked of any task, the answer is good or a refusal with its reason."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handler import explain
from handler.errors import InvalidInput, MalformedBody, UnsupportedMediaType
from handler.predictor import Predictor
from handler.protocol import Body, ParsedBody, loads, parse, serialize_value
from handler.request_state import Request
from handler.tasks import TASKS
from handler.tasks.parameters import Boolean, Choice, Integer, Parameter
from tests.support.bodies import binary_body, binary_elements
from tests.support.malformed import GOOD, WHOLE, requests
from tests.support.samples import JSON_TYPE, MODELS, TEXTS, LoadMain, response_json

REFUSALS = {400, 404, 413, 422}
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "8"))  # of each task; half a second each
TEXT = (
    st.sampled_from([*TEXTS, "[MASK]", "[MASK] [SEP] [CLS] [PAD]", "{}", "a,b", "\u200b", "\U0001d518", "#\x00"])
    | st.text()
)
SCALARS = st.none() | st.booleans() | st.integers(-2, 600) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
ANY = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=2), max_leaves=4
)


def item(example: Any) -> st.SearchStrategy[Any]:
    """Return questions like an example: its fields with other texts, some left out, some of the wrong kind."""
    if isinstance(example, dict):
        with_all_fields = st.fixed_dictionaries({name: item(value) for name, value in example.items()})
        return with_all_fields | st.dictionaries(st.sampled_from([*example]), ANY) | ANY
    if isinstance(example, list):
        return st.lists(TEXT, min_size=1, max_size=4) | ANY
    return TEXT | st.fixed_dictionaries({"text": TEXT}) | ANY


def value(parameter: Parameter) -> st.SearchStrategy[Any]:
    """Return values of a parameter, mostly such as fit."""
    if isinstance(parameter, Integer):
        return st.integers(parameter.ge, min(parameter.le or 40, 40)) | ANY
    if isinstance(parameter, Choice):
        return st.sampled_from(parameter.accepted) | ANY
    return st.booleans() if isinstance(parameter, Boolean) else st.lists(TEXT, max_size=3) | TEXT | ANY


def given_with(accepted: dict[str, Parameter], needed: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Return parameters: some of those accepted, what the example needs mostly among them."""
    some = st.fixed_dictionaries({}, optional={name: value(parameter) for name, parameter in accepted.items()})
    return some.map(lambda chosen: {**needed, **chosen}) | some


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_question_breaks_a_task(name: str, load_main: LoadMain, data: st.DataObject) -> None:
    """Never a failure of ours, and the good neighbour in the same batch is answered as ever."""
    predictor = PREDICTORS.setdefault(name, load_main(name))
    task = predictor.task
    schema = task.schema()
    needed = schema.get("parameters", {})
    explained = task.explains and data.draw(st.booleans())
    cheap = {**explain.PARAMETERS, "n_steps": Integer(default=1, le=1)} if explained else {}
    parsed: dict[str, Any] = {
        "inputs": data.draw(item(schema["example"]) | st.lists(item(schema["example"]), max_size=3)),
        "parameters": data.draw(given_with({**task.parameters, **cheap}, needed)),
    }
    if explained and isinstance(parsed["parameters"].get("n_steps", 32), int):
        parsed["parameters"]["n_steps"] = 1
    good = Request(Body(serialize_value({"inputs": schema["example"], "parameters": needed}), JSON_TYPE))
    odd = Request(Body(serialize_value(parsed), JSON_TYPE), explain=explained)
    first, response, last = predictor.answer([good, odd, good])
    assert first.status == last.status == 200
    assert first.content == last.content
    assert response.status in {200, *REFUSALS}, loads(response.content.decode())
    loads(response.content.decode())


PREDICTORS: dict[str, Predictor] = {}


def test_every_task_is_fuzzed() -> None:
    """A new task needs a model here."""
    assert MODELS.keys() == TASKS.keys()


# --- bodies ------------------------------------------------------------------------------------------------------

QUICK = settings(
    deadline=None,
    derandomize=True,
    max_examples=200,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
NAMES = (
    "inputs instances parameters options text text_pair data name shape datatype id outputs on_error top_k "
    "function_to_apply binary_data_size binary_data_output"
)
KEYS = st.sampled_from(NAMES.split()) | st.text(max_size=3)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["a text", "BYTES", "text", "report", "softmax", "", "\ud800", "\0"])
    | st.text(max_size=6)
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["text", "text_pair"]) | LEAVES,
        "datatype": st.just("BYTES") | LEAVES,
        "shape": st.lists(st.integers(-1, 3), max_size=3) | LEAVES,
        "data": st.lists(LEAVES, max_size=3) | LEAVES,
        "parameters": st.dictionaries(KEYS, LEAVES, max_size=2) | LEAVES,
    },
)
PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "top_k": LEAVES,
        "function_to_apply": st.sampled_from(["softmax", "sigmoid", "none"]) | LEAVES,
        "on_error": st.sampled_from(["report", "refuse"]) | LEAVES,
    },
)
ITEMS = LEAVES | st.fixed_dictionaries({"text": LEAVES}, optional={"text_pair": LEAVES}) | VALUES
QUESTIONS = (
    ITEMS
    | st.lists(ITEMS, max_size=3)
    | st.fixed_dictionaries({"inputs": ITEMS | st.lists(ITEMS, max_size=3)}, optional={"parameters": PARAMETERS})
    | st.fixed_dictionaries({"instances": st.lists(ITEMS, max_size=3) | ITEMS}, optional={"parameters": PARAMETERS})
    | st.fixed_dictionaries(
        {"inputs": st.lists(TENSORS, max_size=3)},
        optional={
            "parameters": PARAMETERS,
            "id": LEAVES,
            "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["label", "score"]) | LEAVES})) | LEAVES,
        },
    )
)
VALID = [*WHOLE.values(), b"a text", binary_body(binary_elements(b"a text"), 10).content or b""]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a valid body with a few bytes cut out, doubled, exchanged or put in."""
    body = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        stop = draw(st.integers(start, min(len(body), start + 8)))
        put = draw(
            st.binary(max_size=3) | st.sampled_from([b'"', b"[", b"]", b"{", b"}", b",", b"\\", b"\0", b"1e999"])
        )
        body = body[:start] + put + draw(st.sampled_from([b"", body[start:stop], body[start:stop] * 2])) + body[stop:]
    return body


CONTENTS = st.binary(max_size=60) | st.builds(serialize_value, QUESTIONS) | mutated() | st.none()
TYPES = st.sampled_from(["", "text/plain", *[JSON_TYPE] * 4, "application/json; charset=utf-8", "text/html"]) | st.text(
    max_size=12
)
BODIES = st.builds(
    Body,
    CONTENTS,
    TYPES,
    st.sampled_from(["", "", "", "", "identity", "gzip"]),
    st.booleans(),
    st.none() | st.none() | st.integers(-5, 300),
)


@QUICK
@given(BODIES)
def test_fuzzed_bodies_are_read_or_refused(body: Body) -> None:
    """Only a Question or a refusal comes out of `parse`, whatever goes in."""
    try:
        parsed = parse(body)
    except (MalformedBody, UnsupportedMediaType, InvalidInput):
        return
    assert isinstance(parsed, ParsedBody)
    assert parsed.items


@QUICK
@given(st.lists(BODIES, max_size=4), st.integers(0, 4))
def test_fuzzed_requests_are_answered_or_refused(predictor: Predictor, bodies: list[Body], place: int) -> None:
    """Nothing that a client sends is our failure, and a good row among it is answered right."""
    place = min(place, len(bodies))
    fuzzed = [Request(body) for body in bodies]
    responses = predictor.answer([*fuzzed[:place], *requests(GOOD[0]), *fuzzed[place:]])
    assert len(responses) == len(bodies) + 1
    for response in responses:
        response_json(response)
        assert response.status in {200, 400, 413, 415, 422}
    assert responses[place].status == 200
    (alone,) = predictor.answer(requests(GOOD[0]))
    assert predictor.task.answers_match(response_json(alone), response_json(responses[place]), 1e-6)
