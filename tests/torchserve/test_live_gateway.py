"""The gateway in front of the standalone server, asked by the clients that people use, each with the gateway's key."""

from __future__ import annotations

import importlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as tritonhttp

from tests.support.gateway import Gateway, running
from tests.support.live import Live

pytestmark = pytest.mark.server

TEXTS = ["Where is my parcel?", "The screen is cracked."]


@pytest.fixture(scope="module")
def gateway(standalone: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Run a gateway in front of the server."""
    port, key_file = standalone.ports["inference_address"], standalone.run_dir / "key_file.json"
    with running(tmp_path_factory.mktemp("gateway"), port, key_file, kind="standalone") as gateway:
        yield gateway


@pytest.fixture(scope="module")
def trust(gateway: Gateway) -> ssl.SSLContext:
    """Return a context that trusts the certificate of the gateway."""
    return ssl.create_default_context(cafile=str(gateway.folder / "ca.pem"))


def test_openai_through_the_gateway(gateway: Gateway, trust: ssl.SSLContext) -> None:
    """Embeddings in base64 and the models; no other key opens, and errors are the client's own."""
    import openai  # not above: every process that collects the tests would import it, for more than a second

    url = f"https://localhost:{gateway.port}/v1"
    with openai.DefaultHttpxClient(verify=trust) as http:
        client = openai.OpenAI(api_key=gateway.key, base_url=url, http_client=http, max_retries=0)
        answer = client.embeddings.create(model="encoder", input=TEXTS)
        own = gateway.request("POST", "/predictions/encoder", b'["Where is my parcel?", "The screen is cracked."]').json
        np.testing.assert_allclose([item.embedding for item in answer.data], own, atol=1e-6)
        assert {"encoder", "tiny"} <= {model.id for model in client.models.list()}
        assert client.models.retrieve("encoder").id == "encoder"
        with pytest.raises(openai.NotFoundError, match="there are: answers, encoder"):
            client.embeddings.create(model="nobody", input="a")
        stranger = openai.OpenAI(api_key="wrong", base_url=url, http_client=http, max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()


def test_cohere_through_the_gateway(gateway: Gateway, trust: ssl.SSLContext) -> None:
    import cohere  # not above: every process that collects the tests would import it, for more than a second

    with httpx.Client(verify=trust) as http:
        client = cohere.ClientV2(gateway.key, base_url=f"https://localhost:{gateway.port}", httpx_client=http)
        answer = client.rerank(model="encoder", query=TEXTS[1], documents=TEXTS, top_n=1)
    assert [result.index for result in answer.results] == [1]


def test_triton_through_the_gateway(gateway: Gateway) -> None:
    """Health without a key, readiness, metadata, and answers as binary tensors."""

    def context() -> Any:
        return importlib.import_module("gevent.ssl").create_default_context(cafile=str(gateway.folder / "ca.pem"))

    headers = {"Authorization": f"Bearer {gateway.key}"}
    address = f"localhost:{gateway.port}"
    with tritonhttp.InferenceServerClient(address, ssl=True, ssl_context_factory=context) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("tiny", "1.0", headers=headers)
        assert not client.is_model_ready("nobody", headers=headers)
        assert client.get_server_metadata(headers=headers)["name"] == "bert-on-torchserve"
        assert client.get_model_metadata("tiny", headers=headers)["versions"] == ["1.0"]
        text = tritonhttp.InferInput("text", [1], "BYTES")
        text.set_data_from_numpy(np.array([TEXTS[0]], dtype=object))
        assert client.infer("tiny", [text], headers=headers).as_numpy("score").shape == (1, 4)


def test_health_is_that_of_the_server(gateway: Gateway, standalone: Live, tmp_path: Path) -> None:
    """Its own words through the gateway; a gateway without a server says that it is not ready."""
    assert gateway.request("GET", "/ping", b"", Authorization=None).body == b'{\n  "status": "Healthy"\n}\n'
    with running(tmp_path, 1, standalone.run_dir / "key_file.json", kind="standalone") as lonely:
        for path in ("/ping", "/v2/health/ready"):
            assert lonely.request("GET", path, b"", Authorization=None).status == 503
