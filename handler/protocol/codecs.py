"""Each dialect keeps both directions side by side: a JSON value to a question, answers to a JSON value."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from handler.errors import InvalidInput, RequestError
from handler.protocol.strict_json import JSON, dumps, json_type


@dataclass(frozen=True)
class ParsedBody:
    """One request, read: items for a task, and how to write their answers."""

    items: list[JSON]
    parameters: dict[str, JSON]
    codec: Codec
    many: bool
    on_error: str = "refuse"
    operation: str = ""  # another use of the model, for routes whose path cannot say it
    id: str | None = None
    outputs: list[str] = field(default_factory=list)  # names asked for in Open Inference v2; empty: all


@dataclass(frozen=True)
class ModelId:
    """What the Open Inference Protocol wants to hear of the model."""

    name: str
    version: str


@dataclass(frozen=True)
class AnswerFormat:
    """The form of a task's answers, where a dialect leaves a choice."""

    nested: bool = False  # Hugging Face's clients expect the answer to one text inside a list
    tensors: Literal["ranking", "embedding", "json"] = "json"  # of Open Inference v2


class Codec(ABC):
    """One way to put questions and answers into JSON."""

    @abstractmethod
    def parse(self, value: JSON) -> ParsedBody:
        """Turn a JSON value into a question; raises InvalidInput."""

    @abstractmethod
    def serialize(self, question: ParsedBody, answers: list[JSON], model: ModelId, form: AnswerFormat) -> JSON:
        """Turn the answers of the question's items into one JSON value."""

    def serialize_explanations(
        self,
        question: ParsedBody,
        answers: list[JSON],
        explanations: list[JSON],
        model: ModelId,
    ) -> JSON:
        """Turn the explanations of the answers into one JSON value."""
        return self.serialize(question, explanations, model, AnswerFormat())

    def serialize_error(self, error: RequestError) -> JSON:
        """Turn an error into one JSON value: the shape of TorchServe's own frontend."""
        return {"code": error.status, "type": error.type, "message": str(error)}


class Plain(Codec):
    """A text, a JSON string, a list of questions, or one object with the task's own fields."""

    def parse(self, value: JSON) -> ParsedBody:
        if isinstance(value, str):
            return ParsedBody([value], {}, self, many=False)
        if isinstance(value, list):
            return _question(value, {}, self)
        if not isinstance(value, dict):
            raise InvalidInput(f"body must be a string, a list or an object, got {json_type(value)}")
        item = dict(value)
        parameters = _object(item.pop("parameters", None), "parameters")
        return _question(item, parameters, self)

    def serialize(self, question: ParsedBody, answers: list[JSON], model: ModelId, form: AnswerFormat) -> JSON:
        return answers if question.many else answers[0]


class HuggingFace(Codec):
    """`{"inputs": X, "parameters": {...}}`: what Hugging Face's clients and SageMaker containers send."""

    def parse(self, value: JSON) -> ParsedBody:
        rest = {key: item for key, item in value.items() if key not in ("inputs", "parameters", "options")}
        # feature-extraction sends its parameters beside "inputs"
        parameters = {**rest, **_object(value.get("parameters"), "parameters")}
        return _question(value["inputs"], parameters, self)

    def serialize(self, question: ParsedBody, answers: list[JSON], model: ModelId, form: AnswerFormat) -> JSON:
        return answers if question.many or form.nested else answers[0]


class KServeV1(Codec):
    """`{"instances": [...]}` -> `{"predictions": [...]}`."""

    def parse(self, value: JSON) -> ParsedBody:
        _refuse_keys(value, ("instances", "parameters"), "body")
        items = value["instances"]
        if not isinstance(items, list):
            raise InvalidInput(f"instances must be a list, got {json_type(items)}")
        # TorchServe's own KServe examples wrap each text as {"data": ...}
        unwrapped = [item["data"] if isinstance(item, dict) and item.keys() == {"data"} else item for item in items]
        return _question(unwrapped, _object(value.get("parameters"), "parameters"), self)

    def serialize(self, question: ParsedBody, answers: list[JSON], model: ModelId, form: AnswerFormat) -> JSON:
        return {"predictions": answers}

    def serialize_explanations(
        self, question: ParsedBody, answers: list[JSON], explanations: list[JSON], model: ModelId
    ) -> JSON:
        return {"predictions": answers, "explanations": explanations}


