"""The two API clients of a TorchServe: predictions on one port, management on another, each with its key.

They map statuses to errors and probe whether a model is ready. They know no tasks: questions and answers are JSON.
scripts/client/server.py knows where a server listens and where its keys are, scripts/client/connection.py sends bytes.
"""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from handler.protocol import JSON
from scripts.client.connection import Connections, RawResponse
from scripts.client.server import NotRunning, Refused, Server, ServerError, Unauthorized, Unavailable, UnknownModel

BAD_REQUEST, NOT_FOUND, TOO_LARGE, UNPROCESSABLE = 400, 404, 413, 422
NO_ANSWER = "no answer about its health"
BUSY = (500, 503)  # a worker died; the queue is full, or an unexpected failure
# 507, where a worker was killed (as the kernel does when memory is short) or ends because its GPU failed.
DIED = ("InternalServerException", "DeviceLost")
NOT_UNPACKED = "Failed to save model"  # all that TorchServe says where a disk is full


class ApiClient:
    """Sends requests to one of a server's two ports, each with the key of that port. Threads may share it."""

    key_name: str  # in key_file.json

    def __init__(self, server: Server, base: str) -> None:
        self.server = server
        self.base = base
        self._connections = Connections(base)

    def request(
        self,
        method: str,
        path: str,
        *,
        value: JSON = None,
        content: bytes | None = None,
        parameters: dict[str, Any] | None = None,
        timeout: float = 60,
    ) -> JSON:
        """Send one request, with a JSON `value` or plain-text `content` as its body; return the JSON of the answer.

        Raises:
            NotRunning, Unauthorized, UnknownModel, Refused, Unavailable
        """
        headers = self._authorization()
        if value is not None:
            content, headers["Content-Type"] = json.dumps(value).encode(), "application/json"
        elif content is not None:
            headers["Content-Type"] = "text/plain; charset=utf-8"
        query = urlencode({name: str(value) for name, value in (parameters or {}).items() if value is not None})
        target = f"{path}?{query}" if query else path
        return self._read(self._exchange(method, target, content, headers, timeout))

    def _exchange(
        self, method: str, target: str, content: bytes | None, headers: dict[str, str], timeout: float
    ) -> RawResponse:
        try:
            return self._connections.request(method, target, content, headers, timeout)
        except TimeoutError as error:
            raise Unavailable(f"no answer from {self.base} within {timeout:g} seconds") from error
        except ConnectionRefusedError as error:
            raise NotRunning(f"no server at {self.base}: scripts/serve.sh start") from error
        except socket.gaierror as error:
            raise NotRunning(f"no host has the name in {self.base}") from error
        except OSError as error:
            raise Unavailable(f"the connection to {self.base} broke") from error

    def _authorization(self) -> dict[str, str]:
        if not self.server.authorized:
            return {}
        return {"Authorization": f"Bearer {self.key()}"}

    def key(self) -> str:
        """Read this port's key."""
        return self.server.key(self.key_name)

    def _read(self, response: RawResponse) -> JSON:
        try:
            answer = json.loads(response.content)
        except ValueError:
            answer = None
        if response.status < BAD_REQUEST:
            if answer is None:
                raise Unavailable(f"{self.base} answered without JSON: is it a TorchServe?")
            return answer
        error = answer if isinstance(answer, dict) else {}
        status, kind = response.status, str(error.get("type", response.reason))
        message = str(error.get("message", "")) or "the server gave no reason"
        if status == TOO_LARGE and not error:  # from the HTTP library, before TorchServe sees the request
            kind, message = "InputTooLong", "the request is larger than the server's max_request_size"
        if status == BAD_REQUEST and kind == "InvalidKeyException":
            raise Unauthorized(self.server.refused_key(self.base, self.key_name))
        if status == NOT_FOUND and kind in ("ModelNotFoundException", "ModelVersionNotFoundException"):
            raise UnknownModel(status, kind, f"{message.rstrip('.')}; scripts/models.py list shows what there is")
        if status in BUSY or kind in DIED:
            raise Unavailable(f"{self.base} answered {status} {kind}: {message}")
        raise Refused(status, kind, message)


