"""What holds for every such task: golden questions, schemas that tell the truth, a worker whose main task it is."""

from __future__ import annotations

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from openapi_spec_validator import validate

from handler import openapi
from handler.errors import GoldenMismatch
from handler.self_test import check_golden
from handler.tasks import TASKS
from scripts.archives.golden import golden_outputs
from tests.support.samples import MODELS, LoadMain


@pytest.mark.parametrize("name", MODELS)
def test_golden_questions_hold_the_same_model_and_no_other(name: str, load_main: LoadMain) -> None:
    """Answers of the plain way are those of the packed one; one layer less is found out."""
    golden = golden_outputs(load_main(name, packed=False))
    assert len(golden.items) == len(load_main(name).task.self_test_items)
    check_golden(load_main(name), golden)
    if TASKS[name].forward_scope != "nothing":
        with pytest.raises(GoldenMismatch, match="answered differently"):
            check_golden(load_main(name, layers=1), golden)


@pytest.mark.parametrize("name", MODELS)
def test_schemas_describe_questions_and_answers(name: str, load_main: LoadMain) -> None:
    """Golden items and the example are items, their answers are answers, and the whole is OpenAPI."""
    predictor = load_main(name)
    task = predictor.task
    schema = task.schema()
    item, answer = (Draft202012Validator(schema[part]) for part in ("item", "answer"))
    (shown,) = predictor.answer_items([schema["example"]], schema.get("parameters"))
    answers = predictor.answer_items(list(task.self_test_items), task.self_test_parameters)
    for item_value, answered in zip([schema["example"], *task.self_test_items], [shown, *answers], strict=True):
        item.validate(item_value)
        answer.validate(answered)
    assert not item.is_valid({"nonsense": 1})
    document = openapi.document(predictor.operations, predictor.explainable, predictor.model, task.config)
    validate(document)
    Draft202012Validator(document["components"]["schemas"]["Parameters"]).validate(task.self_test_parameters)


def test_every_task_has_a_word_of_its_own() -> None:
    """Two tasks of one operation would hide each other."""
    assert len({task.operation for task in TASKS.values()}) == len(TASKS)
    assert {task.operation for task in TASKS.values()}.isdisjoint({"predict"})
