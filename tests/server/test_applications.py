"""The OpenAPI document of a server, for which nobody needs a key."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from handler.request_state import Response
from server import applications
from server.applications import ServerDescription


def test_the_document_is_written_once_for_the_same_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand requests for it held up everybody else's for seconds; a model that comes changes it."""
    written: list[int] = []

    def write(models: list[Any]) -> Response:
        written.append(len(models))
        return Response(b"%d" % len(models))

    monkeypatch.setattr(applications, "describe_server", write)
    models: Any = [SimpleNamespace(name="a", version="1.0", began=1.0, is_ready=True)]
    description = ServerDescription(models)
    assert {description.response().content for _ in range(5)} == {b"1"}
    models.append(SimpleNamespace(name="b", version="1.0", began=2.0, is_ready=True))
    assert {description.response().content for _ in range(5)} == {b"2"}
    models[0] = SimpleNamespace(name="a", version="1.0", began=3.0, is_ready=True)
    assert description.response().content == b"2"
    assert written == [1, 2, 2]
