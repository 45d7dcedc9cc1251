"""One codec for each protocol: `parse` makes a `ParsedBody` of a JSON value, `serialize` a JSON value of answers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from handler.errors import InvalidInput, RequestError
from handler.protocol.strict_json import JSON, dumps, is_array, json_type


@dataclass(frozen=True)
class ParsedBody:
    """The body of one request: items for a task, and what its codec needs to serialize their answers."""

    items: list[JSON]
    parameters: dict[str, JSON]
    codec: AnswerSerializer
    many: bool  # the items came as a list, so the answers are a list
    on_error: str = "refuse"  # or "report": the error of an item stands in the place of its answer
    operation: str = ""  # another operation of the model, for routes whose path has no place for it
    id: str | None = None  # of Open Inference v2
    outputs: Mapping[str, bool] = field(default_factory=dict)  # of Open Inference v2: whether as binary; empty: all
    binary: bool = False  # whether outputs that are not named so are written as binary tensors

    @property
    def may_be_binary(self) -> bool:
        """Whether any output is to be written as a binary tensor."""
        return self.binary or any(self.outputs.values())


@dataclass(frozen=True)
class ModelId:
    """The name and version of the served model, which the Open Inference Protocol repeats in a response."""

    name: str
    version: str


@dataclass(frozen=True)
class AnswerFormat:
    """The form of a task's answers, where a codec has several."""

    nested: bool = False  # Hugging Face's clients expect the answer of one text inside a list
    tensors: Literal["ranking", "embedding", "json"] = "json"  # of Open Inference v2


class AnswerSerializer(ABC):
    """One way to write answers as JSON."""

    @abstractmethod
    def serialize(self, body: ParsedBody, answers: list[JSON], model: ModelId, answer_format: AnswerFormat) -> JSON:
        """Return the answers of the items of a body as one JSON value."""

    def serialize_explanations(
        self,
        body: ParsedBody,
        answers: list[JSON],
        explanations: list[JSON],
        model: ModelId,
    ) -> JSON:
        """Return the explanations of the answers as one JSON value."""
        return self.serialize(body, explanations, model, AnswerFormat())

    def serialize_error(self, error: RequestError) -> JSON:
        """Return an error as one JSON value, in the shape of TorchServe's own errors."""
        return {"code": error.status, "type": error.type, "message": str(error)}


class Codec(AnswerSerializer):
    """One way to write items and answers as JSON."""

    @abstractmethod
    def parse(self, value: JSON) -> ParsedBody:
        """Parse a JSON value; raises InvalidInput."""


class Plain(Codec):
    """A text, a JSON string, a list of items, or one object with the task's own fields."""

    def parse(self, value: JSON) -> ParsedBody:
        if isinstance(value, str):
            return ParsedBody([value], {}, self, many=False)
        if isinstance(value, list):
            return _parsed_body(value, {}, self)
        if not isinstance(value, dict):
            raise InvalidInput(f"body must be a string, a list or an object, got {json_type(value)}")
        item = dict(value)
        parameters = _object(item.pop("parameters", None), "parameters")
        return _parsed_body(item, parameters, self)

    def serialize(self, body: ParsedBody, answers: list[JSON], model: ModelId, answer_format: AnswerFormat) -> JSON:
        return answers if body.many else answers[0]


class HuggingFace(Codec):
    """`{"inputs": X, "parameters": {...}}`, as Hugging Face's clients and SageMaker send it."""

    def parse(self, value: JSON) -> ParsedBody:
        rest = {key: item for key, item in value.items() if key not in ("inputs", "parameters", "options")}
        # InferenceClient.feature_extraction sends its parameters beside "inputs".
        parameters = {**rest, **_object(value.get("parameters"), "parameters")}
        return _parsed_body(value["inputs"], parameters, self)

    def serialize(self, body: ParsedBody, answers: list[JSON], model: ModelId, answer_format: AnswerFormat) -> JSON:
        return answers if body.many or answer_format.nested else answers[0]


class KServeV1(Codec):
    """`{"instances": [...]}` -> `{"predictions": [...]}`."""

    def parse(self, value: JSON) -> ParsedBody:
        _refuse_keys(value, ("instances", "parameters"), "body")
        items = value["instances"]
        if not isinstance(items, list):
            raise InvalidInput(f"instances must be a list, got {json_type(items)}")
        # TorchServe's own KServe examples wrap each text as {"data": ...}.
        unwrapped = [item["data"] if isinstance(item, dict) and item.keys() == {"data"} else item for item in items]
        return _parsed_body(unwrapped, _object(value.get("parameters"), "parameters"), self)

    def serialize(self, body: ParsedBody, answers: list[JSON], model: ModelId, answer_format: AnswerFormat) -> JSON:
        return {"predictions": answers}

    def serialize_explanations(
        self, body: ParsedBody, answers: list[JSON], explanations: list[JSON], model: ModelId
    ) -> JSON:
        return {"predictions": answers, "explanations": explanations}


