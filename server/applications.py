"""The three ports as ASGI applications: inference, management, metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from starlette.convertors import StringConvertor, register_url_convertor
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from handler import openapi
from handler.request_state import Response
from handler.tracing import Tracing
from server.compatible import Compatible, message_error, openai_error
from server.errors import ApiError, invalid_key, json_response, method_not_allowed, queue_full, route_not_found
from server.health import Health, open_inference_error
from server.keys import Keys
from server.management import ManagementRoutes
from server.metrics import MetricsRegistry
from server.openai_tokens import OpenAITokens
from server.predictions import Predictions
from server.registry import ModelRegistry
from server.settings import ServerSettings
from server.tracing import TracedRoute
from server.transport import Exchange, Handle, PreparedResponse, RouteHandler, WriteError, header

PREDICTIONS = "/predictions/"
OPEN_ROUTES = ("/v2/health/live", "/v2/health/ready", "/api-description")  # that need no key
ERROR_WRITERS: Mapping[str, WriteError] = {  # of routes whose clients read another shape
    "/v1/models": openai_error,
    "/v1/embeddings": openai_error,
    "/v1/rerank": message_error,
    "/v2/rerank": message_error,
}
EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


class ModelName(StringConvertor):
    """A name in a path, but none with a verb behind it, as `tiny:predict`."""

    regex = "[^/:]+"


register_url_convertor("model", ModelName())


@dataclass(frozen=True)
class Parts:
    """What the routes of all ports share."""

    settings: ServerSettings
    models: ModelRegistry
    metrics: MetricsRegistry
    health: Health
    keys: Keys | None = None  # None: no keys are needed
    tracing: Tracing | None = None  # None: off

    def endpoint(self, handle: Handle, write_error: WriteError = ApiError.to_response) -> RouteHandler:
        """Return a function from exchange to response as an ASGI application."""
        return RouteHandler(handle, self.metrics, write_error)

    def route(self, path: str, handle: Handle, write_error: WriteError = ApiError.to_response) -> Route:
        """Return a route of any method."""
        return Route(path, self.endpoint(handle, write_error))

    def model_route(self, path: str, handle: Handle, write_error: WriteError = ApiError.to_response) -> Route:
        """Return a route that models answer, whose requests have spans where tracing is on."""
        endpoint = self.endpoint(handle, write_error)
        return Route(path, TracedRoute(endpoint, path, self.tracing) if self.tracing else endpoint)

    def allows(self, kind: str, scope: Scope) -> bool:
        """Tell whether a request has the key that it needs on the port of a kind."""
        path = scope["path"]
        is_open = path in OPEN_ROUTES or (path == "/" and scope["method"] == "OPTIONS")
        if self.keys is None or is_open or (kind == "management" and path == "/token"):
            return True
        return self.keys.allows(kind, header(scope, b"authorization"))


class KeyGuard:
    """Lets a request pass to an application when it has the key of the port."""

    def __init__(self, application: ASGIApp, kind: str, parts: Parts) -> None:
        self._application, self._kind, self._parts = application, kind, parts
        self._refusal = parts.endpoint(self._refuse)
        self._refusals = {path: parts.endpoint(self._refuse, write) for path, write in ERROR_WRITERS.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or self._parts.allows(self._kind, scope):
            await self._application(scope, receive, send)
        else:
            await self._refusals.get(scope["path"], self._refusal)(scope, receive, send)

    async def _refuse(self, exchange: Exchange) -> Response:
        raise invalid_key()


def inference_application(parts: Parts) -> ASGIApp:
    """Return the inference port."""
    predictions = Predictions(parts.models, parts.metrics, parts.settings.max_request_bytes)
    health, route, model_route = parts.health, parts.route, parts.model_route

    description = ServerDescription(parts.models)

    async def describe(exchange: Exchange) -> Response:
        if exchange.method == "GET" and exchange.path == "/":
            return json_response({"status": "alive"})  # of KServe v1
        if exchange.method != "OPTIONS" and exchange.path == "/":
            raise method_not_allowed()
        return description.response()

    async def predict(exchange: Exchange) -> Response:
        if exchange.method == "OPTIONS":
            return describe_model(parts.models, exchange.path.split("/")[2])
        return await predictions.predict(exchange)

    vocabulary = parts.settings.openai_vocabulary
    tokens = OpenAITokens.read(vocabulary) if vocabulary else None
    compatible = Compatible(parts.models, parts.settings.max_request_bytes, tokens)
    routes = [
        model_route("/predictions/{rest:path}", predict),
        model_route("/explanations/{rest:path}", predictions.explain),
        Route("/v1/models/{name:model}", parts.endpoint(compatible.one_model, openai_error), methods=["GET"]),
        model_route("/v1/models/{rest:path}", predictions.kserve_v1),
        route("/v1/models", compatible.list_models, openai_error),
        model_route("/v1/embeddings", compatible.embeddings, openai_error),
        model_route("/v1/rerank", compatible.rerank_of_jina, message_error),
        model_route("/v2/rerank", compatible.rerank_of_cohere, message_error),
        route("/v2/models/{name}/ready", health.model_ready, open_inference_error),
        route("/v2/models/{name}/versions/{version}/ready", health.model_ready, open_inference_error),
        route("/v2/models/{name}", health.model_metadata, open_inference_error),
        route("/v2/models/{name}/versions/{version}", health.model_metadata, open_inference_error),
        model_route("/v2/models/{rest:path}", predictions.kserve_v2),
        route("/v2/health/live", health.live),
        route("/v2/health/ready", health.ready),
        route("/v2", health.server_metadata),
        route("/ping", health.ping),
        model_route("/invocations", predictions.invocations),
        model_route("/models/{name}/invoke", predictions.invoke),
        route("/api-description", describe),
        route("/", describe),
    ]
    return _application(parts, routes, "inference")


class EarlyRefusal:
    """Refuses a prediction by its headers, before its body is read, while the queue of its model is full.

    What it answers is what the route would answer later. It leaves to the routes whatever is not as simple.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        # Spans and the headers of CORS are written around the routes.
        self._is_off = parts.tracing is not None or bool(parts.settings.cors_origin)

    def __call__(self, scope: Scope) -> PreparedResponse | None:
        """Return the response; None: the routes answer."""
        path: str = scope["path"]
        if self._is_off or scope["method"] != "POST" or not path.startswith(PREDICTIONS):
            return None
        if not self._parts.allows("inference", scope):  # a stranger's request is none that will wait
            return None
        name, _, rest = path.removeprefix(PREDICTIONS).partition("/")
        try:
            batcher = self._parts.models.get(name, rest.partition("/")[0] or None).batcher
        except ApiError:
            return None
        if not batcher.is_full:
            batcher.expect()
            return None
        self._parts.metrics.record("Requests5XX", 1, "Host")
        return _refusal(batcher.retry_after_s)


