"""Settings of the server that runs a worker, found as TorchServe finds them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handler.server_config import DEFAULT_MAX_RESPONSE_SIZE, max_response_size


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """Return a folder as /proc has one for a server that works in `work`."""
    (tmp_path / "work").mkdir()
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cwd").symlink_to(tmp_path / "work")
    command = ["java", "-cp", "a.jar", "org.pytorch.serve.ModelServer", "--python", "python", "-f", "given.properties"]
    (tmp_path / "proc" / "cmdline").write_bytes("\0".join(command).encode() + b"\0")
    return tmp_path / "proc"


@pytest.mark.parametrize(
    ("files", "environment", "size"),
    [
        ({"given.properties": "max_response_size=1000"}, {}, 1000),
        ({"given.properties": "max_response_size : 1000"}, {}, 1000),
        ({"given.properties": "max_response_size=1\nmax_response_size=\\\n  2000"}, {}, 2000),
        ({"given.properties": "max_response_size=$$LIMIT$$"}, {"LIMIT": "1000"}, 1000),
        ({"given.properties": "#max_response_size=1000"}, {}, DEFAULT_MAX_RESPONSE_SIZE),
        ({"config.properties": "max_response_size=1000"}, {}, DEFAULT_MAX_RESPONSE_SIZE),
        ({}, {}, DEFAULT_MAX_RESPONSE_SIZE),
        (
            {"given.properties": "max_response_size=1", "other": "max_response_size=1000"},
            {"TS_CONFIG_FILE": "other"},
            1000,
        ),
        ({"given.properties": "max_response_size=1000"}, {"TS_MAX_RESPONSE_SIZE": "1"}, 1000),
        (
            {"given.properties": "max_response_size=1\nenable_envvars_config=TRUE"},
            {"TS_MAX_RESPONSE_SIZE": "1000"},
            1000,
        ),
    ],
)
def test_the_file_is_the_one_that_the_server_reads(
    server: Path, files: dict[str, str], environment: dict[str, str], size: int
) -> None:
    """By TS_CONFIG_FILE or by its command line, relative to its folder; the environment wins where the file says so."""
    for name, text in files.items():
        (server / "cwd" / name).write_text(text)
    assert max_response_size(server, environment) == size


def test_without_an_option_the_file_lies_in_the_folder_of_the_server(server: Path) -> None:
    """TorchServe reads config.properties of its working directory."""
    (server / "cmdline").write_bytes(b"java\0org.pytorch.serve.ModelServer\0")
    (server / "cwd" / "config.properties").write_text("max_response_size=1000")
    assert max_response_size(server, {}) == 1000


def test_a_server_that_cannot_be_read_has_the_default(tmp_path: Path) -> None:
    """Another system than Linux, or a process of another user."""
    assert max_response_size(tmp_path / "none", dict(os.environ)) == DEFAULT_MAX_RESPONSE_SIZE
