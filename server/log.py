"""Logs: warnings and errors, one JSON object a line in the keys of log4j2.xml, and no user's text."""

from __future__ import annotations

import logging
import sys
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path

from handler.errors import StartupError
from handler.protocol import serialize_value
from handler.tracing import current_trace_id

MAX_BYTES, N_KEPT = 10_000_000, 5  # of logs/server.log, as log4j2.xml rotates it
LOADING = "MODEL_LOG"  # the logger of why a model did not load, where scripts/models.py looks


class JsonLines(logging.Formatter):
    """One record as one line; of an exception its type alone, for its message may quote a user."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{at}.{int(record.msecs):03}Z",
            "level": record.levelname.replace("WARNING", "WARN"),
            "logger": record.name,
            "thread": getattr(record, "worker", record.threadName),
            "message": record.getMessage(),
            "error": getattr(record, "reason", error),
        }
        if trace_id := current_trace_id():
            line["trace_id"] = trace_id
        return serialize_value(line).decode("ascii")


def configure(file: Path | None, *, to_terminal: bool) -> None:
    """Log to a file, to standard output, or to both."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)] if to_terminal else []
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(RotatingFileHandler(file, maxBytes=MAX_BYTES, backupCount=N_KEPT))
    for each in handlers:
        each.setFormatter(JsonLines())
    logging.basicConfig(handlers=handlers, level=logging.WARNING, force=True)
    # It logs a traceback for what an application raises; the application logs its own errors, by type.
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    # It quotes characters of a form that it cannot read.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    logging.captureWarnings(True)


def configure_child() -> None:
    """Log in a process of the server to standard error, which scripts/serve.sh writes where the server logs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def loading_failed(name: str, version: str, error: Exception) -> None:
    """Log why a version did not load, in the form in which TorchServe logs what its workers print."""
    is_ours = isinstance(error, StartupError | ImportError)
    message = f"{type(error).__name__}: {error}" if is_ours else type(error).__name__
    logging.getLogger(LOADING).error(message, extra={"worker": f"W-0-{name}_{version}-stdout"})


def archive_failed(archive: str, error: Exception) -> None:
    """Log why an archive could not be registered when the server started."""
    extra = {"reason": f"{type(error).__name__}Exception: {error}"}
    logging.getLogger("ModelServer").error("Failed to load model: %s", archive, extra=extra)
