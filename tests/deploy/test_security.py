"""Check that SECURITY.md covers the installed libraries and names tests that exist."""

from __future__ import annotations

import re
import zipfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from scripts.cli.console import ROOT

TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


@pytest.fixture
def jar() -> zipfile.ZipFile:
    """Return TorchServe's frontend."""
    spec = find_spec("ts")
    assert spec
    assert spec.submodule_search_locations
    return zipfile.ZipFile(Path(spec.submodule_search_locations[0]) / "frontend" / "model-server.jar")


def test_the_frontend_is_the_assessed_version(jar: zipfile.ZipFile) -> None:
    """Its version, that of every netty module, and of gRPC."""
    assert version("torchserve") in TEXT
    with jar:
        netty = jar.read("META-INF/io.netty.versions.properties").decode()
        versions = set(re.findall(r"^netty-(?!tcnative)[\w-]+\.version=(.*)\.Final$", netty, re.MULTILINE))
        (netty_version,) = versions
        assert f"### netty {netty_version} " in TEXT
        grpc = re.findall(rb"[^\d.](1\.\d+\.\d+)[^\d.]", jar.read("io/grpc/internal/GrpcUtil.class"))
        assert f"gRPC {grpc[0].decode()} " in TEXT


def test_parts_listed_as_absent_are_absent(jar: zipfile.ZipFile) -> None:
    """TorchServe's classes reference none of netty's parts that the table lists as unreachable."""
    absent = (b"http2/", b"compression/", b"haproxy/", b"HttpContentDecompressor", b"SniHandler", b"HttpClientCodec")
    with jar:
        for name in jar.namelist():
            if name.startswith("org/pytorch/serve/") and name.endswith(".class"):
                code = jar.read(name)
                assert not [part for part in absent if b"io/netty/handler/codec/" + part in code or b"/" + part in code]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", TEXT))))
def test_every_test_that_is_named_exists(name: str) -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("test_*.py")))
    assert f"def {name}(" in code


def test_every_file_that_is_named_exists() -> None:
    for path in re.findall(r"`((?:tests|scripts|deploy|requirements)/[\w./-]+)`", TEXT) + re.findall(
        r"\]\((\S+)\)", TEXT
    ):
        assert (ROOT / path).exists(), path
