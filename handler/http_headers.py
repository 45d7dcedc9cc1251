"""Request headers -> Request: what a client says beside the body, in one way for every server."""

from __future__ import annotations

import math
from collections.abc import Mapping

from handler.protocol import Body
from handler.request_state import Request


def request_from(
    content: bytes | None,
    content_type: str,
    headers: Mapping[str, str],
    *,
    operation: str = "",
    explain: bool = False,
    kserve: bool = False,
    typed: bool = True,
) -> Request:
    """Return the request of a body and its headers.

    Args:
        content: None for a form without a field that is read.
        content_type: of the body, or of the field of a form.
        headers: by lower-case name.
        operation: what the path names behind the version.
        kserve: whether it was sent to one of KServe's routes, whose clients may send no Content-Type with JSON.
        typed: whether the transport has content types at all.
    """
    body = Body(
        content=content,
        content_type=content_type or ("application/json" if kserve else ""),
        content_encoding=headers.get("content-encoding", ""),
        typed=typed,
        json_length=_json_length(headers.get("inference-header-content-length")),
    )
    deadline_ms = _milliseconds(headers.get("x-request-deadline-ms"))
    return Request(body, operation.strip("/"), explain, kserve, deadline_ms, headers.get("x-request-id"))


def is_form(content_type: str) -> bool:
    """Tell whether a body is a form, of which only the field `data` is read."""
    return content_type.lower().startswith(("multipart/form-data", "application/x-www-form-urlencoded"))


def _json_length(header: str | None) -> int | None:
    """Return the bytes of JSON before binary tensors; None without the header, and -1 for one that is no number."""
    if header is None:
        return None
    return int(header) if header.isascii() and header.isdecimal() and len(header) < 20 else -1


def _milliseconds(header: str | None) -> float | None:
    try:
        deadline = float(header or "nan")
    except ValueError:
        return None
    return deadline if math.isfinite(deadline) else None
