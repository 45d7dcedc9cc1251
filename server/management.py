"""The management port: TorchServe's routes that list, describe, register, choose and remove versions, and renew keys.

Workers cannot be scaled: one process serves every model. `PUT /models/NAME` accepts one worker and refuses more.
"""

from __future__ import annotations

from handler.errors import StartupError
from handler.protocol import JSON
from handler.request_state import Response
from server.errors import ApiError, bad_request, json_response, method_not_allowed
from server.keys import Keys
from server.registry import ModelRegistry
from server.transport import Exchange

PAGE = 100  # models of one page, at most


class ManagementRoutes:
    """The routes of the management port."""

    def __init__(self, models: ModelRegistry, keys: Keys | None, *, may_change: bool) -> None:
        """Refer to the models.

        Args:
            keys: None: no keys are needed.
            may_change: whether models may be registered and removed (`enable_model_api`).
        """
        self.models, self.keys, self.may_change = models, keys, may_change

    async def many(self, exchange: Exchange) -> Response:
        """Answer `/models`: list (GET) or register (POST)."""
        if exchange.method == "GET":
            return self._list(exchange)
        if exchange.method == "POST":
            return await self._register(exchange)
        raise method_not_allowed()

    async def one(self, exchange: Exchange) -> Response:
        """Answer `/models/NAME[/VERSION]`: describe (GET), scale (PUT) or remove (DELETE)."""
        parameters = exchange.scope["path_params"]
        name, version = parameters["name"], parameters.get("version")
        if exchange.method == "GET":
            return self._describe(exchange, name, version)
        if exchange.method == "PUT":
            return self._scale(exchange, name, version)
        if exchange.method == "DELETE":
            self._check_may_change()
            self.models.unregister(name, version)
            return json_response({"status": f'Model "{name}" unregistered'})
        raise method_not_allowed()

    async def set_default(self, exchange: Exchange) -> Response:
        """Answer `PUT /models/NAME/VERSION/set-default`."""
        if exchange.method != "PUT":
            raise method_not_allowed()
        parameters = exchange.scope["path_params"]
        name, version = parameters["name"], parameters["version"]
        self.models.set_default(name, version)
        return json_response({"status": f'Default version successfully updated for model "{name}" to "{version}"'})

    async def token(self, exchange: Exchange) -> Response:
        """Answer `GET /token?type=inference|management` with the API key: renew a key in the file."""
        is_allowed = self.keys is not None and self.keys.allows("API", exchange.headers.get("authorization", ""))
        if self.keys is None or not is_allowed or not self.keys.renew(exchange.query("type") or ""):
            message = "Token Authentication failed. Token either incorrect, expired, or not provided correctly"
            raise ApiError(400, "InvalidKeyException", message)
        return Response(b"\n")

    def _list(self, exchange: Exchange) -> Response:
        limit = min(_number(exchange, "limit", PAGE), PAGE)
        begin = _number(exchange, "next_page_token", 0)
        names = self.models.names
        page = names[begin : begin + limit]
        listed = [{"modelName": name, "modelUrl": self.models.get(name).archive.file} for name in page]
        more = {"nextPageToken": str(begin + limit)} if begin + limit < len(names) else {}
        return json_response({**more, "models": listed})

    def _describe(self, exchange: Exchange, name: str, version: str | None) -> Response:
        customized = exchange.query("customized") == "true"
        models = self.models.versions(name) if version == "all" else [self.models.get(name, version)]
        described: list[JSON] = [model.description(customized=customized) for model in models]
        return json_response(described)

    async def _register(self, exchange: Exchange) -> Response:
        self._check_may_change()
        file = exchange.query("url")
        if not file:
            raise bad_request("Parameter url is required.")
        if _number(exchange, "initial_workers", 1) > 1:
            raise bad_request("initial_workers must be 1: one process serves every model")
        try:
            model = self.models.register(await self.models.unpack(file, exchange.query("model_name")))
        except StartupError as error:
            raise bad_request(str(error)) from None
        if exchange.query("synchronous") != "true":
            return json_response({"status": "Processing worker updates..."}, 202)
        try:
            await model.batcher.ready
        except Exception as error:  # noqa: BLE001 - whatever loading raises is the answer
            self.models.unregister(model.name, model.version)
            raise ApiError(500, "InternalServerException", f"{type(error).__name__}: {error}") from None
        status = f'Model "{model.name}" Version: {model.version} registered with 1 initial workers'
        return json_response({"status": status})

    def _scale(self, exchange: Exchange, name: str, version: str | None) -> Response:
        self.models.get(name, version)
        if max(_number(exchange, "min_worker", 1), _number(exchange, "max_worker", 1)) != 1:
            raise bad_request("min_worker and max_worker must be 1: one process serves every model")
        return json_response({"status": "Processing worker updates..."}, 202)

    def _check_may_change(self) -> None:
        if not self.may_change:
            raise method_not_allowed()


def _number(exchange: Exchange, name: str, default: int) -> int:
    value = exchange.query(name) or str(default)
    if not value.isdecimal() or len(value) > 9:
        raise bad_request(f"Invalid parameter {name}: a whole number is accepted")
    return int(value)