@cache
def _refusal(retry_after_s: int) -> PreparedResponse:
    return PreparedResponse(queue_full(retry_after_s).to_response())


def management_application(parts: Parts) -> ASGIApp:
    """Return the management port."""
    management = ManagementRoutes(parts.models, parts.keys, may_change=parts.settings.may_change_models)
    description = ServerDescription(parts.models)

    async def describe(exchange: Exchange) -> Response:
        if exchange.method != "OPTIONS" and exchange.path == "/":
            raise method_not_allowed()
        return description.response()

    routes = [
        parts.route("/models", management.many),
        parts.route("/models/{name}", management.one),
        parts.route("/models/{name}/{version}", management.one),
        parts.route("/models/{name}/{version}/set-default", management.set_default),
        parts.route("/token", management.token),
        parts.route("/api-description", describe),
        parts.route("/", describe),
    ]
    return _application(parts, routes, "management")


def metrics_application(parts: Parts) -> ASGIApp:
    """Return the metrics port, which asks for no key: metrics, and health for probes that reach no other port."""

    async def metrics(_: Exchange) -> Response:
        return Response(parts.metrics.exposition().encode(), headers={"content-type": EXPOSITION})

    routes = [
        parts.route("/metrics", metrics),
        parts.route("/ping", parts.health.ping),
        parts.route("/v2/health/live", parts.health.live),
        parts.route("/v2/health/ready", parts.health.ready),
    ]
    return _application(parts, routes, None)


class ServerDescription:
    """The OpenAPI document of every model, written once: anybody may ask for it, and writing it takes milliseconds."""

    def __init__(self, models: ModelRegistry) -> None:
        self._models = models
        self._described: list[tuple[str, str, float]] = []
        self._response = Response(b"")

    def response(self) -> Response:
        """Return the document of the models that have loaded."""
        ready = [(model.name, model.version, model.began) for model in self._models if model.is_ready]
        if ready != self._described or not self._response.content:
            self._response, self._described = describe_server(self._models), ready
        return self._response


def describe_server(models: ModelRegistry) -> Response:
    """Return an OpenAPI document of the routes of every model."""
    documents = [
        openapi.document(predictor.operations, predictor.explainable, predictor.model, predictor.task.config)
        for predictor in (model.predictor for model in models if model.is_ready)
    ]
    paths = {path: item for document in documents for path, item in document["paths"].items()}
    return json_response({"openapi": "3.1.0", "info": {"title": "BERT models", "version": "1"}, "paths": paths})


def describe_model(models: ModelRegistry, name: str) -> Response:
    """Return the OpenAPI document of one model."""
    predictor = models.get(name).predictor
    document = openapi.document(predictor.operations, predictor.explainable, predictor.model, predictor.task.config)
    return json_response(document)


def _application(parts: Parts, routes: list[Route], kind: str | None) -> ASGIApp:
    async def unknown(_: Exchange) -> Response:
        raise route_not_found()

    # Not Starlette, whose layers around a router handle exceptions, which RouteHandler does.
    router = Router(routes, redirect_slashes=False, default=parts.endpoint(unknown))
    guarded: ASGIApp = KeyGuard(router, kind, parts) if kind else router
    settings = parts.settings
    if not settings.cors_origin:
        return guarded
    return CORSMiddleware(
        guarded,
        allow_origins=[settings.cors_origin],
        allow_methods=[word.strip() for word in settings.cors_methods.split(",") if word.strip()],
        allow_headers=[word.strip() for word in settings.cors_headers.split(",") if word.strip()],
    )
