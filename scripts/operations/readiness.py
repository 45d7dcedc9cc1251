"""Whether a model is ready, and why not: its workers, one real prediction, and the reasons in the log of the server.

TorchServe tells how many workers are ready, but not why one is not: that is only in its log. Changes nothing.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from scripts.cli.console import say
from scripts.client.http import Inference, Management, Model
from scripts.client.server import Server

PATIENCE_S = 10  # that a full queue is waited for
LOG_S = 12  # for the last words of a worker that has gone, or of the next: TorchServe may lose those of the first


def problem_of(model: Model, management: Management, failures: Failures, *, wait: bool) -> str:
    """Return what keeps a model from being ready, or nothing; `wait` while its workers load."""
    problem = loading_problem(model, management, failures) if wait else "" if model.is_ready else model.state
    patience = PATIENCE_S if wait else 0
    return problem or Inference(management.server).responds(model.name, model.version, patience=patience)


def loading_problem(model: Model, management: Management, failures: Failures) -> str:
    """Wait until all workers of a model have loaded it; return what went wrong, or nothing.

    TorchServe starts a worker that failed again and again, and tells nobody: more processes than workers is the sign.
    """
    seen: set[int] = set()
    deadline = time.monotonic() + model.startup_timeout + 30
    told_by = math.inf  # when the log should have said why a worker ended
    if model.is_ready:
        return ""
    with working(f"loading {model.name} {model.version}"):
        while not model.is_ready:
            seen.update(pid for pid in model.pids if pid > 0)
            problem = failures.of_worker(model)
            if len(seen) > max(model.min_workers, len(model.pids)):
                told_by = min(told_by, time.monotonic() + LOG_S)
            if problem or time.monotonic() > told_by:
                return problem or "a worker ended while it loaded; see the log of the server"
            if time.monotonic() > deadline:
                return f"{model.ready} of {model.min_workers} workers are ready after {model.startup_timeout + 30} s"
            time.sleep(0.3)
            model = management.model(model.name, model.version)
    return ""


@contextmanager
def working(message: str) -> Iterator[None]:
    """Show that something takes a while: a spinner, or one line where standard error is no terminal."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(message):
            yield
    else:
        say(message)
        yield


class Failures:
    """Why models did not load, from the log of the server; it has one JSON object a line."""

    def __init__(self, server: Server, begin: int) -> None:
        self.log = server.log
        self.begin = begin

    @classmethod
    def from_now(cls, server: Server) -> Failures:
        """Look only at what happens from now on."""
        return cls(server, server.log.stat().st_size if server.log.is_file() else 0)

    def of_worker(self, model: Model) -> str:
        """Return the last thing that a worker of this model said before it gave up; empty: nothing."""
        worker = f"-{model.name}_{model.version}-"
        told = [line["message"] for line in self._lines() if line["logger"] == "MODEL_LOG" and worker in line["thread"]]
        errors = [message for message in told if re.match(r"[\w.]*(Error|Mismatch)\b", message)]
        named = [error for error in errors if ": " in error]  # the log cuts off what might quote a user
        spoken = [message.partition(", exception ")[2] for message in told if ", exception " in message]
        return (named or spoken or errors or [""])[-1].removeprefix("handler.errors.")

    def of_archive(self, name: str) -> str:
        """Return why an archive could not be registered at the start of the server; empty: nothing is known."""
        for line in self._lines():
            if re.search(rf"Failed to load model: (.*/)?{re.escape(name)}(\.mar)?$", line["message"]):
                return str(line["error"].partition("\n")[0].rpartition("Exception: ")[2])
        return ""

    def _lines(self) -> Iterator[dict[str, str]]:
        if not self.log.is_file():
            return
        with self.log.open("rb") as log:
            log.seek(self.begin if self.begin <= self.log.stat().st_size else 0)  # it was rotated
            for line in log:
                try:
                    yield json.loads(line)
                except ValueError:
                    continue  # Java itself speaks plain text
