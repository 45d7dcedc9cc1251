"""Behaviour of `huggingface_hub.InferenceClient` that README warns of; it needs no server of ours."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from huggingface_hub import InferenceClient, constants
from huggingface_hub.errors import OfflineModeIsEnabled


class Nested(BaseHTTPRequestHandler):
    """Answers a list of texts with a ranking for each, as the Hugging Face codec does."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        texts = body["inputs"] if isinstance(body["inputs"], list) else [body["inputs"]]
        content = json.dumps([[{"label": text, "score": 0.9}] for text in texts]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    """Return the address of a running server."""
    with HTTPServer(("127.0.0.1", 0), Nested) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/predictions/m"
        server.shutdown()
        thread.join()


def test_text_classification_of_a_list_returns_the_first_answer(address: str) -> None:
    """The client takes the first element of what the server answers."""
    client: Any = InferenceClient(model=address)
    assert [ranked.label for ranked in client.text_classification(["a", "b"])] == ["a"]
    assert [ranked.label for ranked in client.text_classification("b")] == ["b"]


def test_offline_mode_refuses_a_server_on_this_machine(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_HUB_OFFLINE=1, which is read when the library is imported, means every address."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OfflineModeIsEnabled, match="offline mode is enabled"):
        InferenceClient(model=address).text_classification("a")