class Inference(ApiClient):
    """Predictions."""

    key_name = "inference"

    def __init__(self, server: Server) -> None:
        super().__init__(server, server.inference)

    def predict(self, model: str, question: JSON, *, version: str | None = None, timeout: float = 60) -> JSON:
        """Ask a model one JSON question."""
        return self.request("POST", path_of("predictions", model, version), value=question, timeout=timeout)

    def explain(self, model: str, question: JSON, *, version: str | None = None, timeout: float = 60) -> JSON:
        """Ask a model why it answers one JSON question as it does."""
        return self.request("POST", path_of("explanations", model, version), value=question, timeout=timeout)

    def reply(self, path: str, body: bytes, timeout: float = 60) -> Reply:
        """Send the bytes of a JSON question to a path of this port; return the answer with its headers and time.

        Raises:
            NotRunning, Unauthorized, UnknownModel, Refused, Unavailable
        """
        headers = {**self._authorization(), "Content-Type": "application/json"}
        began = time.perf_counter()
        response = self._exchange("POST", path, body, headers, timeout)
        seconds = time.perf_counter() - began
        return Reply(self._read(response), response.headers, seconds)

    def unready(self, timeout: float = 10) -> str:
        """Return why a standalone server is not ready for requests, in its words; empty: it is."""
        try:
            response = self._connections.request("GET", "/v2/health/ready", None, {}, timeout)
            answer = json.loads(response.content)
        except (OSError, ValueError) as error:
            return f"{NO_ANSWER} ({type(error).__name__})"
        return "" if response.status < BAD_REQUEST else str(answer.get("reason", "it does not say why"))

    def probe(self, model: str, version: str, timeout: float = 30, retry_for: float = 0) -> str:
        """Send one real prediction; return what is wrong, or an empty string.

        The text is no question of every task: that the handler refuses it is an answer too. A server that has no answer
        now, e.g. because the queue is full of others' requests, is asked again for `retry_for` seconds.
        """
        deadline = time.monotonic() + retry_for
        while True:
            try:
                self.request("POST", path_of("predictions", model, version), content=b"Ready?", timeout=timeout)
            except Refused as refusal:
                return "" if refusal.status == UNPROCESSABLE else str(refusal)
            except ServerError as error:
                if not isinstance(error, Unavailable) or time.monotonic() > deadline:
                    return str(error)
            else:
                return ""
            time.sleep(0.3)


@dataclass(frozen=True)
class Reply:
    """An answer with what came around it."""

    answer: JSON
    headers: Mapping[str, str]  # by lower-case name
    seconds: float  # from the first byte sent to the last one received


@dataclass(frozen=True)
class Model:
    """One registered version of a model."""

    name: str
    version: str
    default: bool
    archive: str
    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay: int  # ms
    startup_timeout: int  # s
    waiting: int  # requests in its queue
    pids: tuple[int, ...]  # of its workers; 0 or less: not started yet
    ready: int  # workers that answer
    running: int | None = None  # requests accepted and not answered yet; None: TorchServe does not say

    @property
    def is_ready(self) -> bool:
        """Whether every worker that should be there has loaded the model."""
        return self.ready >= self.min_workers > 0

    @property
    def state(self) -> str:
        """Whether its workers are ready, in a word or two."""
        if self.min_workers == 0:
            return "no workers"
        return "ready" if self.is_ready else "loading"