class OpenInference(Codec):
    """Open Inference Protocol v2: text in BYTES tensors, one tensor a field, one row an item."""

    own_parameters: ClassVar = (
        *("binary_data_output", "binary_data_size", "priority", "timeout"),
        *("sequence_id", "sequence_start", "sequence_end"),
    )

    def parse(self, value: JSON) -> ParsedBody:
        _refuse_keys(value, ("id", "model_name", "model_version", "inputs", "outputs", "parameters"), "body")
        parameters = _object(value.get("parameters"), "parameters")
        for name in self.own_parameters:
            parameters.pop(name, None)
        columns = {_word(tensor, "name"): self._column(tensor, n) for n, tensor in enumerate(value["inputs"])}
        if len(columns) < len(value["inputs"]):
            raise InvalidInput("inputs: two tensors of one name")
        sizes = {len(column) for column in columns.values()}
        if len(sizes) > 1:
            raise InvalidInput(f"inputs: tensors of different lengths ({', '.join(map(str, sorted(sizes)))})")
        items: list[JSON] = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        outputs = value.get("outputs", [])
        if not isinstance(outputs, list):
            raise InvalidInput(f"outputs must be a list, got {json_type(outputs)}")
        question = _question(items, parameters, self)
        request_id = value.get("id")
        if not isinstance(request_id, str | None):
            raise InvalidInput(f"id must be a string, got {json_type(request_id)}")
        names = [_word(output, "name") for output in outputs]
        for index, output in enumerate(outputs):
            asked = _object(output.get("parameters"), f"outputs[{index}].parameters")
            _refuse_keys(asked, ("binary_data",), f"outputs[{index}].parameters")  # not e.g. "classification"
        return replace(question, id=request_id, outputs=names)

    def serialize(self, question: ParsedBody, answers: list[JSON], model: ModelId, form: AnswerFormat) -> JSON:
        tensors = {tensor["name"]: tensor for tensor in self._tensors(answers, form)}
        unknown = [name for name in question.outputs if name not in tensors]
        if unknown:
            raise InvalidInput(f"outputs: unknown name, accepted: {', '.join(tensors)}")
        head = {"model_name": model.name, "model_version": model.version}
        identity = {} if question.id is None else {"id": question.id}
        return {**head, **identity, "outputs": [tensors[name] for name in question.outputs or tensors]}

    def serialize_error(self, error: RequestError) -> JSON:
        return {"error": str(error)}

    @staticmethod
    def _column(tensor: JSON, index: int) -> list[JSON]:
        """Return the elements of one BYTES tensor of shape [n] or [n, 1], or lists of k elements of one of [n, k]."""
        shape, datum = tensor.get("shape"), tensor.get("data")
        if tensor.get("datatype") != "BYTES":
            raise InvalidInput(f"inputs[{index}]: datatype must be BYTES")
        if not isinstance(datum, list):
            raise InvalidInput(f"inputs[{index}]: data must be a list, got {json_type(datum)}")
        if datum and all(isinstance(item, list) for item in datum):
            datum = [element for item in datum for element in item]
        sizes = [size for size in shape if type(size) is int and size >= 0] if isinstance(shape, list) else []
        if sizes != shape or len(sizes) not in (1, 2) or math.prod(sizes) != len(datum):
            raise InvalidInput(f"inputs[{index}]: shape must be [{len(datum)}], [{len(datum)}, 1] or [n, k] of as many")
        k = sizes[1] if len(sizes) > 1 else 1
        return datum if k == 1 else [datum[start : start + k] for start in range(0, len(datum), max(1, k))]

    @staticmethod
    def _tensors(answers: list[JSON], form: AnswerFormat) -> list[dict[str, JSON]]:
        """Put answers into the tensors of their form, or into one of JSON where an error stands among them."""
        n = len(answers)
        if form.tensors == "ranking" and all(isinstance(answer, list) for answer in answers):
            k = min(map(len, answers))
            ranked = [item for answer in answers for item in answer[:k]]
            return [
                _tensor("label", "BYTES", [n, k], [item["label"] for item in ranked]),
                _tensor("score", "FP32", [n, k], [item["score"] for item in ranked]),
            ]
        if form.tensors == "embedding" and all(isinstance(answer, list) for answer in answers):
            width = min(map(len, answers))
            return [_tensor("embedding", "FP32", [n, width], [number for answer in answers for number in answer])]
        return [_tensor("answer", "BYTES", [n], [dumps(answer) for answer in answers])]


PLAIN, HUGGING_FACE, KSERVE_V1, OPEN_INFERENCE = Plain(), HuggingFace(), KServeV1(), OpenInference()


def codec_for(value: JSON) -> Codec:
    if isinstance(value, dict):
        if "instances" in value:
            return KSERVE_V1
        if "inputs" in value:
            inputs = value["inputs"]
            tensors = isinstance(inputs, list) and any(isinstance(i, dict) and "datatype" in i for i in inputs)
            return OPEN_INFERENCE if tensors else HUGGING_FACE
    return PLAIN


def _question(items: JSON, parameters: dict[str, JSON], codec: Codec) -> ParsedBody:
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


def _word(tensor: JSON, key: str) -> str:
    word = tensor.get(key) if isinstance(tensor, dict) else None
    if not isinstance(word, str):
        raise InvalidInput(f"each tensor must be an object with a {key}")
    return word


def _refuse_keys(value: Mapping[str, JSON], known: Sequence[str], where: str) -> None:
    if any(key not in known for key in value):
        raise InvalidInput(f"{where} has an unknown key, accepted: {', '.join(known)}")


def _tensor(name: str, datatype: str, shape: list[int], data: list[JSON]) -> dict[str, JSON]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}
