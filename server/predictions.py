"""The routes that TorchServe's inference port has: its own, KServe's, SageMaker's. Any method does, as there."""

from __future__ import annotations

import re
import time

from handler.http_headers import is_form, request_from
from handler.request_state import Request, Response
from server.errors import bad_request, route_not_found
from server.forms import data_field
from server.metrics import MetricsRegistry
from server.reading import read_body
from server.registry import ModelRegistry
from server.transport import Exchange

US_PER_S = 1e6
KSERVE_V1 = re.compile(r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>[^/:]+))?:(?P<verb>predict|explain)/?")
KSERVE_V2 = re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer/?")


class Predictions:
    """Predictions and explanations of the models of one server."""

    def __init__(self, models: ModelRegistry, metrics: MetricsRegistry, max_request_bytes: int) -> None:
        self.models, self.metrics, self.max_request_bytes = models, metrics, max_request_bytes

    async def predict(self, exchange: Exchange) -> Response:
        """Answer `/predictions/NAME[/VERSION[/OPERATION]]`."""
        return await self._own(exchange, explain=False)

    async def explain(self, exchange: Exchange) -> Response:
        """Answer `/explanations/NAME[/VERSION[/OPERATION]]`."""
        return await self._own(exchange, explain=True)

    async def _own(self, exchange: Exchange, *, explain: bool) -> Response:
        words = exchange.path.rstrip("/").split("/")[2:]
        if not words:
            raise route_not_found()
        version = words[1] if len(words) > 1 else None
        operation = "/".join(words[2:])
        return await self.answer(exchange, words[0], version, operation=operation, explain=explain)

    async def kserve_v1(self, exchange: Exchange) -> Response:
        """Answer `/v1/models/NAME[/versions/VERSION]:predict` and `:explain`."""
        match = KSERVE_V1.fullmatch(exchange.path)
        if match is None:
            raise route_not_found()
        explain = match["verb"] == "explain"
        return await self.answer(exchange, match["name"], match["version"], explain=explain, kserve=True)

    async def kserve_v2(self, exchange: Exchange) -> Response:
        """Answer `/v2/models/NAME[/versions/VERSION]/infer`."""
        match = KSERVE_V2.fullmatch(exchange.path)
        if match is None:
            raise route_not_found()
        return await self.answer(exchange, match["name"], match["version"], kserve=True)

    async def invocations(self, exchange: Exchange) -> Response:
        """Answer SageMaker's `/invocations?model_name=NAME`; the name may lack where one model is there."""
        name = exchange.query("model_name")
        if name is None:
            started = {model.name for model in self.models if model.at_startup}
            if len(started) != 1:
                raise bad_request("Parameter model_name is required.")
            (name,) = started
        return await self.answer(exchange, name, None, kserve=True)

    async def invoke(self, exchange: Exchange) -> Response:
        """Answer `/models/NAME/invoke`."""
        return await self.answer(exchange, exchange.path.split("/")[2], None, kserve=True)

    async def answer(
        self,
        exchange: Exchange,
        name: str,
        version: str | None,
        *,
        operation: str = "",
        explain: bool = False,
        kserve: bool = False,
    ) -> Response:
        """Answer the body of a request with one model."""
        began = time.monotonic()
        model = self.models.get(name, version)
        content = await exchange.body(self.max_request_bytes)
        request = await self._request(exchange, content, operation, explain=explain, kserve=kserve)
        response = await exchange.while_connected(model.answer(request))
        labels = (name, "default" if version is None else version)
        self.metrics.record("ts_inference_requests_total", 1, *labels)
        self.metrics.record("ts_inference_latency_microseconds", (time.monotonic() - began) * US_PER_S, *labels)
        return response

    async def _request(
        self, exchange: Exchange, content: bytes, operation: str, *, explain: bool, kserve: bool
    ) -> Request:
        body: bytes | None = content
        content_type = exchange.headers.get("content-type", "")
        if is_form(content_type):
            body, content_type = await read_body(content, data_field, content, content_type)
        return request_from(body, content_type, exchange.headers, operation=operation, explain=explain, kserve=kserve)
