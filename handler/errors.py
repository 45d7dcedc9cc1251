"""Every error of this package, and who has to act.

ServingError
├── StartupError (RuntimeError)   the operator acts: the worker must not become ready
│   ├── ConfigError               a setting is unknown, of the wrong type or out of range
│   ├── ModelMismatch             the archive is not what was packed, or not what its config says
│   └── GoldenMismatch            the model answers differently from when it was packed
└── RequestError                  the caller acts: this request only
    ├── MalformedBody         400
    ├── UnknownOperation      404
    ├── InputTooLong          413
    ├── AnswerTooLong         413 more bytes than TorchServe accepts as one answer
    ├── UnsupportedMediaType  415
    ├── InvalidInput          422
    ├── InternalError         503 the maintainer acts: an unexpected failure, for the affected rows only
    ├── Overloaded            503 more computation in one batch than the time limit of a worker allows
    ├── Expired               504
    ├── OutOfMemory           507 the operator acts: even a batch of one did not fit
    └── DeviceLost            507 the operator acts: the GPU failed, and TorchServe replaces this worker

A message names the field, what came and what is accepted, never the text of a user.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import ClassVar, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)


class ServingError(Exception):
    """Base of everything this package raises on purpose."""


class StartupError(ServingError, RuntimeError):
    """The worker cannot serve. A RuntimeError, because TorchServe's loader reports only that and MemoryError."""


class ConfigError(StartupError):
    """A setting is unknown, of the wrong type or out of range."""


class ModelMismatch(StartupError):
    """The archive is not what was packed, or not what its own config says."""


class GoldenMismatch(StartupError):
    """The model answers differently from when it was packed."""


class RequestError(ServingError):
    """One request cannot be answered; the others of its batch can."""

    status: ClassVar[int]

    @property
    def type(self) -> str:
        """The name of the error in a response."""
        return type(self).__name__

    @property
    def phrase(self) -> str:
        """The reason phrase of the status line, ASCII."""
        return HTTPStatus(self.status).phrase


class MalformedBody(RequestError):
    """The bytes are not what their content type says: not JSON, not UTF-8, or empty."""

    status = 400


class UnknownOperation(RequestError):
    """The path names an operation that this model does not have."""

    status = 404


class InputTooLong(RequestError):
    """Too many texts, too many characters, or too many tokens where no text may be truncated."""

    status = 413


class AnswerTooLong(RequestError):
    """The answer has more bytes than the server accepts; fewer texts at once, or a smaller answer of each, fit."""

    status = 413


class UnsupportedMediaType(RequestError):
    """The type, charset or encoding of the body cannot be read."""

    status = 415


class InvalidInput(RequestError):
    """Well-formed, but not an input of the task."""

    status = 422


class InternalError(RequestError):
    """An unexpected failure, for this request only."""

    status = 503


class Overloaded(RequestError):
    """The time limit of the batch passed before this request was computed; fewer or shorter texts at once fit in it."""

    status = 503


class Expired(RequestError):
    """The client's deadline had passed before the request was parsed."""

    status = 504


class OutOfMemory(RequestError):
    """This request does not fit into memory, even in a batch of its own."""

    status = 507


class DeviceLost(RequestError):
    """The device failed for the rest of this process; the worker that replaces it can answer."""

    status = 507


def merge(errors: Mapping[int, RequestError]) -> RequestError:
    """Return one error that names the index of every bad item of a list; its class is that of the first.

    >>> str(merge({0: InvalidInput("text is empty"), 3: InvalidInput("text is null")}))
    'item 0: text is empty; item 3: text is null'
    """
    indices = sorted(errors)
    shown = "; ".join(f"item {index}: {errors[index]}" for index in indices[:20])
    more = f"; and items {_ranges(indices[20:])}" if len(indices) > 20 else ""
    return type(errors[indices[0]])(shown + more)


def attempt(step: str, function: Callable[P, T], *arguments: P.args, **keyword_arguments: P.kwargs) -> T | RequestError:
    """Return the result of a function, or the error of the request it was called for.

    Args:
        step: for the message, e.g. "reading".
    """
    try:
        return function(*arguments, **keyword_arguments)
    except RequestError as error:
        return error
    except Exception as error:  # noqa: BLE001 - an unexpected failure of one request must not fail its batch
        return unexpected(step, error)


def unexpected(step: str, error: BaseException) -> InternalError:
    """Log an unexpected exception and return the error of its request; both name its type only.

    The message of an exception may contain a user's text.
    """
    logger.error("unexpected %s while %s a request", type(error).__name__, step)
    return InternalError(f"unexpected {type(error).__name__} while {step} this request")


def _ranges(indices: Sequence[int]) -> str:
    """Format ascending numbers as ranges.

    >>> _ranges([20, 21, 22, 30])
    '20-22, 30'
    """
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
