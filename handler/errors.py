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
    ├── Expired               504
    └── OutOfMemory           507 we act: even a batch of one did not fit

A message names the field, what came and what is accepted, never the text of a user.
"""

from __future__ import annotations

from collections.abc import Mapping
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


class Expired(RequestError):
    """The client's deadline had passed before the work began."""

    status = 504


class OutOfMemory(RequestError):
    """Even alone this request did not fit into memory."""

    status = 507


def merge(errors: Mapping[int, RequestError]) -> RequestError:
    """Return one error that names every bad index of a list; its class is that of the first.

    >>> str(merge({0: InvalidInput("text is empty"), 3: InvalidInput("text is null")}))
    'item 0: text is empty; item 3: text is null'
    """
    shown = [f"item {index}: {error}" for index, error in sorted(errors.items())]
    more = f"; and {len(shown) - 20} more" if len(shown) > 20 else ""
    return type(errors[min(errors)])("; ".join(shown[:20]) + more)
