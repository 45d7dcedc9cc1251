"""An OpenAPI 3.1 document of one served model, made from its tasks, parameters and labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from handler import explain
from handler.config import ServingConfig
from handler.protocol import JSON, ModelId
from handler.tasks import Task

ERRORS = {
    400: "not JSON, not UTF-8, duplicate keys, too deep, or empty; or no valid key",
    404: "unknown model, version or operation",
    413: "too many texts, characters or tokens, or an answer longer than the server accepts; TorchServe itself refuses "
    "a body above max_request_size, without content",
    415: "a form without data, an encoding, or another charset",
    422: "well-formed, but not a question of this task",
    503: "an unexpected failure of this request, or more work in one batch than there is time for",
    504: "the deadline had passed",
    507: "out of memory, or the device failed and the worker is replaced",
}


def document(
    operations: Mapping[str, Task], explainable: Collection[str], model: ModelId, config: ServingConfig
) -> JSON:
    """Describe every route of a model.

    Args:
        operations: tasks by their word in the path, the main one first.
        explainable: words of the operations whose answers can be explained.
    """
    main = next(iter(operations.values()))
    others = {word: task for word, task in operations.items() if task is not main}
    root = f"{model.name}/{model.version}"
    paths: dict[str, JSON] = {}
    schemas: dict[str, JSON] = {"Error": _error(), "ItemError": _object({"error": _ref("Error")}), **_tensors()}
    for word, task in {"": main, **others}.items():
        operation = _Operation(task, config, _camel(word))
        is_explainable = task.operation in explainable
        schemas |= operation.schemas()
        routes = [f"/predictions/{root}/{word}"] if word else [f"/predictions/{model.name}", f"/predictions/{root}"]
        paths |= {route: {"post": operation.predict()} for route in routes}
        if is_explainable:
            schemas |= operation.explanation_schemas()
            paths |= {
                route.replace("/predictions/", "/explanations/"): {"post": operation.explain()} for route in routes
            }
        if not word:
            paths |= {
                f"/v1/models/{model.name}:predict": {"post": operation.kserve()},
                "/invocations": {"post": operation.predict(error=_any_error())},
            }
            paths[f"/v2/models/{model.name}/infer"] = {"post": operation.open_inference()}
            if is_explainable:
                paths[f"/v1/models/{model.name}:explain"] = {"post": operation.kserve(explain=True)}
    return {
        "openapi": "3.1.0",
        "info": {"title": model.name, "version": model.version, "summary": f"{main.name} by a fine-tuned BERT"},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


class _Operation:
    """The schemas and routes of one operation; `prefix` distinguishes their names from those of other operations."""

    def __init__(self, task: Task, config: ServingConfig, prefix: str) -> None:
        self.task = task
        self.config = config
        self.prefix = prefix
        self.schema = task.schema()
        self.example = self.schema["example"]
        self.example_parameters = self.schema.get("parameters", {})  # that the example needs

    def schemas(self) -> dict[str, JSON]:
        """Return the schemas of item, parameters and answer."""
        parameters = {name: parameter.document() for name, parameter in self.task.parameters.items()}
        return {
            f"{self.prefix}Item": self.schema["item"],
            f"{self.prefix}Parameters": _parameters(parameters),
            f"{self.prefix}Answer": self.schema["answer"],
        }

    def explanation_schemas(self) -> dict[str, JSON]:
        """Return the schemas of the parameters of an explanation, and of the explanation."""
        parameters = {**self.task.parameters, **explain.PARAMETERS}
        return {
            f"{self.prefix}ExplainParameters": _parameters(
                {name: parameter.document() for name, parameter in parameters.items()}
            ),
            "Explanation": _explanation(),
        }

    def predict(self, error: JSON | None = None) -> JSON:
        """Describe a prediction on TorchServe's own routes, and on SageMaker's, whose errors are those of KServe's."""
        summary = f"{self.task.name}: one question or many; the shape of the answer follows that of the question"
        answers = self._many("Answer")
        response = {"anyOf": [self._ref("Answer"), answers, _object({"predictions": answers})]}
        return _route(summary, self._bodies("Parameters"), response, error)

    def explain(self) -> JSON:
        """Describe an explanation on TorchServe's own routes."""
        explanation = {"anyOf": [_ref("Explanation"), _object({"answer": self._ref("Answer")})]}
        explanations = {"type": "array", "items": {"anyOf": [explanation, _ref("ItemError")]}}
        summary = "Why: what each word contributes to the score (integrated gradients)"
        response = {"anyOf": [explanation, explanations, _kserve_explanations()]}
        return _route(summary, self._bodies("ExplainParameters"), response)

    def kserve(self, *, explain: bool = False) -> JSON:
        """Describe the route of the KServe v1 protocol."""
        body = self._kserve("ExplainParameters" if explain else "Parameters")
        example = {"instances": [self.example], **self._with_parameters()}
        response = _kserve_explanations() if explain else _object({"predictions": {"type": "array"}})
        summary = "KServe v1: " + (":explain" if explain else ":predict")
        return _route(summary, {"application/json": {"schema": body, "example": example}}, response, error=_any_error())

    def open_inference(self) -> JSON:
        """Describe the route of the Open Inference Protocol v2."""
        item = self.example if isinstance(self.example, dict) else {self.task.fields[0]: self.example}
        inputs = [_tensor(name, value) for name, value in item.items()]
        body = {"schema": _ref("InferenceRequest"), "example": {"inputs": inputs, **self._with_parameters()}}
        route = _route(
            "Open Inference Protocol v2", {"application/json": body}, _ref("InferenceResponse"), error=_any_error()
        )
        route["responses"]["200"]["content"]["application/octet-stream"] = {"schema": _binary()}
        return route

    def _bodies(self, parameters: str) -> JSON:
        items = {"type": "array", "items": self._ref("Item"), "minItems": 1, "maxItems": self.config.max_texts}
        inputs = {"inputs": {"anyOf": [self._ref("Item"), items]}, "parameters": self._ref(parameters)}
        hugging_face = _object(inputs, ["inputs"])
        examples: JSON = {"hugging face": {"value": {"inputs": self.example, "parameters": self.example_parameters}}}
        if not self.example_parameters:  # for which a text or a list has no place
            examples |= {"one": {"value": self.example}, "many": {"value": [self.example, self.example]}}
        shapes = [self._ref("Item"), items, hugging_face, self._kserve(parameters)]
        bodies: JSON = {"application/json": {"schema": {"anyOf": shapes}, "examples": examples}}
        if isinstance(self.example, str) and not self.example_parameters:
            bodies["text/plain"] = {"schema": {"type": "string"}, "example": self.example}
        return bodies

    def _kserve(self, parameters: str) -> JSON:
        items = {"type": "array", "items": self._ref("Item"), "minItems": 1, "maxItems": self.config.max_texts}
        return _object({"instances": items, "parameters": self._ref(parameters)}, ["instances"])

    def _with_parameters(self) -> dict[str, JSON]:
        return {"parameters": self.example_parameters} if self.example_parameters else {}

    def _many(self, schema: str) -> JSON:
        return {"type": "array", "items": {"anyOf": [self._ref(schema), _ref("ItemError")]}}

    def _ref(self, name: str) -> JSON:
        return _ref(self.prefix + name)


