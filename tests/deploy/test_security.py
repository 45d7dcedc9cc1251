"""Check that SECURITY.md covers the installed libraries and names tests that exist."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from scripts.cli.console import ROOT
from tests.support.security_tables import STANDALONE_VEX, STATUS, VEX, replaced

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


def test_the_list_of_libraries_is_that_of_the_jar(jar: zipfile.ZipFile) -> None:
    """Every class belongs to a listed library, every library has classes, netty's modules have their versions."""
    bom = json.loads((ROOT / "deploy" / "security" / "model-server.cdx.json").read_text(encoding="utf-8"))
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    packages = {
        entry["value"]: component["name"] for component in bom["components"] for entry in component["properties"]
    }
    with jar:
        classes = [name for name in jar.namelist() if name.endswith(".class") and not name.startswith("META-INF/")]
        netty = jar.read("META-INF/io.netty.versions.properties").decode()
        modules = dict(re.findall(r"^(netty-(?!tcnative)[\w-]+)\.version=(.*)$", netty, re.MULTILINE))
    unlisted = [name for name in classes if "/" in name and not name.startswith(tuple(packages))]
    assert not unlisted
    assert all(any(name.startswith(package) for name in classes) for package in packages)
    listed = {part["name"]: part["version"] for part in bom["components"] if part["group"] == "io.netty"}
    assert listed == modules
    (digest,) = bom["metadata"]["component"]["hashes"]
    assert digest["content"] == hashlib.sha256(Path(jar.filename or "").read_bytes()).hexdigest()
    assert len({part["bom-ref"] for part in bom["components"]}) == len(bom["components"])


JUSTIFICATIONS = {
    "component_not_present",
    "vulnerable_code_not_present",
    "vulnerable_code_not_in_execute_path",
    "vulnerable_code_cannot_be_controlled_by_adversary",
    "inline_mitigations_already_exist",
}


def test_every_statement_is_valid_and_about_a_listed_library() -> None:
    """By the rules of OpenVEX 0.2: a status, and what that status needs; one statement for a number."""
    bom = json.loads((ROOT / "deploy" / "security" / "model-server.cdx.json").read_text(encoding="utf-8"))
    listed = {part["purl"] for part in bom["components"]}
    statements = json.loads(VEX.read_text(encoding="utf-8"))["statements"]
    needed = {"affected": "action_statement", "not_affected": "impact_statement"}
    for statement in statements:
        assert re.fullmatch(r"CVE-\d{4}-\d{4,6}", statement["vulnerability"]["name"])
        assert statement["status"] in STATUS
        assert statement.get(needed.get(statement["status"], "status_notes"))
        assert (statement["status"] == "not_affected") == (statement.get("justification") in JUSTIFICATIONS)
        assert {part["@id"] for part in statement["products"][0]["subcomponents"]} <= listed
    assert len({statement["vulnerability"]["name"] for statement in statements}) == len(statements)


def test_statements_of_the_standalone_server_are_about_what_is_installed() -> None:
    """Each names the pinned version of a package; where something is not fixed, a table alone is not enough."""
    pinned = (ROOT / "requirements" / "constraints.txt").read_text(encoding="utf-8")
    statements = json.loads(STANDALONE_VEX.read_text(encoding="utf-8"))["statements"]
    for statement in statements:
        assert re.fullmatch(r"CVE-\d{4}-\d{4,6}", statement["vulnerability"]["name"])
        assert (statement["status"], bool(statement["status_notes"])) == ("fixed", True)
        (product,) = statement["products"]
        assert re.search(rf"(?m)^{product['@id'].removeprefix('pkg:pypi/').replace('@', '==')}( ;|$)", pinned)
    assert len({statement["vulnerability"]["name"] for statement in statements}) == len(statements)


def test_the_tables_say_what_the_statements_say() -> None:
    """`python -m tests.support.security_tables` writes them."""
    assert replaced(TEXT) == TEXT


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\b(test_\w+)\b(?!\.py)", TEXT))))
def test_every_test_that_is_named_exists(name: str) -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("test_*.py")))
    assert f"def {name}(" in code


def test_every_file_that_is_named_exists() -> None:
    for path in re.findall(r"`((?:tests|scripts|deploy|requirements)/[\w./-]+)`", TEXT) + re.findall(
        r"\]\(([^\s#)]+)", TEXT
    ):
        assert (ROOT / path).exists(), path
