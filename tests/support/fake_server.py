"""A small HTTP server that answers as TorchServe does, failures included, for tests of its clients.

What it imitates was seen on TorchServe 0.12: statuses, names of errors, connections that close. The tests of a live
server hold the clients to the real one.
"""

from __future__ import annotations

import json
import socket
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from handler.archive import MANIFEST, MODEL_CONFIG, OPENAPI
from handler.protocol import JSON
from scripts.archives.store import TORCHSERVE_MANIFEST, Archive

INFERENCE_KEY, MANAGEMENT_KEY = "inferKey", "manageKy"
NO_PID = 5_000_000  # larger than Linux gives to a process


class FakeServer:
    """One model, `toy`, that answers a text with itself in capitals; the text `bad` cannot be answered.

    `failures` are used up one a prediction: a status, or "reset" for a connection that breaks.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.config = run_dir / "config.properties"
        self.log = run_dir / "logs" / "server.log"
        self.failures: deque[int | str] = deque()
        self.requests: list[tuple[str, str, JSON]] = []  # method, path with its query, body
        self.max_texts = 1000
        self.parameters: JSON = None  # of the last prediction
        self.delay = 0.0
        self.may_answer = threading.Event()  # predictions wait for it
        self.may_answer.set()
        self.models: dict[tuple[str, str], dict[str, JSON]] = {("toy", "1.0"): described("toy", "1.0")}
        self.default = {"toy": "1.0"}
        self.store = run_dir / "store"  # archives there are registered by their manifests
        self.answers: dict[str, Callable[[str], JSON]] = {}  # of a version, instead of capitals
        self.description: JSON = {"task": "capitals"}  # of every version, as its handler describes it
        self.broken: dict[tuple[str, str], int] = {}  # method and path of the management port: a status
        self.busy = 0  # times that a version still has a request waiting, when asked
        self._lock = threading.Lock()

    def __enter__(self) -> FakeServer:
        self.log.parent.mkdir(parents=True)
        self._servers = [self._serve(self.predict, INFERENCE_KEY), self._serve(self.manage, MANAGEMENT_KEY)]
        inference, management = (server.server_port for server in self._servers)
        self.config.write_text(
            f"# addresses\ninference_address=http://127.0.0.1:{inference}\n"
            f"management_address = http://127.0.0.1:{management}\n"
        )
        self.write_keys(INFERENCE_KEY, MANAGEMENT_KEY)
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop listening."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers = []

    @property
    def options(self) -> list[str]:
        """The options that make a script ask this server."""
        return ["--config", str(self.config), "--run-dir", str(self.run_dir)]

    def write_keys(self, inference: str, management: str) -> None:
        """Write key_file.json."""
        keys = {"inference": {"key": inference}, "management": {"key": management}, "API": {"key": "x"}}
        (self.run_dir / "key_file.json").write_text(json.dumps(keys))

    def write_log(self, **line: str) -> None:
        """Add a line to the log."""
        with self.log.open("a") as log:
            log.write(json.dumps(line) + "\n")

    def predict(self, method: str, path: str, query: JSON, body: bytes, kind: str) -> tuple[int, JSON]:
        """Answer on the inference port."""
        words = path.strip("/").split("/")
        with self._lock:
            failure = self.failures.popleft() if self.failures else 0
        if failure == "reset":
            raise ConnectionAbortedError
        if isinstance(failure, int) and failure:
            kind = "InternalServerException" if failure == 507 else "ServiceUnavailableException"
            return failure, error(failure, kind, "no worker")
        if words[1] not in self.default:
            return 404, error(404, "ModelNotFoundException", f"Model not found: {words[1]}")
        version = words[2] if len(words) > 2 else self.default[words[1]]
        if (words[1], version) not in self.models:
            return 404, error(404, "ModelVersionNotFoundException", f"Model version: {version} does not exist")
        time.sleep(self.delay)
        self.may_answer.wait()
        question = json.loads(body) if kind == "application/json" else body.decode()
        if isinstance(question, str) and version in self.answers:
            response = self.answers[version](question)
            return (
                (response["code"], response) if isinstance(response, dict) and "code" in response else (200, response)
            )
        if not isinstance(question, dict):
            return 200, answer(question)
        self.parameters = question.get("parameters", {})
        if not isinstance(question["inputs"], list):
            return 200, self.answers.get(version, answer)(question["inputs"])
        if len(question["inputs"]) > self.max_texts:
            return 413, error(413, "InputTooLong", "too many texts")
        return 200, [self.answers.get(version, answer)(text) for text in question["inputs"]]

    def manage(self, method: str, path: str, query: JSON, body: bytes, kind: str) -> tuple[int, JSON]:
        """Answer on the management port."""
        words = path.strip("/").split("/")
        if status := self.broken.get((method, path)):
            return status, error(status, "InternalServerException", "it broke")
        if method == "POST":
            return self.register(query["url"][0])
        if len(words) == 1:
            return 200, {"models": [{"modelName": name, "modelUrl": f"{name}.mar"} for name in self.default]}
        name = words[1]
        version = words[2] if len(words) > 2 else self.default.get(name, "")
        models = [
            model
            for (model_name, number), model in self.models.items()
            if model_name == name and version in (number, "all")
        ]
        if not models:
            return 404, error(404, "ModelNotFoundException", f"Model not found: {name}")
        if method == "DELETE":
            if self.default[name] == version and sum(known == name for known, _ in self.models) > 1:
                return 403, error(
                    403, "InvalidModelVersionException", f"Cannot remove default version for model {name}"
                )
            del self.models[name, version]
            if self.default[name] == version:
                del self.default[name]
            return 200, {"status": "unregistered"}
        if method == "PUT" and words[-1] == "set-default":
            self.default[name] = version
            return 200, {"status": "done"}
        if method == "PUT":
            count = int(query["min_worker"][0])
            models[0]["minWorkers"] = count
            models[0]["workers"] = [worker(NO_PID + index) for index in range(count)]
            return 202, {"status": "Processing worker updates..."}
        if method == "GET" and self.busy and len(words) > 2:
            self.busy -= 1
            return 200, [{**model, "jobQueueStatus": {"pendingRequests": 1}} for model in models]
        if "customized" in query:
            return 200, [{**models[0], "customizedMetadata": self.description}]
        return 200, models

    def register(self, archive: str) -> tuple[int, JSON]:
        """Register an archive of the store, or else `NAME-VERSION.mar`; `broken-...` never loads, nor 6.6.6."""
        name, _, version = archive.removesuffix(".mar").partition("-")
        if (self.store / archive).is_file():
            manifest = Archive.read(self.store / archive)
            name, version = manifest.name, manifest.version
        if (name, version) in self.models:
            return 409, error(409, "ConflictStatusException", f"Model version {version} is already registered")
        if not version:
            return 404, error(404, "ModelNotFoundException", f"Model not found at: {archive}")
        self.models[name, version] = {**described(name, version), "modelUrl": archive}
        self.default.setdefault(name, version)
        if name == "broken" or version == "6.6.6":
            self.models[name, version]["workers"] = [worker(NO_PID, "UNLOADED")]
            line = {"logger": "MODEL_LOG", "thread": f"W-9000-{name}_{version}-stdout"}
            self.write_log(**line, message="handler.errors.ConfigError: unknown setting handler.topk")
            self.write_log(**line, message="RuntimeError")
        return 202, {"status": "Processing worker updates..."}

    def _serve(self, answer: Callable[[str, str, JSON, bytes, str], tuple[int, JSON]], key: str) -> ThreadingHTTPServer:
        fake_server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet: two would wait 40 ms for each other

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                target = urlsplit(self.path)
                with fake_server._lock:
                    fake_server.requests.append((self.command, unquote(self.path), body))
                if self.headers.get("Authorization") != f"Bearer {key}":
                    status, value = 400, error(400, "InvalidKeyException", "Token Authorization failed.")
                else:
                    try:
                        kind = self.headers.get("Content-Type", "")
                        status, value = answer(self.command, unquote(target.path), parse_qs(target.query), body, kind)
                    except ConnectionAbortedError:
                        self.close_connection = True
                        self.connection.shutdown(socket.SHUT_RDWR)
                        return
                content = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                if status >= 400:
                    self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *words: object) -> None:
                pass

        server = QuietServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server


def write_archive(file: Path, name: str = "toy", version: str = "1.0", config: str = "", **files: str) -> Path:
    """Write a .mar with both manifests; of `files` there are hashes in ours, but the content is `content`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)  # as package.py: another file, not the old one overwritten
    ours = {"format": 1, "name": name, "version": version, "task": "capitals", "model_hash": "0" * 64, "files": files}
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr(TORCHSERVE_MANIFEST, json.dumps({"model": {"modelName": name, "modelVersion": version}}))
        packed.writestr(MANIFEST, json.dumps(ours))
        packed.writestr(MODEL_CONFIG, config)
        packed.writestr(OPENAPI, json.dumps({"info": {"version": version}}))
        for path in files:
            packed.writestr(path, "content")
    return file


class QuietServer(ThreadingHTTPServer):
    """A server that says nothing of clients that left."""

    daemon_threads = True

    def handle_error(self, *request: Any) -> None:
        """Be quiet."""


def answer(question: JSON) -> JSON:
    """Answer one text, or the texts of an object together."""
    text = "".join(question.values()) if isinstance(question, dict) else question
    if text == "bad":
        return {"error": error(422, "InvalidInput", "bad")}
    return [{"label": text.upper(), "score": 1.0}]


def error(code: int, kind: str, message: str) -> JSON:
    """Make the body of an error."""
    return {"code": code, "type": kind, "message": message}


def worker(pid: int, status: str = "READY") -> JSON:
    """Make one worker of a description."""
    return {"id": "9000", "status": status, "pid": pid}


def described(name: str, version: str) -> dict[str, JSON]:
    """Make the description of a model."""
    return {
        "modelName": name,
        "modelVersion": version,
        "modelUrl": f"{name}.mar",
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": 8,
        "maxBatchDelay": 2,
        "startupTimeout": 30,
        "workers": [worker(NO_PID)],
        "jobQueueStatus": {"remainingCapacity": 100, "pendingRequests": 0},
    }
