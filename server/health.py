"""What is alive and what is ready: `/ping` that tells the truth, and the health routes of Open Inference v2."""

from __future__ import annotations

from dataclasses import dataclass, field

from handler.protocol import OPEN_INFERENCE
from handler.request_state import Response
from server.errors import ApiError, json_response
from server.loaded_model import LoadedModel
from server.registry import ModelRegistry
from server.transport import Exchange

SERVER_NAME = "bert-on-torchserve"


@dataclass
class ServerState:
    """Whether the server is starting or stopping: it then is not ready, but answers what comes."""

    starting: bool = True
    draining: bool = False


@dataclass
class Health:
    """The routes of health, and of the metadata of models."""

    models: ModelRegistry
    state: ServerState = field(default_factory=ServerState)

    @property
    def problem(self) -> str:
        """Why the server is not ready; empty: it is."""
        if self.state.draining:
            return "stopping"
        if self.state.starting:
            return "starting"
        loading = [model.name for model in self.models if self.models.is_default(model) and not model.is_ready]
        if loading:
            return f"not loaded: {', '.join(loading)}"
        return "" if self.models.names else "no model is registered"

    async def ping(self, exchange: Exchange) -> Response:
        """Answer `/ping`: Healthy when every model that answers by default has loaded and no batch hangs."""
        problem = self.problem or self._hung
        if problem:
            return json_response({"status": "Unhealthy", "reason": problem}, 503)
        return json_response({"status": "Healthy"})

    async def live(self, exchange: Exchange) -> Response:
        """Answer `/v2/health/live`: 200 unless a batch hangs, which only a restart ends."""
        return json_response({"live": not self._hung}, 503 if self._hung else 200)

    async def ready(self, exchange: Exchange) -> Response:
        """Answer `/v2/health/ready`: 200 where new requests should go."""
        problem = self.problem or self._hung
        return json_response(
            {"ready": not problem, **({"reason": problem} if problem else {})}, 503 if problem else 200
        )

    async def server_metadata(self, exchange: Exchange) -> Response:
        """Answer `/v2`."""
        return json_response({"name": SERVER_NAME, "version": "2", "extensions": ["binary_tensor_data"]})

    async def model_ready(self, exchange: Exchange) -> Response:
        """Answer `/v2/models/NAME[/versions/VERSION]/ready`."""
        model = self._model(exchange)
        return json_response({"name": model.name, "ready": model.is_ready}, 200 if model.is_ready else 503)

    async def model_metadata(self, exchange: Exchange) -> Response:
        """Answer `/v2/models/NAME[/versions/VERSION]`: the tensors of the main task."""
        model = self._model(exchange)
        task = model.predictor.task
        versions = [version.version for version in self.models.versions(model.name)]
        return json_response(
            OPEN_INFERENCE.metadata(model.name, versions, task.fields, task.answer_format, task.parameters)
        )

    def _model(self, exchange: Exchange) -> LoadedModel:
        parameters = exchange.scope["path_params"]
        return self.models.get(parameters["name"], parameters.get("version"))

    @property
    def _hung(self) -> str:
        hung = [model.name for model in self.models if model.is_hung]
        return f"no answer within responseTimeout: {', '.join(hung)}" if hung else ""


def open_inference_error(error: ApiError) -> Response:
    """Return an error as Open Inference v2 writes it."""
    return json_response({"error": error.message}, error.status, error.headers)
