"""Fuzzing: whatever is asked of any task, explanations included, the answer is good or a refusal with its reason."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handler import explain
from handler.predictor import Predictor
from handler.tasks import TASKS
from handler.tasks.parameters import Choice, Flag, Parameter, Whole
from handler.wire import Body, parse, write_value
from handler.work import Request
from tests.samples import JSON_TYPE, MODELS, TEXTS, LoadMain

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
        whole = st.fixed_dictionaries({name: item(value) for name, value in example.items()})
        return whole | st.dictionaries(st.sampled_from([*example]), ANY) | ANY
    if isinstance(example, list):
        return st.lists(TEXT, min_size=1, max_size=4) | ANY
    return TEXT | st.fixed_dictionaries({"text": TEXT}) | ANY


def value(parameter: Parameter) -> st.SearchStrategy[Any]:
    """Return values of a parameter, mostly such as fit."""
    if isinstance(parameter, Whole):
        return st.integers(parameter.least, min(parameter.most or 40, 40)) | ANY
    if isinstance(parameter, Choice):
        return st.sampled_from(parameter.accepted) | ANY
    return st.booleans() if isinstance(parameter, Flag) else st.lists(TEXT, max_size=3) | TEXT | ANY


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
    cheap = {**explain.PARAMETERS, "n_steps": Whole(default=1, most=1)} if explained else {}
    question: dict[str, Any] = {
        "inputs": data.draw(item(schema["example"]) | st.lists(item(schema["example"]), max_size=3)),
        "parameters": data.draw(given_with({**task.parameters, **cheap}, needed)),
    }
    if explained and isinstance(question["parameters"].get("n_steps", 32), int):
        question["parameters"]["n_steps"] = 1
    good = Request(Body(write_value({"inputs": schema["example"], "parameters": needed}), JSON_TYPE))
    odd = Request(Body(write_value(question), JSON_TYPE), explain=explained)
    first, reply, last = predictor.answer([good, odd, good])
    assert first.status == last.status == 200
    assert first.content == last.content
    assert reply.status in {200, *REFUSALS}, parse(reply.content.decode())
    parse(reply.content.decode())


PREDICTORS: dict[str, Predictor] = {}


def test_every_task_is_fuzzed() -> None:
    """A new task needs a model here."""
    assert MODELS.keys() == TASKS.keys()
