"""What answers questions: a model on a server, with retries, or a model loaded into this process.

A backend takes a list of questions and returns as many answers; a question that cannot be answered gets an error.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handler.protocol import JSON, serialize_value
from scripts.cli.console import ScriptError
from scripts.client.http import Inference
from scripts.client.server import NotRunning, Refused, Server, Unavailable, UnknownModel
from scripts.client.unpacking import extract

if TYPE_CHECKING:
    from handler.engine.device import AnyDevice
    from handler.predictor import Predictor

MAX_BACKOFF_S = 8.0  # between two tries

# Questions to as many answers, {"error": ...} in the place of an answer that there is not.
Backend = Callable[[list[JSON]], list[JSON]]


class ServerBackend:
    """A model on a server. Threads may share it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.inference = Inference(Server.of(arguments))
        self.model: str = arguments.model
        self.version: str | None = arguments.version
        self.parameters = arguments.parameters
        self.tries: int = arguments.tries
        self.timeout: float = arguments.timeout
        self.has_answered = threading.Event()
        self.stopping = threading.Event()

    def answer(self, questions: list[JSON], parameters: Mapping[str, JSON] | None = None) -> list[JSON]:
        """Answer questions in one request; halve a request that is refused, e.g. because it is too large.

        `parameters` replace those of the command line.
        """
        chosen = {**(self.parameters if parameters is None else parameters), "on_error": "report"}
        try:
            answers = self._predict({"inputs": questions, "parameters": chosen})
        except UnknownModel:
            raise
        except Refused as refusal:
            if len(questions) > 1:
                middle = len(questions) // 2
                return self.answer(questions[:middle], parameters) + self.answer(questions[middle:], parameters)
            return [{"error": {"code": refusal.status, "type": refusal.kind, "message": refusal.message}}]
        if not isinstance(answers, list) or len(answers) != len(questions):
            raise ScriptError(f"{self.model} did not answer {len(questions)} texts with as many answers")
        return answers

    def _predict(self, body: JSON) -> JSON:
        """Send one request, again after a failure that may pass; a server that never answered is not waited for."""
        attempt = 1
        while True:
            try:
                answers = self.inference.predict(self.model, body, version=self.version, timeout=self.timeout)
            except (Unavailable, NotRunning) as error:
                never_ran = isinstance(error, NotRunning) and not self.has_answered.is_set()
                backoff = random.uniform(0.5, 1) * min(0.5 * 2**attempt, MAX_BACKOFF_S)  # noqa: S311 - not a secret
                if never_ran or attempt == self.tries or self.stopping.wait(backoff):
                    raise
                attempt += 1
            else:
                self.has_answered.set()
                return answers


def server_backend(arguments: argparse.Namespace, stack: ExitStack) -> Backend:
    """Return a backend that asks a server; its threads stop retrying when the stack unwinds."""
    backend = ServerBackend(arguments)
    stack.callback(backend.stopping.set)
    return backend.answer


def local_backend(arguments: argparse.Namespace, stack: ExitStack) -> Backend:
    """Return a backend that loads a model folder or an archive into this process.

    Answers are what a client reads from a server: embeddings have the nine digits of fp32.
    """
    parameters = arguments.parameters | {"on_error": "report"}
    predictor = load(arguments.local, stack, serving=True)

    def answer(questions: list[JSON]) -> list[JSON]:
        answers: list[JSON] = json.loads(serialize_value(predictor.answer_items(questions, parameters, as_arrays=True)))
        return answers

    return answer


def load(
    folder: Path, stack: ExitStack, device: AnyDevice | None = None, *, serving: bool = False, **settings: Any
) -> Predictor:
    """Load a model folder or an archive with the settings it holds; `settings` replace some of them.

    Args:
        serving: as of `load_predictor`: whether this process only answers, which saves it three seconds of imports.
    """
    from handler.config import ModelConfig, ServingConfig
    from handler.loading import load_predictor

    if folder.is_file():
        unpacked = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        extract(folder, unpacked)
        folder = unpacked
    elif not folder.is_dir():
        raise ScriptError(f"no model at {folder}")
    file = folder / "model-config.yaml"
    config = ModelConfig.read(file).handler if file.is_file() else ServingConfig()
    return load_predictor(folder, replace(config, **settings), device, serving=serving)
