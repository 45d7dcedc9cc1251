"""A replica of Ray Serve, without Ray: it answers, refuses and limits as the standalone server does."""

from __future__ import annotations

import asyncio
import importlib
import json
import math
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from handler.errors import ConfigError
from scripts.archives.floor import NOT_OLDER_THAN
from scripts.archives.signing import PUBLIC_KEY
from server.batcher import Batcher
from server.keys import SharedKeys
from server.ray_serve import ARGUMENTS, Replica, application
from tests.support.samples import ROOT

FILE = ROOT / "deploy" / "ray" / "serve.yaml"
KEYS = '{"inference": {"key": KEY}}'
FIRST, SECOND = "first-" * 7, "second-" * 6


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Return a file with one key."""
    return write_key(tmp_path / "keys.json", FIRST)


def write_key(file: Path, key: str) -> Path:
    """Write a file of keys, as if later than the one before."""
    file.write_text(json.dumps({"inference": {"key": key}}))
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1 + len(key)))
    return file


def test_a_replica_answers_with_the_keys_of_the_operator(
    mar: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ready when its model has loaded; a request needs the key; not healthy when its engine hangs."""

    async def ask() -> list[int]:
        replica = Replica(str(ROOT / "config.properties"), str(mar.parent), [mar.name], str(key_file))
        await replica.load()
        replica.check_health()
        transport = httpx.ASGITransport(replica.__serve_build_asgi_app__())
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            path, key = "/predictions/tiny", {"Authorization": f"Bearer {FIRST}"}
            statuses = [
                (await client.post(path, json="Where is it?", headers=key)).status_code,
                (await client.post(path, json="Where is it?")).status_code,
                (await client.post(path, content=b"x" * 6_553_501, headers=key)).status_code,
                (await client.get("/v2/health/ready")).status_code,
            ]
        monkeypatch.setattr(Batcher, "silent_since", -math.inf)
        with pytest.raises(RuntimeError, match="responseTimeout"):
            replica.check_health()
        await replica.close()
        return statuses

    assert asyncio.run(ask()) == [200, 400, 413, 200]


@pytest.mark.parametrize(("name", "value"), [(PUBLIC_KEY, "archives.pub"), (NOT_OLDER_THAN, "2026-11-20T12:00:00Z")])
def test_signatures_are_not_ignored(
    mar: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Where they are demanded, a replica that checks none does not start."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name} is set, and Ray Serve checks no signatures"):
        Replica(str(ROOT / "config.properties"), str(mar.parent), [mar.name], str(key_file))


def test_a_changed_key_counts_at_once(key_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is broken meanwhile leaves the keys as they were, and the log says so once."""
    keys = SharedKeys(key_file)
    assert keys.allows("inference", f"Bearer {FIRST}")
    write_key(key_file, SECOND)
    assert keys.allows("inference", f"Bearer {SECOND}")
    assert not keys.allows("inference", f"Bearer {FIRST}")
    assert not keys.allows("management", f"Bearer {SECOND}")
    write_key(key_file, "")
    for _ in range(2):
        assert keys.allows("inference", f"Bearer {SECOND}")
        assert not keys.allows("inference", "")
    (record,) = caplog.records
    assert "holds no keys" in record.getMessage()
    assert SECOND not in caplog.text
    with pytest.raises(ConfigError, match=r"keys\.json holds no keys"):
        SharedKeys(key_file)


@pytest.mark.parametrize(
    "content",
    [
        *(KEYS.replace("KEY", key) for key in ('""', '" "', '"short"', "1", "null", f'"{"a" * 40}\\n"', "[]")),
        *("{", "[]", "{}", '{"inference": "a"}', "\ufeff" + KEYS.replace("KEY", f'"{FIRST}"')),
    ],
)
def test_a_key_that_opens_to_everybody_is_none(tmp_path: Path, content: str) -> None:
    """An empty one would be equal to no header at all."""
    (tmp_path / "keys.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match="with 32 to 128 letters"):
        SharedKeys(tmp_path / "keys.json")


def test_an_expired_key(tmp_path: Path) -> None:
    """The file may be one that a server wrote."""
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"inference": {"key": FIRST, "expiration time": "2020-01-01T00:00:00.5Z"}}))
    assert not SharedKeys(file).allows("inference", f"Bearer {FIRST}")


@pytest.mark.parametrize("arguments", [{}, {"models": []}, {"models": "a.mar"}, {"models": ["a.mar"], "keys": "a"}])
def test_wrong_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="accepted: config, model_store, models, key_file"):
        application(arguments)


@pytest.mark.parametrize("key_file", [None, ""])
def test_keys_are_needed(tmp_path: Path, key_file: str | None) -> None:
    """A cluster is reached by many; an empty variable in its file is no way around."""

    async def start() -> None:
        Replica(str(ROOT / "config.properties"), str(tmp_path), ["a.mar"], key_file)

    with pytest.raises(ConfigError, match="key_file is missing"):
        asyncio.run(start())


def test_the_file_names_what_there_is() -> None:
    """The application that it imports, and its arguments."""
    (app,) = yaml.safe_load(FILE.read_text())["applications"]
    module, _, name = app["import_path"].partition(":")
    assert getattr(importlib.import_module(module), name) is application
    assert set(app["args"]) == set(ARGUMENTS)
    (deployment,) = app["deployments"]
    scaling = deployment["autoscaling_config"]
    assert scaling["target_ongoing_requests"] <= deployment["max_ongoing_requests"]
    assert deployment["name"] == "bert"
