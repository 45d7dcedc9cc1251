"""The HTTP clients: keys, errors that say what to do, what counts as ready."""

from __future__ import annotations

import doctest
import importlib
import json
from pathlib import Path

import pytest

from scripts.cli.console import ROOT, ScriptError
from scripts.client.http import Inference, Management
from scripts.client.server import NotRunning, Refused, Server, Unauthorized, Unavailable, UnknownModel
from tests.support.fake_server import FakeServer
from tests.support.samples import read_settings


@pytest.fixture
def server(fake_server: FakeServer) -> Server:
    """Return where it listens."""
    return Server.read(fake_server.config, fake_server.run_dir)


def test_the_settings_of_this_repository_can_be_read() -> None:
    """Both ports are on the loopback, and keys are asked for."""
    server = Server.read(ROOT / "config.properties", ROOT)
    assert (server.inference, server.management) == ("http://127.0.0.1:8080", "http://127.0.0.1:8081")
    assert server.authorized


def test_settings_are_read_as_torchserve_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments, spaces, the last of equal keys; the environment only where the file lets it."""
    path = tmp_path / "config.properties"
    path.write_text("# a=1\n! a=2\n a = 3=4 \na=5\n\njunk\n")
    monkeypatch.setenv("TS_DEBUG", "6")
    assert read_settings(path) == {"a": "5", "junk": ""}
    path.write_text("enable_envvars_config=true\ndebug=5\n")
    monkeypatch.setenv("TS_INFERENCE_ADDRESS", "http://0.0.0.0:1234")
    assert read_settings(path)["debug"] == "6"
    assert Server.read(path, tmp_path).inference == "http://127.0.0.1:1234"


@pytest.mark.parametrize(
    ("settings", "inference", "management"),
    [
        ("inference_address:http://127.0.0.1:1", "http://127.0.0.1:1", "http://127.0.0.1:8081"),
        ("inference_address http://0.0.0.0", "http://127.0.0.1:80", "http://127.0.0.1:8081"),
        ("management_address=http://127.0.0.1", "http://127.0.0.1:8080", "http://127.0.0.1:8081"),
        ("management_address=https://127.0.0.1", "http://127.0.0.1:8080", "https://127.0.0.1:8444"),
        ("inference_address=http://127.0.0.1:\\\n   2", "http://127.0.0.1:2", "http://127.0.0.1:8081"),
        ("inference_address=http://127.0.0.1:$$PORT_X$$", "http://127.0.0.1:3", "http://127.0.0.1:8081"),
        ("enable_envvars_config=TRUE", "http://127.0.0.1:4", "http://127.0.0.1:8081"),
        ("enable_envvars_config=true ", "http://127.0.0.1:8080", "http://127.0.0.1:8081"),
    ],
)
def test_addresses_are_read_as_torchserve_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str, inference: str, management: str
) -> None:
    """Each was seen on TorchServe 0.12.0, which prints its addresses when it starts (November 2026)."""
    path = tmp_path / "config.properties"
    path.write_text(settings)
    monkeypatch.setenv("TS_INFERENCE_ADDRESS", "http://127.0.0.1:4")
    monkeypatch.setenv("PORT_X", "3")
    server = Server.read(path, tmp_path)
    assert (server.inference, server.management) == (inference, management)


@pytest.mark.parametrize("address", ["unix:/tmp/socket", "127.0.0.1:8080", "http://", "http://127.0.0.1:8080 "])
def test_an_address_that_cannot_be_connected_to_is_named(tmp_path: Path, address: str) -> None:
    """Only http and https addresses are supported; TorchServe itself refuses a blank at the end."""
    path = tmp_path / "config.properties"
    path.write_text(f"inference_address={address}\n")
    with pytest.raises(ScriptError, match=r"cannot connect to inference_address .*only http"):
        Server.read(path, tmp_path)


def test_missing_settings_are_named(tmp_path: Path) -> None:
    """A wrong --config is an error of one line."""
    with pytest.raises(ScriptError, match="no settings at"):
        Server.read(tmp_path / "nothing", tmp_path)


def test_each_port_gets_its_own_key(server: Server) -> None:
    """A prediction and a listing are both allowed."""
    assert Inference(server).predict("toy", "hello") == [{"label": "HELLO", "score": 1.0}]
    assert [model.name for model in Management(server).models()] == ["toy"]


def test_keys_are_read_anew(fake_server: FakeServer, server: Server) -> None:
    """A restart of the server changes the keys under a running client."""
    client = Inference(server)
    fake_server.write_keys("old", "old")
    with pytest.raises(Unauthorized, match="expired, or is of another server"):
        client.predict("toy", "hello")
    fake_server.write_keys("inferKey", "manageKy")
    assert client.predict("toy", "hello")


def test_the_key_of_the_other_port_is_refused(fake_server: FakeServer, server: Server) -> None:
    """Keys are not interchangeable, and the message names the kind."""
    fake_server.write_keys("manageKy", "inferKey")
    with pytest.raises(Unauthorized, match="inference key"):
        Inference(server).predict("toy", "hello")
    with pytest.raises(Unauthorized, match="management key"):
        Management(server).models()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"inference": {}}', '{"inference": 3}'])
def test_a_broken_key_file_is_named(server: Server, content: str) -> None:
    """What is no key file does not end as a traceback."""
    server.key_file.write_text(content)
    with pytest.raises(Unauthorized, match="no inference key can be read"):
        Inference(server).predict("toy", "hello")


def test_no_key_file_means_no_server(server: Server) -> None:
    """The message says how to start one."""
    server.key_file.unlink()
    with pytest.raises(NotRunning, match=r"serve\.sh start"):
        Inference(server).predict("toy", "hello")


def test_a_server_without_keys_is_asked_without(fake_server: FakeServer, server: Server) -> None:
    """disable_token_authorization in the settings: no key file is needed, and none is sent."""
    fake_server.config.write_text(fake_server.config.read_text() + "disable_token_authorization=true\n")
    server.key_file.unlink()
    open_server = Server.read(fake_server.config, fake_server.run_dir)
    with pytest.raises(Unauthorized):  # this one does ask for keys
        Inference(open_server).predict("toy", "hello")


def test_nobody_listens(fake_server: FakeServer, server: Server) -> None:
    """A stopped server is told from one that refuses."""
    fake_server.stop()
    with pytest.raises(NotRunning, match="no server at"):
        Inference(server).predict("toy", "hello")


def test_an_unknown_model_is_named(server: Server) -> None:
    """The message says where to look."""
    with pytest.raises(UnknownModel, match=r"Model not found: nope; scripts/models\.py list"):
        Inference(server).predict("nope", "hello")


@pytest.mark.parametrize(
    ("failure", "kind"),
    [(503, Unavailable), (500, Unavailable), (507, Unavailable), ("reset", Unavailable), (422, Refused)],
)
def test_failures_that_pass_are_told_from_refusals(
    fake_server: FakeServer, server: Server, failure: int | str, kind: type[Exception]
) -> None:
    """Only what may be gone later is worth another try."""
    fake_server.failures.append(failure)
    with pytest.raises(kind):
        Inference(server).predict("toy", "hello")
    assert Inference(server).predict("toy", "hello")


def test_a_slow_answer_is_given_up(fake_server: FakeServer, server: Server) -> None:
    """Within the time limit, with a message that names it."""
    fake_server.delay = 1
    with pytest.raises(Unavailable, match=r"within 0\.2 seconds"):
        Inference(server).predict("toy", "hello", timeout=0.2)


def test_names_are_escaped(fake_server: FakeServer, server: Server) -> None:
    """No name reaches another route."""
    with pytest.raises(UnknownModel):
        Inference(server).predict("../models", "hello")
    assert fake_server.requests[-1][1] == "/predictions/../models"  # unquoted by the fake server, as one segment


def test_a_model_is_ready_when_all_its_workers_are(fake_server: FakeServer, server: Server) -> None:
    """One worker of two is not enough, and none is not ready either."""
    described = fake_server.models["toy", "1.0"]
    management = Management(server)
    assert management.model("toy", "1.0").is_ready
    described["minWorkers"] = 2
    assert management.model("toy", "1.0").state == "loading"
    described["minWorkers"] = 0
    assert management.model("toy", "1.0").state == "no workers"


def test_ready_needs_a_real_prediction(fake_server: FakeServer, server: Server) -> None:
    """A worker that is READY may still not answer; that a handler refuses the probe is an answer."""
    client = Inference(server)
    assert not client.probe("toy", "1.0")
    fake_server.failures.append(422)
    assert not client.probe("toy", "1.0")
    fake_server.failures.append(503)
    assert "503" in client.probe("toy", "1.0")
    fake_server.failures.append(415)
    assert "415" in client.probe("toy", "1.0")


def test_messages_hold_no_text(fake_server: FakeServer, server: Server) -> None:
    """Whatever fails, the text that was sent is not repeated."""
    for failure in (503, 422, "reset"):
        fake_server.failures.append(failure)
        with pytest.raises(ScriptError) as caught:
            Inference(server).predict("toy", "my secret")
        assert "secret" not in str(caught.value)


def test_requests_ignore_proxies_and_netrc(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy cannot reach the loopback, and a password of .netrc would replace the key."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert Inference(server).predict("toy", json.loads('"hello"'))


@pytest.mark.parametrize("name", ["client.connection", "client.predictions", "client.settings", "archives.store"])
def test_examples_in_docstrings(name: str) -> None:
    """They run."""
    assert doctest.testmod(importlib.import_module(f"scripts.{name}")).failed == 0


def test_an_archive_that_could_not_be_unpacked_names_the_space(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk TorchServe says only that it failed to save the model."""
    request = Management.request

    def full(self: Management, method: str, path: str, **options: object) -> object:
        if method == "POST":
            raise Unavailable("http://127.0.0.1:1 answered 500 InternalServerException: Failed to save model: big.mar")
        return request(self, method, path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Management, "request", full)
    with pytest.raises(Unavailable, match=r"could not unpack big\.mar: [\d,.]+ MB of space are free in .*/run"):
        Management(server).register("big.mar")
