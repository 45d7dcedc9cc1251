"""Other protocols of the inference port: OpenAI's embeddings and list of models, Cohere's and Jina's rerank.

Each request becomes one of the model's own, so that limits, parameters and errors are those of every other route.
"""

from __future__ import annotations

import base64
import math
import uuid
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from handler.errors import MalformedBody
from handler.protocol import (
    JSON,
    PLAIN,
    AnswerFormat,
    AnswerSerializer,
    Body,
    ModelId,
    ParsedBody,
    json_type,
    loads,
    serialize_value,
)
from handler.request_state import Request, Response
from server.errors import ApiError, json_response
from server.loaded_model import LoadedModel
from server.openai_tokens import VARIABLE, OpenAITokens
from server.reading import read_body
from server.registry import ModelRegistry
from server.transport import Exchange

EMBEDDING, RERANK, SIMILARITY = "feature-extraction", "rerank", "sentence-similarity"
UNKNOWN = 400  # status of what a client sent wrongly, as these protocols have it


class OpenAIEmbeddings(AnswerSerializer):
    """The entries of OpenAI's `data`, one for each embedding."""

    def __init__(self, encode: Callable[[JSON], JSON]) -> None:
        """Choose how an embedding is written."""
        self._encode = encode

    def serialize(self, body: ParsedBody, answers: list[JSON], model: ModelId, answer_format: AnswerFormat) -> JSON:
        entries = [{"object": "embedding", "index": index} for index in range(len(answers))]
        return [entry | {"embedding": self._encode(answer)} for entry, answer in zip(entries, answers, strict=True)]


def _base64(vector: npt.NDArray[np.float32]) -> str:
    """Return an embedding as base64 of its numbers of fp32, little-endian."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


EMBEDDINGS: Mapping[str, AnswerSerializer] = {
    "float": OpenAIEmbeddings(lambda vector: vector),
    "base64": OpenAIEmbeddings(_base64),
}


class Compatible:
    """The routes of other protocols."""

    def __init__(self, models: ModelRegistry, max_request_bytes: int, tokens: OpenAITokens | None = None) -> None:
        self.models, self.max_request_bytes, self.tokens = models, max_request_bytes, tokens

    async def list_models(self, exchange: Exchange) -> Response:
        """Answer OpenAI's `GET /v1/models`."""
        return json_response({"object": "list", "data": [_entry(self.models.get(name)) for name in self.models.names]})

    async def one_model(self, exchange: Exchange) -> Response:
        """Answer `GET /v1/models/NAME` of OpenAI, and of KServe v1, whose clients ask whether the model is ready."""
        model = self._model({"model": exchange.scope["path_params"]["name"]})
        return json_response({**_entry(model), "name": model.name, "ready": model.is_ready})

    async def embeddings(self, exchange: Exchange) -> Response:
        """Answer OpenAI's `POST /v1/embeddings`."""
        accepted = ("model", "input", "encoding_format", "dimensions", "user")
        fields, content = await self._fields(exchange, accepted)
        encoding_format = fields.get("encoding_format") or "float"
        if encoding_format not in EMBEDDINGS:
            raise _invalid("encoding_format must be float or base64")
        texts = await read_body(content, texts_of, fields.get("input"), self.tokens, self.max_request_bytes)
        model = self._model(fields)
        parameters = {} if fields.get("dimensions") is None else {"dimensions": fields["dimensions"]}
        if sum(map(len, texts)) > len(content):  # of token ids, which are shorter: the model's limits count texts
            content = "".join(texts).encode()
        body = ParsedBody(texts, parameters, EMBEDDINGS[encoding_format], many=True)
        response = await self._answer(exchange, model, EMBEDDING, content, body)
        n_tokens = _n_tokens(response)
        usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
        rest = serialize_value({"model": model.name, "usage": usage})
        return Response(b'{"object":"list","data":%b,%b' % (response.content, rest[1:]))

    async def rerank_of_cohere(self, exchange: Exchange) -> Response:
        """Answer Cohere's `POST /v2/rerank`."""
        accepted = ("model", "query", "documents", "top_n", "max_tokens_per_doc", "priority")
        ranked, _ = await self._rank(exchange, *await self._fields(exchange, accepted))
        results = [{"index": item["index"], "relevance_score": item["score"]} for item in ranked]
        meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
        return json_response({"id": str(uuid.uuid4()), "results": results, "meta": meta})

    async def rerank_of_jina(self, exchange: Exchange) -> Response:
        """Answer Jina's `POST /v1/rerank`."""
        accepted = ("model", "query", "documents", "top_n", "return_documents")
        fields, content = await self._fields(exchange, accepted)
        ranked, n_tokens = await self._rank(exchange, fields, content)
        documents = fields["documents"]
        with_documents = fields.get("return_documents", True)
        results = [
            {"index": item["index"], "relevance_score": item["score"]}
            | ({"document": {"text": _text(documents[item["index"]])}} if with_documents else {})
            for item in ranked
        ]
        usage = {"total_tokens": n_tokens}
        return json_response({"model": fields["model"], "object": "list", "usage": usage, "results": results})

    async def _rank(
        self, exchange: Exchange, fields: dict[str, JSON], content: bytes
    ) -> tuple[list[dict[str, JSON]], int]:
        """Return the documents in their order, by a reranker, or by the similarity of embeddings; and their tokens."""
        query, documents, top_n = fields.get("query"), fields.get("documents"), fields.get("top_n")
        if not isinstance(query, str) or not isinstance(documents, list) or not documents:
            raise _invalid("query must be a string and documents a list of strings")
        if top_n is not None and (type(top_n) is not int or top_n < 1):
            raise _invalid("top_n must be a whole number of 1 or more")
        texts = [_text(document) for document in documents]
        model = self._model(fields)
        by_reranker = RERANK in {task.name for task in model.predictor.operations.values()}
        item = {"query": query, "texts": texts} if by_reranker else {"source_sentence": query, "sentences": texts}
        body = ParsedBody([item], {}, PLAIN, many=False)
        response = await self._answer(exchange, model, RERANK if by_reranker else SIMILARITY, content, body)
        ranked = loads(response.content.decode("ascii"))
        if not by_reranker:
            pairs = sorted(enumerate(ranked), key=lambda pair: -pair[1])
            ranked = [{"index": index, "score": score} for index, score in pairs]
        return ranked[:top_n], _n_tokens(response)

    async def _answer(
        self, exchange: Exchange, model: LoadedModel, task: str, content: bytes, body: ParsedBody
    ) -> Response:
        """Answer a body by the operation of a task; raises ApiError."""
        operations = model.predictor.operations
        operation = next((word for word, other in operations.items() if other.name == task), None)
        if operation is None:
            raise _invalid(f"{model.name} has no {task}, its operations: {', '.join(operations)}")
        request = Request(Body(content), operation, id=exchange.headers.get("x-request-id"), parsed=body)
        response = await exchange.while_connected(model.answer(request))
        if response.status >= UNKNOWN:
            error = loads(response.content.decode("ascii"))
            status = UNKNOWN if response.status in (413, 415, 422) else response.status
            raise ApiError(status, error["type"], error["message"])
        return response

    async def _fields(self, exchange: Exchange, accepted: tuple[str, ...]) -> tuple[dict[str, JSON], bytes]:
        """Return the fields of the JSON object in the body, and the body; others than `accepted` are refused."""
        if exchange.method != "POST":
            raise ApiError(405, "invalid_request_error", "send POST")
        content = await exchange.body(self.max_request_bytes)
        try:
            fields = await read_body(content, _parse, content)
        except (UnicodeDecodeError, MalformedBody) as error:
            raise _invalid(str(error) if isinstance(error, MalformedBody) else "body is not UTF-8") from None
        if not isinstance(fields, dict):
            raise _invalid(f"body must be an object, got {json_type(fields)}")
        unknown = [name for name, value in fields.items() if name not in accepted and value is not None]
        if unknown:
            raise _invalid(f"unknown field {unknown[0][:50]!r}, accepted: {', '.join(accepted)}")
        return fields, content

    def _model(self, fields: dict[str, JSON]) -> LoadedModel:
        name = fields.get("model")
        if not isinstance(name, str):
            raise _invalid(f"model must be one of {', '.join(self.models.names)}")
        try:
            return self.models.get(name)
        except ApiError:
            message = f"no model {name[:100]!r}, there are: {', '.join(self.models.names)}"
            raise ApiError(404, "model_not_found", message) from None