OUTPUTS = {  # tensors in which answers are written: datatype, and number of dimensions
    "label": ("BYTES", 2),
    "score": ("FP32", 2),
    "abstained": ("BOOL", 1),
    "confidence": ("FP32", 1),
    "set": ("BYTES", 1),
    "embedding": ("FP32", 2),
    "answer": ("BYTES", 1),
}
JUDGEMENTS = {"abstained": "min_confidence", "set": "coverage"}  # outputs that a parameter asks for


class OpenInference(Codec):
    """Open Inference Protocol v2: texts in BYTES tensors, one tensor for each field, one row for each item."""

    protocol_parameters: ClassVar = (
        *("binary_data_size", "priority", "timeout"),
        *("sequence_id", "sequence_start", "sequence_end"),
    )

    def parse(self, value: JSON) -> ParsedBody:
        _refuse_keys(value, ("id", "model_name", "model_version", "inputs", "outputs", "parameters"), "body")
        parameters = _object(value.get("parameters"), "parameters")
        binary = _boolean(parameters.pop("binary_data_output", False), "binary_data_output")
        for name in self.protocol_parameters:
            parameters.pop(name, None)
        columns = {_string(tensor, "name"): self._column(tensor, n) for n, tensor in enumerate(value["inputs"])}
        if len(columns) < len(value["inputs"]):
            raise InvalidInput("inputs: two tensors of one name")
        sizes = {len(column) for column in columns.values()}
        if len(sizes) > 1:
            raise InvalidInput(f"inputs: tensors of different lengths ({', '.join(map(str, sorted(sizes)))})")
        items: list[JSON] = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        body = _parsed_body(items, parameters, self)
        request_id = value.get("id")
        if not isinstance(request_id, str | None):
            raise InvalidInput(f"id must be a string, got {json_type(request_id)}")
        return replace(body, id=request_id, outputs=self._outputs(value.get("outputs", []), binary), binary=binary)

    def serialize(self, body: ParsedBody, answers: list[JSON], model: ModelId, answer_format: AnswerFormat) -> JSON:
        tensors = {tensor["name"]: tensor for tensor in self._tensors(answers, answer_format)}
        if any(name not in tensors for name in body.outputs):
            raise InvalidInput(f"outputs: unknown name, accepted: {', '.join(tensors)}")
        request_id = {} if body.id is None else {"id": body.id}
        outputs = [tensors[name] for name in body.outputs or tensors]
        return {"model_name": model.name, "model_version": model.version, **request_id, "outputs": outputs}

    def serialize_error(self, error: RequestError) -> JSON:
        return {"error": str(error)}

    @classmethod
    def metadata(
        cls,
        name: str,
        versions: Sequence[str],
        fields: Sequence[str],
        answer_format: AnswerFormat,
        parameters: Collection[str],
    ) -> JSON:
        """Return the metadata of a model: a tensor for each field of an item, and those in which its task answers."""
        return {
            "name": name,
            "versions": list(versions),
            "platform": "pytorch_bert",
            "inputs": [{"name": field, "datatype": "BYTES", "shape": [-1]} for field in fields],
            "outputs": cls.describe_outputs(answer_format, parameters),
        }

    @staticmethod
    def describe_outputs(answer_format: AnswerFormat, parameters: Collection[str]) -> list[JSON]:
        """Return the metadata of every tensor in which a task with these parameters may answer."""
        names = {"ranking": ["label", "score"], "embedding": ["embedding"], "json": ["answer"]}[answer_format.tensors]
        if answer_format.tensors == "ranking":
            names += [name for name, parameter in JUDGEMENTS.items() if parameter in parameters]
        described = ((name, *OUTPUTS[name]) for name in names)
        return [{"name": name, "datatype": kind, "shape": [-1] * n_dims} for name, kind, n_dims in described]

    @staticmethod
    def _outputs(outputs: JSON, binary: bool) -> dict[str, bool]:
        """Return the requested outputs, and whether each is written as a binary tensor."""
        if not isinstance(outputs, list):
            raise InvalidInput(f"outputs must be a list, got {json_type(outputs)}")
        requested: dict[str, bool] = {}
        for index, output in enumerate(outputs):
            name, where = _string(output, "name"), f"outputs[{index}].parameters"
            if name in requested:
                raise InvalidInput("outputs: two tensors of one name")
            parameters = _object(output.get("parameters"), where)
            _refuse_keys(parameters, ("binary_data",), where)  # e.g. "classification"
            requested[name] = _boolean(parameters.get("binary_data", binary), f"{where}.binary_data")
        return requested

    @staticmethod
    def _column(tensor: JSON, index: int) -> list[JSON]:
        """Return the n values of a BYTES tensor: strings for shape [n] or [n, 1], lists of k strings for [n, k]."""
        shape, elements = tensor.get("shape"), tensor.get("data")
        if tensor.get("datatype") != "BYTES":
            raise InvalidInput(f"inputs[{index}]: datatype must be BYTES")
        if not isinstance(elements, list):
            raise InvalidInput(f"inputs[{index}]: data must be a list, got {json_type(elements)}")
        if elements and all(isinstance(row, list) for row in elements):
            elements = [element for row in elements for element in row]
        n = len(elements)
        sizes = [size for size in shape if type(size) is int and size >= 0] if isinstance(shape, list) else []
        if sizes != shape or len(sizes) not in (1, 2) or math.prod(sizes) != n:
            raise InvalidInput(f"inputs[{index}]: shape must be [{n}], [{n}, 1] or [n, k] of as many")
        k = sizes[1] if len(sizes) > 1 else 1
        return elements if k == 1 else [elements[start : start + k] for start in range(0, n, max(1, k))]

    @staticmethod
    def _tensors(answers: list[JSON], answer_format: AnswerFormat) -> list[dict[str, JSON]]:
        """Return the tensors that hold answers; one tensor of JSON strings if an answer is an error."""
        n = len(answers)
        if answer_format.tensors == "ranking" and all(isinstance(a, dict) and "ranking" in a for a in answers):
            rankings = OpenInference._tensors([answer["ranking"] for answer in answers], answer_format)
            return rankings + _judgement_tensors(answers)
        if answer_format.tensors == "ranking" and all(isinstance(answer, list) for answer in answers):
            k = min(map(len, answers))
            ranking = [item for answer in answers for item in answer[:k]]
            return [
                _tensor("label", [n, k], [item["label"] for item in ranking]),
                _tensor("score", [n, k], [item["score"] for item in ranking]),
            ]
        if answer_format.tensors == "embedding" and all(map(is_array, answers)):
            import numpy as np

            return [_tensor("embedding", [n, len(answers[0])], np.concatenate(answers))]
        return [_tensor("answer", [n], [dumps(answer) for answer in answers])]


