"""The OpenAPI document: valid, and true. Its examples are answered, and the answers are what it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from openapi_spec_validator import OpenAPIV31SpecValidator

from handler.description import describe
from handler.predictor import Predictor
from handler.protocol import Body, serialize_value
from handler.request_state import Request
from tests.support.samples import JSON_TYPE, MODELS, LoadMain, response_json


@pytest.fixture(scope="module", params=MODELS)
def served(request: pytest.FixtureRequest, load_main: LoadMain) -> Predictor:
    """Load a model of every task, under the name of an archive."""
    return load_main(request.param, name="mine", version="2.0")


def document(predictor: Predictor) -> Any:
    """Return the document that `describe` tells."""
    return describe(predictor)["openapi"]


def examples(paths: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield route, content type and value of every example of a request."""
    for route, item in paths.items():
        for content_type, body in item["post"]["requestBody"]["content"].items():
            values = [one["value"] for one in body.get("examples", {}).values()]
            for value in values or [body["example"]]:
                yield route, content_type, value


def test_the_document_is_valid(served: Predictor) -> None:
    """By the schema of OpenAPI 3.1 itself, every reference resolved."""
    OpenAPIV31SpecValidator(document(served)).validate()


def test_every_example_is_answered_as_it_says(served: Predictor) -> None:
    """On its own route each example is accepted, and the answer fits the schema of the route."""
    described = document(served)
    components = {"components": described["components"]}
    routes = set()
    for route, content_type, value in examples(described["paths"]):
        operation = re.fullmatch(r"/\w+/mine/2\.0/([\w-]+)", route)
        content = value.encode() if content_type == "text/plain" else serialize_value(value)
        (response,) = served.answer(
            [
                Request(
                    Body(content, content_type),
                    operation=operation[1] if operation else "",
                    explain="explain" in route or "explanations" in route,
                )
            ]
        )
        assert response.status == 200, (route, response_json(response))
        post = described["paths"][route]["post"]
        accepted = post["requestBody"]["content"][content_type]["schema"]
        Draft202012Validator({**accepted, **components}).validate(value)
        schema = post["responses"]["200"]["content"][JSON_TYPE]["schema"]
        Draft202012Validator({**schema, **components}).validate(response_json(response))
        routes.add(route)
    assert routes == set(described["paths"])


def test_every_operation_has_a_route(served: Predictor) -> None:
    """Uses of the model beside the main one are found under their own path."""
    paths = document(served)["paths"]
    others = [word for word, task in served.operations.items() if task is not served.task]
    assert {f"/predictions/mine/2.0/{word}" for word in others} < set(paths)
    explained = {path for path in paths if "expla" in path}
    assert bool(explained) == any(task.explains for task in served.operations.values())


def test_refusals_are_described(served: Predictor) -> None:
    """An error has the shape that the document gives it."""
    described = document(served)
    (response,) = served.answer([Request(Body(b"7", JSON_TYPE))])
    failed = described["paths"]["/predictions/mine"]["post"]["responses"][str(response.status)]
    schema = failed["content"][JSON_TYPE]["schema"]
    Draft202012Validator({**schema, "components": described["components"]}).validate(response_json(response))


@pytest.mark.parametrize("content", [b"{", b'{"inputs": ""}', b'{"instances": [""]}', b'""'])
def test_refusals_of_kserve_and_sagemaker_are_described(predictor: Predictor, content: bytes) -> None:
    """These routes share what they answer to a body that is no JSON, and to one that is wrong."""
    described = document(predictor)
    (response,) = predictor.answer([Request(Body(content, JSON_TYPE), kserve=True)])
    for path in (
        "/invocations",
        f"/v1/models/{predictor.model.name}:predict",
        f"/v2/models/{predictor.model.name}/infer",
    ):
        documented = described["paths"][path]["post"]["responses"][str(response.status)]
        schema = documented["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": described["components"]}).validate(response_json(response))


def test_it_lies_beside_the_archive(mar: Path) -> None:
    """For who writes a client and has no server."""
    assert mar.with_name("tiny.openapi.json").is_file()