def texts_of(value: JSON, tokens: OpenAITokens | None = None, max_bytes: float = math.inf) -> list[JSON]:
    """Return the texts of OpenAI's `input`: a text, a list of texts, a list of token ids, or a list of such lists.

    Args:
        max_bytes: of the texts of token ids, which may have a hundred bytes each: as many as of a body with the texts.

    Raises:
        ApiError: something else, more than `max_bytes`, or token ids without the vocabulary that they are of.
    """
    is_one = isinstance(value, str) or (isinstance(value, list) and _are(value, int))
    texts = [value] if is_one else value
    if not isinstance(texts, list) or not texts or not (_are(texts, str) or all(_are(text, int) for text in texts)):
        raise _invalid("input must be a string or a list of strings")
    if _are(texts, str):
        return texts
    if tokens is None:
        raise _invalid(
            "input holds token ids of OpenAI's vocabulary, which this model does not have: send strings (LangChain: "
            f"OpenAIEmbeddings(check_embedding_ctx_length=False)), or start the server with {VARIABLE}"
        )
    try:
        if tokens.n_bytes(texts) > max_bytes:
            raise _invalid(
                f"the texts of the token ids have more than {max_bytes} bytes (max_request_size): send fewer at once"
            )
        return [tokens.decode(ids) for ids in texts]
    except KeyError as error:
        raise _invalid(f"input has the token id {error.args[0]}, which {tokens.name} has not: send strings") from None


def _parse(content: bytes) -> JSON:
    return loads(content.decode("utf-8"))


def _are(values: JSON, kind: type) -> bool:
    """Tell whether a value is a list of one type, with at least one element."""
    return isinstance(values, list) and bool(values) and all(type(value) is kind for value in values)


def openai_error(error: ApiError) -> Response:
    """Return an error as OpenAI writes it."""
    status = 401 if error.kind == "InvalidKeyException" else error.status
    kind = "server_error" if status >= 500 else "invalid_request_error"
    value = {"error": {"message": error.message, "type": kind, "param": None, "code": error.kind}}
    return json_response(value, status, error.headers)


def message_error(error: ApiError) -> Response:
    """Return an error as Cohere and Jina write it."""
    status = 401 if error.kind == "InvalidKeyException" else error.status
    return json_response({"message": error.message, "detail": error.message}, status, error.headers)


def _entry(model: LoadedModel) -> dict[str, JSON]:
    """Return a model as OpenAI lists it."""
    return {"id": model.name, "object": "model", "created": int(model.began), "owned_by": "organization"}


def _invalid(message: str) -> ApiError:
    return ApiError(UNKNOWN, "invalid_request_error", message)


def _text(document: JSON) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str):
        raise _invalid("each document must be a string, or an object with text")
    return text


def _n_tokens(response: Response) -> int:
    return int(response.headers.get("x-request-tokens", "0"))
