"""The contract of one served model, as an OpenAPI 3.1 document made from its task and labels."""

from __future__ import annotations

from handler.config import ServingConfig
from handler.tasks import Task
from handler.wire import JSON, ModelName

ERRORS = {
    400: "not JSON, not UTF-8, duplicate keys, too deep, or empty",
    404: "unknown model, version or operation",
    413: "too many texts, too many characters, or too many tokens",
    415: "a form without data, an encoding, or another charset",
    422: "well-formed, but not a question of this task",
    503: "an unexpected failure of this request",
    504: "the deadline had passed",
    507: "out of memory",
}


def document(task: Task, model: ModelName, config: ServingConfig) -> JSON:
    """Describe every route on which the model answers."""
    schema = task.schema()
    example = schema["example"]
    parameters = {
        "type": "object",
        "properties": {
            **{name: parameter.document() for name, parameter in task.parameters.items()},
            "on_error": {"type": "string", "enum": ["refuse", "report"]},
            "operation": {"type": "string"},
        },
        "additionalProperties": False,
    }
    items = {"type": "array", "items": _ref("Item"), "minItems": 1, "maxItems": config.max_texts}
    hugging_face = _object({"inputs": {"anyOf": [_ref("Item"), items]}, "parameters": _ref("Parameters")}, ["inputs"])
    kserve = _object({"instances": items, "parameters": _ref("Parameters")}, ["instances"])
    answers = {"type": "array", "items": {"anyOf": [_ref("Answer"), _ref("ItemError")]}}
    predict = _operation(
        "Answer one text or many; the shape of the answer follows the shape of the question",
        {
            "text/plain": {"schema": {"type": "string"}, "example": example},
            "application/json": {
                "schema": {"anyOf": [_ref("Item"), items, hugging_face, kserve]},
                "examples": {
                    "one": {"value": example},
                    "many": {"value": [example, example]},
                    "hugging face": {"value": {"inputs": example, "parameters": {}}},
                },
            },
        },
        {"anyOf": [_ref("Answer"), answers, _object({"predictions": answers}, ["predictions"])]},
    )
    v1 = _operation(
        "KServe v1",
        {"application/json": {"schema": kserve, "example": {"instances": [example]}}},
        _object({"predictions": answers}, ["predictions"]),
    )
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [example]}
    v2 = _operation(
        "Open Inference Protocol v2",
        {"application/json": {"schema": _ref("InferenceRequest"), "example": {"inputs": [tensor]}}},
        _ref("InferenceResponse"),
        error={"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]},
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": model.name, "version": model.version, "summary": f"{task.name} by a fine-tuned BERT"},
        "paths": {
            f"/predictions/{model.name}": {"post": predict},
            f"/predictions/{model.name}/{model.version}": {"post": predict},
            f"/v1/models/{model.name}:predict": {"post": v1},
            f"/v2/models/{model.name}/infer": {"post": v2},
            "/invocations": {"post": predict},
        },
        "components": {
            "schemas": {
                "Item": schema["item"],
                "Parameters": parameters,
                "Answer": schema["answer"],
                "Error": _error(),
                "ItemError": _object({"error": _ref("Error")}, ["error"]),
                **_tensors(),
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _operation(summary: str, content: JSON, answer: JSON, error: JSON | None = None) -> JSON:
    failed = {"application/json": {"schema": error or _ref("Error")}}
    refusals = {str(code): {"description": text, "content": failed} for code, text in ERRORS.items()}
    answered = {"description": "the answer", "content": {"application/json": {"schema": answer}}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": answered, **refusals},
    }


def _tensors() -> JSON:
    tensor = _object(
        {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            "datatype": {"type": "string"},
            "data": {"type": "array"},
            "parameters": {"type": "object"},
        },
        ["name", "shape", "datatype"],
    )
    tensors = {"type": "array", "items": _ref("Tensor"), "minItems": 1}
    asked = {"id": {"type": "string"}, "inputs": tensors, "parameters": {"type": "object"}}
    told = {"model_name": {"type": "string"}, "model_version": {"type": "string"}, "outputs": tensors}
    return {
        "Tensor": tensor,
        "InferenceRequest": _object(asked, ["inputs"]),
        "InferenceResponse": _object({**told, "id": {"type": "string"}}, [*told]),
    }


def _error() -> JSON:
    return _object(
        {"code": {"type": "integer"}, "type": {"type": "string"}, "message": {"type": "string"}},
        ["code", "type", "message"],
    )


def _object(properties: JSON, required: list[str]) -> JSON:
    return {"type": "object", "properties": properties, "required": required}


def _ref(name: str) -> JSON:
    return {"$ref": f"#/components/schemas/{name}"}
