"""The locks of requirements/locks agree with the requirements, with constraints.txt and with what is installed."""

from __future__ import annotations

import json
import re
from importlib.metadata import distribution
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.locks import LEVELS, LISTS, LOCKS, REQUIREMENTS, TOOLS, UNLOCKED, listed, name_of, packages


def entries(level: str) -> list[str]:
    """Return the entries of a lock."""
    return packages((LOCKS / f"{level}.txt").read_text(encoding="utf-8"))


def pins(text: str) -> set[str]:
    """Return NAME==VERSION of every line that has one."""
    return set(re.findall(r"(?m)^([A-Za-z0-9][\w.-]*==[^ ;\\\n]+)", text))


def asked_for(level: str) -> str:
    """Return a level's requirements, with those of the file that they name."""
    text = (REQUIREMENTS / f"{level}.txt").read_text(encoding="utf-8")
    return re.sub(r"(?m)^-r (\w+)\.txt$", lambda match: asked_for(match[1]), text)


@pytest.mark.parametrize("level", [*LEVELS, *TOOLS])
def test_every_requirement_is_locked_in_its_version(level: str) -> None:
    """All but torch, and nothing that constraints.txt has in another version; each with hashes."""
    locked = pins("".join(entries(level)))
    asked = pins(asked_for(level))
    assert {pin for pin in asked if not pin.startswith("torch==")} <= locked
    constrained = pins((REQUIREMENTS / "constraints.txt").read_text(encoding="utf-8"))
    names = {pin.partition("==")[0] for pin in constrained}
    assert {pin for pin in locked if pin.partition("==")[0] in names} <= constrained
    for entry in entries(level):
        assert re.fullmatch(r".* \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+", entry), name_of(entry)
        assert not UNLOCKED.fullmatch(name_of(entry))


@pytest.mark.parametrize("level", LEVELS)
def test_a_lock_is_complete(level: str) -> None:
    """What the locked packages need on this Python is in the lock: pip installs them without looking further."""
    here = [Requirement(entry.partition(" \\")[0]) for entry in entries(level)]
    locked = {canonicalize_name(pin.name): pin for pin in here if not pin.marker or pin.marker.evaluate()}
    roots = [Requirement(line.partition(" #")[0]) for line in asked_for(level).splitlines() if line[:1].isalpha()]
    missing, seen, waiting = set(), set(), roots
    while waiting:
        needed = waiting.pop()
        name = canonicalize_name(needed.name)
        if needed.marker and not any(needed.marker.evaluate({"extra": extra}) for extra in ("", *needed.extras)):
            continue
        if name not in locked and not UNLOCKED.fullmatch(name):
            missing.add(name)
        if (name, *sorted(needed.extras)) in seen or (UNLOCKED.fullmatch(name) and name != "torch"):
            continue
        seen.add((name, *sorted(needed.extras)))
        for text in distribution(needed.name).requires or []:
            dependency = Requirement(text)
            if dependency.marker is None or any(
                dependency.marker.evaluate({"extra": extra}) for extra in ("", *needed.extras)
            ):
                dependency.marker = None
                waiting.append(dependency)
    assert not missing
    assert len(seen) > 20


def bom(level: str) -> Any:
    """Return the CycloneDX list of a level."""
    return json.loads((LISTS / f"{level}.cdx.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("level", LEVELS)
def test_the_list_for_scanners_is_that_of_the_lock(level: str) -> None:
    """`python -m tests.support.locks --lists` writes it: every package in its version, as a package of PyPI."""
    document = bom(level)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    named = {(part["name"], part["version"], part["purl"]) for part in document["components"]}
    pinned = [re.split(r"==| ;", entry)[:2] for entry in listed(level)]
    names = [(re.sub(r"\[.*", "", name), version.strip()) for name, version in pinned]
    assert named == {(name, version, f"pkg:pypi/{name}@{version}") for name, version in names}
    assert (("torch", "2.13.0", "pkg:pypi/torch@2.13.0") in named) == (level != "slim")
    parts = (*document["components"], *document["metadata"]["tools"]["components"])
    assert not any("externalReferences" in part for part in parts)  # addresses of the index that was asked


def test_every_statement_is_about_a_listed_package() -> None:
    """A scanner joins a statement with a package by its purl: one about another version is never used."""
    statements = json.loads((LISTS / "standalone.openvex.json").read_text(encoding="utf-8"))["statements"]
    listed_purls = {part["purl"] for part in bom("lean")["components"]}
    unlisted = {part["@id"] for statement in statements for part in statement["products"]} - listed_purls
    assert not unlisted