def _judgement_tensors(answers: list[JSON]) -> list[dict[str, JSON]]:
    """Return the tensors of what is said about rankings: whether the answer abstained, and JSON lists of labels."""
    n, tensors = len(answers), []
    if all("abstained" in answer for answer in answers):
        tensors.append(_tensor("abstained", [n], [answer["abstained"] for answer in answers]))
    if all("confidence" in answer for answer in answers):
        tensors.append(_tensor("confidence", [n], [answer["confidence"] for answer in answers]))
    if all("set" in answer for answer in answers):
        tensors.append(_tensor("set", [n], [dumps(answer["set"]) for answer in answers]))
    return tensors


PLAIN, HUGGING_FACE, KSERVE_V1, OPEN_INFERENCE = Plain(), HuggingFace(), KServeV1(), OpenInference()


def codec_for(value: JSON) -> Codec:
    """Return the codec of a JSON value, by its keys."""
    if isinstance(value, dict):
        if "instances" in value:
            return KSERVE_V1
        if "inputs" in value:
            inputs = value["inputs"]
            tensors = isinstance(inputs, list) and any(isinstance(i, dict) and "datatype" in i for i in inputs)
            return OPEN_INFERENCE if tensors else HUGGING_FACE
    return PLAIN


def _parsed_body(items: JSON, parameters: dict[str, JSON], codec: Codec) -> ParsedBody:
    many = isinstance(items, list)
    if many and not items:
        raise InvalidInput("the list of texts is empty")
    on_error = parameters.pop("on_error", "refuse")
    if on_error not in ("refuse", "report"):
        raise InvalidInput("on_error must be refuse or report")
    operation = parameters.pop("operation", "")
    if not isinstance(operation, str):
        raise InvalidInput(f"operation must be a string, got {json_type(operation)}")
    return ParsedBody(items if many else [items], parameters, codec, many, on_error, operation)


def _object(value: JSON, name: str) -> dict[str, JSON]:
    if not isinstance(value, dict | None):
        raise InvalidInput(f"{name} must be an object, got {json_type(value)}")
    return dict(value or {})


def _string(tensor: JSON, key: str) -> str:
    value = tensor.get(key) if isinstance(tensor, dict) else None
    if not isinstance(value, str):
        raise InvalidInput(f"each tensor must be an object with a {key}")
    return value


def _refuse_keys(value: Mapping[str, JSON], accepted: Sequence[str], name: str) -> None:
    if any(key not in accepted for key in value):
        raise InvalidInput(f"{name} has an unknown key, accepted: {', '.join(accepted)}")


def _boolean(value: JSON, name: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{name} must be a boolean, got {json_type(value)}")
    return value


def _tensor(name: str, shape: list[int], data: JSON) -> dict[str, JSON]:
    datatype, _ = OUTPUTS[name]
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}
