"""Test the gateway in front of a live TorchServe with the clients that README promises to serve unchanged."""

from __future__ import annotations

import importlib
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.http as tritonhttp
from tritonclient.utils import InferenceServerException

from tests.support.gateway import Gateway, listens
from tests.support.replicas import Replica, replicas

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def gateway(mar: Path) -> Iterator[Gateway]:
    """Return a gateway in front of a TorchServe with the model `tiny`, version 1.0."""
    with (
        tempfile.TemporaryDirectory(prefix="gateway-") as folder,
        replicas(Path(folder), mar.parent, 1) as (gateway, _),
    ):
        yield gateway


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Any]:
    """Return NVIDIA's client of this gateway."""

    def context() -> Any:
        return importlib.import_module("gevent.ssl").create_default_context(cafile=str(gateway.folder / "ca.pem"))

    client = tritonhttp.InferenceServerClient(f"localhost:{gateway.port}", ssl=True, ssl_context_factory=context)
    yield client
    client.close()


def test_tritonclient_works_unchanged(gateway: Gateway, client: Any) -> None:
    """Liveness, readiness of server, model and version, and metadata and inference by default and by version."""
    headers = {"Authorization": f"Bearer {gateway.key}"}
    text = tritonhttp.InferInput("text", [1], "BYTES")
    text.set_data_from_numpy(np.array(["Where is it?"], dtype=object))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny", headers=headers)
    assert client.is_model_ready("tiny", "1.0", headers=headers)
    assert not client.is_model_ready("tiny", "2.0", headers=headers)
    assert not client.is_model_ready("nobody", headers=headers)
    for version in ("", "1.0"):
        metadata = client.get_model_metadata("tiny", version, headers=headers)
        assert (metadata["name"], metadata["versions"]) == ("tiny", ["1.0"])
        assert [tensor["name"] for tensor in metadata["inputs"]] == ["text", "text_pair"]
        assert metadata["outputs"][:2] == [
            {"name": "label", "datatype": "BYTES", "shape": [-1, -1]},
            {"name": "score", "datatype": "FP32", "shape": [-1, -1]},
        ]
        result = client.infer("tiny", [text], model_version=version, headers=headers)
        assert result.get_response()["model_version"] == "1.0"
        assert result.as_numpy("label").shape == (1, 4)
    with pytest.raises(InferenceServerException, match="404"):
        client.infer("tiny", [text], model_version="2.0", headers=headers)
    with pytest.raises(InferenceServerException, match="404"):
        client.get_model_metadata("tiny", "2.0", headers=headers)


def is_stopped(pid: int) -> bool:
    """Tell whether all threads of a process have stopped, which a signal does one by one."""
    try:
        stats = [thread.joinpath("stat").read_text() for thread in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:  # one of them ended meanwhile
        return False
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


def test_a_java_that_hangs_fails_its_liveness_probe(mar: Path) -> None:
    """The kernel accepts connections for it; a request gets no response."""
    with tempfile.TemporaryDirectory(prefix="hung-") as folder:
        replica = Replica.within(Path(folder) / "0", mar.parent)
        replica.start()
        try:
            replica.wait()
            url = f"http://127.0.0.1:{replica.live.ports['metrics_address']}/metrics"
            pid = int((replica.live.run_dir / "run" / "pid").read_text())
            assert requests.get(url, timeout=10).status_code == 200
            os.kill(pid, signal.SIGSTOP)
            try:
                while not is_stopped(pid):
                    time.sleep(0.01)
                assert listens(replica.live.ports["metrics_address"])
                with pytest.raises(requests.Timeout):
                    requests.get(url, timeout=2)
            finally:
                os.kill(pid, signal.SIGCONT)
        finally:
            replica.stop()


@pytest.mark.parametrize("path", ["/v1/models/tiny:2.0:predict", "/v1/models/tiny/versions/2.0:predict"])
def test_a_missing_version_is_never_answered_by_another(gateway: Gateway, path: str) -> None:
    """Which TorchServe itself does on KServe's route."""
    body = b'{"instances": ["Where is it?"]}'
    response = gateway.request("POST", path, body)
    assert (response.status, response.json["type"]) == (404, "ModelVersionNotFoundException")
    by_default = gateway.request("POST", "/v1/models/tiny:predict", body)
    assert gateway.request("POST", path.replace("2.0", "1.0"), body).json == by_default.json
