"""A gateway in front of a fake TorchServe, one for each file of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.fake_server import INFERENCE_KEY, FakeServer
from tests.support.gateway import KEY, MARKER, OTHER, Gateway, running
from tests.support.samples import read_settings


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeServer]:
    """Return a fake TorchServe, shared by all tests of a file."""
    with FakeServer(tmp_path_factory.mktemp("toy")) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(toy: FakeServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Return a gateway in front of the fake TorchServe; at the end its logs have no text and no key of any test."""
    port = int(read_settings(toy.config)["inference_address"].rsplit(":", 1)[1])
    with running(tmp_path_factory.mktemp("gateway"), port, toy.run_dir / "key_file.json") as server:
        yield server
        for secret in (MARKER, KEY, OTHER, INFERENCE_KEY, "Bearer"):
            assert secret not in server.log(), secret
