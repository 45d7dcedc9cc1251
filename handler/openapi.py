"""The contract of one served model, as an OpenAPI 3.1 document made from its tasks and labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from handler import explain
from handler.config import ServingConfig
from handler.protocol import JSON, ModelId
from handler.tasks import Task

ERRORS = {
    400: "not JSON, not UTF-8, duplicate keys, too deep, or empty; or no valid key",
    404: "unknown model, version or operation",
    413: "too many texts, too many characters, or too many tokens",
    415: "a form without data, an encoding, or another charset",
    422: "well-formed, but not a question of this task",
    503: "an unexpected failure of this request, or more work in one batch than there is time for",
    504: "the deadline had passed",
    507: "out of memory, or the device failed and the worker is replaced",
}


def document(operations: Mapping[str, Task], explained: Collection[str], model: ModelId, config: ServingConfig) -> JSON:
    """Describe every route on which the model answers.

    Args:
        operations: its uses by their word, the main one first.
        explained: those of them whose answers are explained.
    """
    main = next(iter(operations.values()))
    others = {word: task for word, task in operations.items() if task is not main}
    root = f"{model.name}/{model.version}"
    paths: dict[str, JSON] = {}
    schemas: dict[str, JSON] = {"Error": _error(), "ItemError": _object({"error": _ref("Error")}), **_tensors()}
    for word, task in {"": main, **others}.items():
        use = _Use(task, config, _camel(word))
        is_explained = task.operation in explained
        schemas |= use.schemas()
        routes = [f"/predictions/{root}/{word}"] if word else [f"/predictions/{model.name}", f"/predictions/{root}"]
        paths |= {route: {"post": use.predict()} for route in routes}
        if is_explained:
            schemas |= use.explanation_schemas()
            paths |= {route.replace("/predictions/", "/explanations/"): {"post": use.explain()} for route in routes}
        if not word:
            paths |= {
                f"/v1/models/{model.name}:predict": {"post": use.kserve()},
                "/invocations": {"post": use.predict()},
            }
            paths[f"/v2/models/{model.name}/infer"] = {"post": use.open_inference()}
            if is_explained:
                paths[f"/v1/models/{model.name}:explain"] = {"post": use.kserve(explained=True)}
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


class _Use:
    """The schemas and routes of one use of the model; `prefix` keeps their names apart from those of other uses."""

    def __init__(self, task: Task, config: ServingConfig, prefix: str) -> None:
        self.task = task
        self.config = config
        self.prefix = prefix
        self.schema = task.schema()
        self.example = self.schema["example"]
        self.given = self.schema.get("parameters", {})  # those that the example needs

    def schemas(self) -> dict[str, JSON]:
        """Describe item, parameters and answer."""
        parameters = {name: parameter.document() for name, parameter in self.task.parameters.items()}
        return {
            f"{self.prefix}Item": self.schema["item"],
            f"{self.prefix}Parameters": _parameters(parameters),
            f"{self.prefix}Answer": self.schema["answer"],
        }

    def explanation_schemas(self) -> dict[str, JSON]:
        """Describe the parameters of an explanation, and the explanation."""
        both = {**self.task.parameters, **explain.PARAMETERS}
        return {
            f"{self.prefix}ExplainParameters": _parameters({name: both[name].document() for name in both}),
            "Explanation": _explanation(),
        }

    def predict(self) -> JSON:
        """Describe a prediction on TorchServe's own routes."""
        summary = f"{self.task.name}: one question or many; the shape of the answer follows that of the question"
        answers = self._many("Answer")
        told = {"anyOf": [self._ref("Answer"), answers, _object({"predictions": answers})]}
        return _operation(summary, self._bodies("Parameters"), told)

    def explain(self) -> JSON:
        """Describe an explanation on TorchServe's own routes."""
        one = {"anyOf": [_ref("Explanation"), _object({"answer": self._ref("Answer")})]}
        many = {"type": "array", "items": {"anyOf": [one, _ref("ItemError")]}}
        summary = "Why: what each word contributes to the score (integrated gradients)"
        told = {"anyOf": [one, many, _kserve_explained()]}
        return _operation(summary, self._bodies("ExplainParameters"), told)

    def kserve(self, *, explained: bool = False) -> JSON:
        """Describe KServe's first protocol."""
        body = self._kserve("ExplainParameters" if explained else "Parameters")
        example = {"instances": [self.example], **self._with_parameters()}
        told = _kserve_explained() if explained else _object({"predictions": {"type": "array"}})
        summary = "KServe v1: " + (":explain" if explained else ":predict")
        return _operation(summary, {"application/json": {"schema": body, "example": example}}, told, error=_either())

    def open_inference(self) -> JSON:
        """Describe the Open Inference Protocol."""
        item = self.example if isinstance(self.example, dict) else {self.task.fields[0]: self.example}
        inputs = [_tensor(name, value) for name, value in item.items()]
        body = {"schema": _ref("InferenceRequest"), "example": {"inputs": inputs, **self._with_parameters()}}
        return _operation(
            "Open Inference Protocol v2", {"application/json": body}, _ref("InferenceResponse"), error=_either()
        )

    def _bodies(self, parameters: str) -> JSON:
        items = {"type": "array", "items": self._ref("Item"), "minItems": 1, "maxItems": self.config.max_texts}
        inputs = {"inputs": {"anyOf": [self._ref("Item"), items]}, "parameters": self._ref(parameters)}
        hugging_face = _object(inputs, ["inputs"])
        examples: JSON = {"hugging face": {"value": {"inputs": self.example, "parameters": self.given}}}
        if not self.given:  # which neither a text nor a list can carry
            examples |= {"one": {"value": self.example}, "many": {"value": [self.example, self.example]}}
        shapes = [self._ref("Item"), items, hugging_face, self._kserve(parameters)]
        bodies: JSON = {"application/json": {"schema": {"anyOf": shapes}, "examples": examples}}
        if isinstance(self.example, str) and not self.given:
            bodies["text/plain"] = {"schema": {"type": "string"}, "example": self.example}
        return bodies

    def _kserve(self, parameters: str) -> JSON:
        items = {"type": "array", "items": self._ref("Item"), "minItems": 1, "maxItems": self.config.max_texts}
        return _object({"instances": items, "parameters": self._ref(parameters)}, ["instances"])

    def _with_parameters(self) -> dict[str, JSON]:
        return {"parameters": self.given} if self.given else {}

    def _many(self, schema: str) -> JSON:
        return {"type": "array", "items": {"anyOf": [self._ref(schema), _ref("ItemError")]}}

    def _ref(self, name: str) -> JSON:
        return _ref(self.prefix + name)