def _route(summary: str, content: JSON, response: JSON, error: JSON | None = None) -> JSON:
    error_content = {"application/json": {"schema": error or _ref("Error")}}
    errors = {str(status): {"description": text, "content": error_content} for status, text in ERRORS.items()}
    success = {"description": "the answer", "content": {"application/json": {"schema": response}}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": success, **errors},
    }


def _parameters(documented: dict[str, JSON]) -> JSON:
    """Return the schema of documented parameters and of those that every request may have."""
    common = {"on_error": {"type": "string", "enum": ["refuse", "report"]}, "operation": {"type": "string"}}
    return {"type": "object", "properties": {**documented, **common}, "additionalProperties": False}


def _explanation() -> JSON:
    numbers_of_word = {"start": {"type": "integer"}, "end": {"type": "integer"}, "attribution": {"type": "number"}}
    word = _object({"word": {"type": "string"}, **numbers_of_word})
    word["properties"]["field"] = {"type": "string"}
    numbers = ("score", "baseline_score", "convergence_delta")
    return _object(
        {
            "label": {"type": "string"},
            **{name: {"type": "number"} for name in numbers},
            "words": {"type": "array", "items": word},
            "n_steps": {"type": "integer"},
        }
    )


def _kserve_explanations() -> JSON:
    """Return the schema of explanations in the KServe v1 protocol, which stand beside the predictions."""
    return _object({name: {"type": "array"} for name in ("predictions", "explanations")})


def _tensor(name: str, value: JSON) -> JSON:
    """Return one field of an example as a tensor of one row."""
    elements = value if isinstance(value, list) else [value]
    return {"name": name, "shape": [1, len(elements)], "datatype": "BYTES", "data": elements}


def _tensors() -> dict[str, JSON]:
    shape = {"type": "array", "items": {"type": "integer", "minimum": 0}}
    required = {"name": {"type": "string"}, "shape": shape, "datatype": {"type": "string"}}
    tensor = _object({**required, "data": {"type": "array"}, "parameters": {"type": "object"}}, [*required])
    tensors = {"type": "array", "items": _ref("Tensor"), "minItems": 1}
    request = {"id": {"type": "string"}, "inputs": tensors, "parameters": {"type": "object"}}
    response = {"model_name": {"type": "string"}, "model_version": {"type": "string"}, "outputs": tensors}
    return {
        "Tensor": tensor,
        "InferenceRequest": _object(request, ["inputs"]),
        "InferenceResponse": _object({**response, "id": {"type": "string"}}, [*response]),
    }


def _binary() -> JSON:
    """Return the schema of a response with binary tensors."""
    condition = "where parameters.binary_data_output or an output's parameters.binary_data is true"
    length = "Inference-Header-Content-Length is the length of the JSON"
    return {"type": "string", "format": "binary", "description": f"{condition}: JSON, then the tensors; {length}"}


def _error() -> JSON:
    return _object({"code": {"type": "integer"}, "type": {"type": "string"}, "message": {"type": "string"}})


def _any_error() -> JSON:
    """Return the schema of an error on routes of KServe and SageMaker: in the shape of v2, or in TorchServe's own."""
    return {"anyOf": [_ref("Error"), _object({"error": {"type": "string"}})]}


def _object(properties: JSON, required: list[str] | None = None) -> JSON:
    return {"type": "object", "properties": properties, "required": [*properties] if required is None else required}


def _ref(name: str) -> JSON:
    return {"$ref": f"#/components/schemas/{name}"}


def _camel(word: str) -> str:
    """Return a word of the path in camel case, as the prefix of a name.

    >>> _camel("next-sentence")
    'NextSentence'
    """
    return "".join(part.capitalize() for part in word.split("-"))
