"""Tell whether a model is ready and why not: by its workers, one real prediction, and the log of the server.

TorchServe reports how many workers are ready, but not why one is not: only its log has the reason. Changes nothing.
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

QUEUE_TIMEOUT_S = 10  # that a full queue is waited for
LOGGED = ("logger", "thread", "message", "error")  # what is read of a line of the log
LOG_TIMEOUT_S = 12  # for the error of a worker that ended, or of the next one: TorchServe may lose that of the first


def readiness_problem(model: Model, management: Management, failure_log: FailureLog, *, wait: bool) -> str:
    """Return what keeps a model from being ready, or an empty string; with `wait`, after its workers have loaded."""
    problem = loading_problem(model, management, failure_log) if wait else "" if model.is_ready else model.state
    retry_for = QUEUE_TIMEOUT_S if wait else 0
    problem = problem or Inference(management.server).probe(model.name, model.version, retry_for=retry_for)
    if problem and not wait and is_busy(management.model(model.name, model.version)):
        say(f"{model.name} {model.version} has no answer now, because requests fill its queue: {problem}")
        return ""
    return problem


def is_busy(model: Model) -> bool:
    """Return whether all workers are ready and requests wait for them: overload is not a failure.

    A probe that took a busy server away from its clients would leave their load to the others, and so on to the last.
    """
    return model.is_ready and model.waiting > 0


def loading_problem(model: Model, management: Management, failure_log: FailureLog) -> str:
    """Wait until all workers of a model have loaded it; return what went wrong, or an empty string.

    TorchServe restarts a worker that failed and does not report it: more processes than workers show that one ended.
    """
    pids: set[int] = set()
    deadline = time.monotonic() + model.startup_timeout + 30
    log_deadline = math.inf  # when the log should hold the reason why a worker ended
    if model.is_ready:
        return ""
    with spinner(f"loading {model.name} {model.version}"):
        while not model.is_ready:
            pids.update(pid for pid in model.pids if pid > 0)
            problem = failure_log.of_worker(model)
            if len(pids) > max(model.min_workers, len(model.pids)):
                log_deadline = min(log_deadline, time.monotonic() + LOG_TIMEOUT_S)
            if problem or time.monotonic() > log_deadline:
                return problem or "a worker ended while it loaded; see the log of the server"
            if time.monotonic() > deadline:
                return f"{model.ready} of {model.min_workers} workers are ready after {model.startup_timeout + 30} s"
            time.sleep(0.3)
            model = management.model(model.name, model.version)
    return ""


@contextmanager
def spinner(message: str) -> Iterator[None]:
    """Show that something takes a while: a spinner, or one line where standard error is no terminal."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(message):
            yield
    else:
        say(message)
        yield


class FailureLog:
    """Reads from the log of the server, one JSON object a line, why models did not load."""

    def __init__(self, server: Server, begin: int) -> None:
        self.log = server.log
        self.begin = begin

    @classmethod
    def from_now(cls, server: Server) -> FailureLog:
        """Read only what is logged from now on."""
        return cls(server, server.log.stat().st_size if server.log.is_file() else 0)

    def of_worker(self, model: Model) -> str:
        """Return the last error that a worker of this model logged before it ended; empty: none."""
        worker = f"-{model.name}_{model.version}-"
        messages = [
            line["message"] for line in self._lines() if line["logger"] == "MODEL_LOG" and worker in line["thread"]
        ]
        errors = [message for message in messages if re.match(r"[\w.]*(Error|Mismatch)\b", message)]
        with_reason = [error for error in errors if ": " in error]  # the log cuts off what might quote a user
        exceptions = [message.partition(", exception ")[2] for message in messages if ", exception " in message]
        return (with_reason or exceptions or errors or [""])[-1].removeprefix("handler.errors.")

    def of_archive(self, name: str) -> str:
        """Return why an archive could not be registered at the start of the server; empty: nothing is known."""
        for line in self._lines():
            if re.search(rf"Failed to load model: (.*/)?{re.escape(name)}(\.mar)?$", line["message"]):
                return str(line["error"].partition("\n")[0].rpartition("Exception: ")[2])
        return ""

    def _lines(self) -> Iterator[dict[str, str]]:
        """Yield the lines that are JSON objects, as log4j2.xml and the standalone server write them."""
        if not self.log.is_file():
            return
        with self.log.open("rb") as log:
            log.seek(self.begin if self.begin <= self.log.stat().st_size else 0)  # it was rotated
            for line in log:
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError):
                    continue  # Java itself logs plain text
                if isinstance(entry, dict):
                    yield {key: value if isinstance(value := entry.get(key), str) else "" for key in LOGGED}
