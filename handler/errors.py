"""Everything that can go wrong, and who has to act.

ServingError
├── StartupError (RuntimeError)   the operator acts: the worker must not become ready
│   ├── ConfigError               a setting is unknown, of the wrong type or out of range
│   ├── ModelMismatch             the archive is not what was packed, or not what its config says
│   └── GoldenMismatch            the model answers differently from when it was packed
└── RequestError                  the caller acts: this request only
    ├── MalformedBody         400
    ├── UnknownOperation      404
    ├── InputTooLong          413
    ├── UnsupportedMediaType  415
    ├── InvalidInput          422
    ├── InternalError         503 we act: an unexpected failure, for the affected rows only
    ├── Overloaded            503 more work in one batch than a worker may take time for
    ├── Expired               504
    ├── OutOfMemory           507 we act: even a batch of one did not fit
    └── DeviceLost            507 we act: the GPU failed, and this worker ends so that another takes its place

A message names the field, what came and what is accepted, never the text of a user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import ClassVar


class ServingError(Exception):
    """Base of everything this package raises on purpose."""


class StartupError(ServingError, RuntimeError):
    """The worker cannot serve. A RuntimeError, because TorchServe's loader reports only those (and MemoryError)."""


class ConfigError(StartupError):
    """A setting is unknown, of the wrong type or out of range."""


class ModelMismatch(StartupError):
    """The archive is not what was packed, or not what its own config says."""


class GoldenMismatch(StartupError):
    """The model answers differently from when it was packed."""


class RequestError(ServingError):
    """One request cannot be answered; its neighbours can."""

    status: ClassVar[int]

    @property
    def type(self) -> str:
        """The name of the error on the wire."""
        return type(self).__name__

    @property
    def phrase(self) -> str:
        """The reason phrase of the status line, ASCII."""
        return HTTPStatus(self.status).phrase


class MalformedBody(RequestError):
    """The bytes are not what their type says: not JSON, not UTF-8, empty."""

    status = 400


class UnknownOperation(RequestError):
    """The path asks for a use that this model does not have."""

    status = 404


class InputTooLong(RequestError):
    """Too many texts, too many characters, or too many tokens where nothing may be cut."""

    status = 413


class UnsupportedMediaType(RequestError):
    """The type, charset or encoding of the body cannot be read."""

    status = 415


class InvalidInput(RequestError):
    """Well-formed, but not a question that the task answers."""

    status = 422


class InternalError(RequestError):
    """An unexpected failure, for this request only."""

    status = 503


class Overloaded(RequestError):
    """The batch took so long that this part of it was not begun; fewer or shorter texts at once will do."""

    status = 503


class Expired(RequestError):
    """The client's deadline had passed before the work began."""

    status = 504


class OutOfMemory(RequestError):
    """Even alone this request did not fit into memory."""

    status = 507


class DeviceLost(RequestError):
    """The device failed in a way that this process cannot mend; another worker will answer."""

    status = 507


def merge(errors: Mapping[int, RequestError]) -> RequestError:
    """Return one error that names every bad index of a list; its class is that of the first.

    >>> str(merge({0: InvalidInput("text is empty"), 3: InvalidInput("text is null")}))
    'item 0: text is empty; item 3: text is null'
    """
    indices = sorted(errors)
    shown = "; ".join(f"item {index}: {errors[index]}" for index in indices[:20])
    more = f"; and items {_ranges(indices[20:])}" if len(indices) > 20 else ""
    return type(errors[indices[0]])(shown + more)


def _ranges(indices: Sequence[int]) -> str:
    """Write ascending numbers shortly.

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
