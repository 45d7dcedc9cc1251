"""Who answers: a model on a server, asked again where that may help, or a model in this process.

Both take a list of questions and return as many answers; a question that cannot be answered gets its error.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handler.protocol import JSON
from scripts.cli.console import ScriptError
from scripts.client.http import Inference
from scripts.client.server import NotRunning, Refused, Server, Unavailable, UnknownModel

if TYPE_CHECKING:
    import torch

    from handler.predictor import Predictor

LONGEST_PAUSE = 8.0  # s, between two tries

# What answers: a list of questions to as many answers, {"error": ...} where there is none.
Answerer = Callable[[list[JSON]], list[JSON]]


class Served:
    """A model on a server. Threads may share it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.inference = Inference(Server.of(arguments))
        self.model: str = arguments.model
        self.version: str | None = arguments.version
        self.parameters = arguments.parameters | {"on_error": "report"}
        self.tries: int = arguments.tries
        self.timeout: float = arguments.timeout
        self.was_there = threading.Event()
        self.given_up = threading.Event()

    def answer(self, questions: list[JSON]) -> list[JSON]:
        """Answer questions in one request; in several where one is refused, e.g. because it is too large."""
        try:
            answers = self._try_hard({"inputs": questions, "parameters": self.parameters})
        except UnknownModel:
            raise
        except Refused as refusal:
            if len(questions) > 1:
                middle = len(questions) // 2
                return self.answer(questions[:middle]) + self.answer(questions[middle:])
            return [{"error": {"code": refusal.status, "type": refusal.kind, "message": refusal.message}}]
        if not isinstance(answers, list) or len(answers) != len(questions):
            raise ScriptError(f"{self.model} did not answer {len(questions)} texts with as many answers")
        return answers

    def _try_hard(self, request: JSON) -> JSON:
        attempt = 1
        while True:
            try:
                answers = self.inference.predict(self.model, request, version=self.version, timeout=self.timeout)
            except (Unavailable, NotRunning) as error:
                gone = isinstance(error, NotRunning) and not self.was_there.is_set()
                pause = random.uniform(0.5, 1) * min(0.5 * 2**attempt, LONGEST_PAUSE)  # noqa: S311 - spreads the crowd
                if gone or attempt == self.tries or self.given_up.wait(pause):
                    raise
                attempt += 1
            else:
                self.was_there.set()
                return answers


def ask_server(arguments: argparse.Namespace, stack: ExitStack) -> Answerer:
    """Let a server answer; its threads stop trying when the script ends."""
    served = Served(arguments)
    stack.callback(served.given_up.set)
    return served.answer


def load_local(arguments: argparse.Namespace, stack: ExitStack) -> Answerer:
    """Load a model folder or an archive into this process."""
    parameters = arguments.parameters | {"on_error": "report"}
    predictor = load(arguments.local, stack)
    return lambda questions: predictor.answer_items(questions, parameters)


def load(folder: Path, stack: ExitStack, device: torch.device | None = None, **settings: Any) -> Predictor:
    """Load a model folder or an archive with its own settings, some of which may be replaced."""
    from handler.config import ModelConfig, ServingConfig
    from handler.loading import load_predictor

    if folder.is_file():
        unpacked = stack.enter_context(tempfile.TemporaryDirectory())
        try:
            with zipfile.ZipFile(folder) as archive:
                archive.extractall(unpacked)
        except zipfile.BadZipFile:
            raise ScriptError(f"{folder} is no archive, or a broken one") from None
        folder = Path(unpacked)
    elif not folder.is_dir():
        raise ScriptError(f"no model at {folder}")
    own = folder / "model-config.yaml"
    config = ModelConfig.read(own).handler if own.is_file() else ServingConfig()
    return load_predictor(folder, replace(config, **settings), device)
