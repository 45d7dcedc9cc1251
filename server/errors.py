"""Errors of the server itself, in the words of TorchServe, so that its clients understand them.

Errors of requests, of which the handler knows, are in handler/errors.py.
"""

from __future__ import annotations

import json

from handler.protocol import JSON
from handler.request_state import Response

MAX_NAME = 200  # characters of a name from a request that a message repeats


class ApiError(Exception):
    """A request that no model sees."""

    def __init__(self, status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message
        self.headers = headers or {}

    def to_response(self) -> Response:
        """Return it as TorchServe writes its errors."""
        return json_response(
            {"code": self.status, "type": self.kind, "message": self.message}, self.status, self.headers
        )


def json_response(value: JSON, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON value as a response, with the indents of TorchServe."""
    content = json.dumps(value, indent=2, allow_nan=False) + "\n"
    return Response(content.encode("ascii"), status, headers=headers or {})


def model_not_found(name: str) -> ApiError:
    """Return the error of an unknown model."""
    return ApiError(404, "ModelNotFoundException", f"Model not found: {name[:MAX_NAME]}")


def version_not_found(name: str, version: str) -> ApiError:
    """Return the error of an unknown version of a known model."""
    message = f"Model version: {version[:MAX_NAME]} does not exist for model: {name}"
    return ApiError(404, "ModelVersionNotFoundException", message)


def route_not_found() -> ApiError:
    """Return the error of an unknown path."""
    message = "Requested resource is not found, please refer to API document."
    return ApiError(404, "ResourceNotFoundException", message)


def method_not_allowed() -> ApiError:
    """Return the error of a known path with another method."""
    message = "Requested method is not allowed, please refer to API document."
    return ApiError(405, "MethodNotAllowedException", message)


def bad_request(message: str) -> ApiError:
    """Return the error of a request without what it needs."""
    return ApiError(400, "BadRequestException", message)


def invalid_key() -> ApiError:
    """Return the error of a request without a valid key: 400, as TorchServe does."""
    message = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
    return ApiError(400, "InvalidKeyException", message)


def too_large(limit: int) -> ApiError:
    """Return the error of a body that is longer than `max_request_size`."""
    message = f"the body has more than {limit} bytes (max_request_size): send fewer texts at once"
    return ApiError(413, "RequestTooLarge", message, {"connection": "close"})


def overloaded(message: str, retry_after_s: int = 1) -> ApiError:
    """Return the error of a request that would wait too long."""
    return ApiError(503, "ServiceUnavailableException", message, {"retry-after": str(retry_after_s)})


def queue_full(retry_after_s: int) -> ApiError:
    """Return the error of a request that comes while the queue is full."""
    return overloaded("the queue is full: try again later", retry_after_s)


def engine_failed(name: str) -> ApiError:
    """Return the error of a request whose engine will not answer any more, because the server ends.

    Without Retry-After, with which a gateway would hand it to the next server: it may be what the engine hangs on.
    """
    message = f'the engine of model "{name}" does not answer any more, and the server ends: try again later'
    return ApiError(503, "InternalServerException", message)


def explanations_failed(reason: str) -> ApiError:
    """Return the error of an explanation whose process could not load the model."""
    return ApiError(503, "InternalServerException", f"{reason}; predictions go on")


def body_timeout(seconds: float) -> ApiError:
    """Return the error of a body that does not come."""
    return ApiError(408, "RequestTimeout", f"the body did not come within {seconds:g} s", {"connection": "close"})