class Management(ApiClient):
    """What is registered, and how many workers it has."""

    key_name = "management"

    def __init__(self, server: Server) -> None:
        super().__init__(server, server.management)

    def models(self) -> list[Model]:
        """List every version of every model, by name."""
        names: list[str] = []
        page: dict[str, Any] = {"limit": 100}
        while page:
            listed = self.request("GET", "/models", parameters=page)
            names += [model["modelName"] for model in listed["models"]]
            page = {"limit": 100, "next_page_token": listed["nextPageToken"]} if "nextPageToken" in listed else {}
        return [version for name in names for version in self.versions(name)]

    def versions(self, name: str) -> list[Model]:
        """List every version of one model."""
        default = self.default_version(name)
        described = self.request("GET", path_of("models", name, "all"))
        return sorted((_model(version, default) for version in described), key=lambda model: model.version)

    def model(self, name: str, version: str) -> Model:
        """Return one version of a model."""
        (described,) = self.request("GET", path_of("models", name, version))
        return _model(described, self.default_version(name))

    def default_version(self, name: str) -> str:
        """Return the version that answers requests which name none."""
        return str(self.request("GET", path_of("models", name))[0]["modelVersion"])

    def describe(self, name: str, version: str | None = None) -> JSON:
        """Return what a worker says it serves, or TorchServe's own description where the handler has none."""
        path = path_of("models", name, version or self.default_version(name))
        answer = self.request("GET", path, parameters={"customized": "true"})[0]
        return answer.get("customizedMetadata", answer)

    def register(self, archive: str, **settings: Any) -> tuple[str, str]:
        """Register an archive of the model store; return name and version, without waiting for its workers.

        In a synchronous call TorchServe blocks one of its network threads until the workers are there: of 16 clients
        two stood still for the 19 seconds of a load, against 0.8 seconds of unpacking this way (November 2026).
        """
        before = {(model.name, model.version) for model in self.models()}
        try:
            self.request(
                "POST", "/models", parameters={"url": archive, "synchronous": "false", **settings}, timeout=300
            )
        except Unavailable as error:
            if NOT_UNPACKED not in str(error):
                raise
            raise Unavailable(self._no_room(archive)) from error
        after = {(model.name, model.version) for model in self.models() if model.archive == archive}
        new = sorted(after - before)  # somebody else may have registered another archive meanwhile
        if not new:
            raise Unavailable(f"{archive} was registered, but is gone again")
        return new[0]

    def _no_room(self, archive: str) -> str:
        folder = self.server.run_dir / "run"
        free = shutil.disk_usage(folder if folder.is_dir() else self.server.run_dir).free
        return (
            f"the server could not unpack {archive}: {free / 1e6:,.1f} MB of space are free in {folder}; where that is "
            "less than it needs, free some and register again"
        )

    def scale(self, name: str, version: str | None, min_workers: int, max_workers: int) -> None:
        """Set the number of workers, without waiting for them."""
        settings = {"min_worker": min_workers, "max_worker": max_workers, "synchronous": "false"}
        self.request("PUT", path_of("models", name, version), parameters=settings)

    def set_default(self, name: str, version: str) -> None:
        """Let requests that name no version go to this one."""
        self.request("PUT", f"{path_of('models', name, version)}/set-default")

    def unregister(self, name: str, version: str | None = None) -> None:
        """Remove a version; without one, the default version."""
        self.request("DELETE", path_of("models", name, version), timeout=180)


def path_of(root: str, model: str, version: str | None = None) -> str:
    """Return the path of a model below `predictions`, `explanations` or `models`."""
    return "/".join(["", root, quote(model, safe=""), *([quote(version, safe="")] if version else [])])


def _model(described: JSON, default: str) -> Model:
    workers = described.get("workers", [])
    return Model(
        name=described["modelName"],
        version=described["modelVersion"],
        default=described["modelVersion"] == default,
        archive=described["modelUrl"],
        min_workers=described["minWorkers"],
        max_workers=described["maxWorkers"],
        batch_size=described["batchSize"],
        max_batch_delay=described["maxBatchDelay"],
        startup_timeout=described["startupTimeout"],
        waiting=described.get("jobQueueStatus", {}).get("pendingRequests", 0),
        pids=tuple(worker.get("pid", 0) for worker in workers),
        ready=sum(worker["status"] == "READY" for worker in workers),
        running=described.get("jobQueueStatus", {}).get("runningRequests"),
    )