def _operation(summary: str, content: JSON, answer: JSON, error: JSON | None = None) -> JSON:
    failed = {"application/json": {"schema": error or _ref("Error")}}
    refusals = {str(code): {"description": text, "content": failed} for code, text in ERRORS.items()}
    answered = {"description": "the answer", "content": {"application/json": {"schema": answer}}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": answered, **refusals},
    }


def _parameters(documented: dict[str, JSON]) -> JSON:
    """Describe parameters, and beside them those that every request may carry."""
    common = {"on_error": {"type": "string", "enum": ["refuse", "report"]}, "operation": {"type": "string"}}
    return {"type": "object", "properties": {**documented, **common}, "additionalProperties": False}


def _explanation() -> JSON:
    place = {"start": {"type": "integer"}, "end": {"type": "integer"}, "attribution": {"type": "number"}}
    word = _object({"word": {"type": "string"}, **place})
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


def _kserve_explained() -> JSON:
    """Describe explanations in KServe's first protocol, which stand beside the predictions."""
    return _object({name: {"type": "array"} for name in ("predictions", "explanations")})


def _tensor(name: str, value: JSON) -> JSON:
    """Write one field of an example as a tensor of one row."""
    elements = value if isinstance(value, list) else [value]
    return {"name": name, "shape": [1, len(elements)], "datatype": "BYTES", "data": elements}


def _tensors() -> dict[str, JSON]:
    shape = {"type": "array", "items": {"type": "integer", "minimum": 0}}
    facts = {"name": {"type": "string"}, "shape": shape, "datatype": {"type": "string"}}
    tensor = _object({**facts, "data": {"type": "array"}, "parameters": {"type": "object"}}, [*facts])
    tensors = {"type": "array", "items": _ref("Tensor"), "minItems": 1}
    asked = {"id": {"type": "string"}, "inputs": tensors, "parameters": {"type": "object"}}
    told = {"model_name": {"type": "string"}, "model_version": {"type": "string"}, "outputs": tensors}
    return {
        "Tensor": tensor,
        "InferenceRequest": _object(asked, ["inputs"]),
        "InferenceResponse": _object({**told, "id": {"type": "string"}}, [*told]),
    }


def _error() -> JSON:
    return _object({"code": {"type": "integer"}, "type": {"type": "string"}, "message": {"type": "string"}})


def _either() -> JSON:
    """Describe an error on KServe's routes: what is not even a body of theirs has the shape of v2 on both of them.

    TorchServe's own refusals, of keys and models, have its own shape everywhere.
    """
    return {"anyOf": [_ref("Error"), _object({"error": {"type": "string"}})]}


def _object(properties: JSON, required: list[str] | None = None) -> JSON:
    return {"type": "object", "properties": properties, "required": [*properties] if required is None else required}


def _ref(name: str) -> JSON:
    return {"$ref": f"#/components/schemas/{name}"}


def _camel(word: str) -> str:
    """Return a word of the path as the beginning of a name.

    >>> _camel("next-sentence")
    'NextSentence'
    """
    return "".join(part.capitalize() for part in word.split("-"))
