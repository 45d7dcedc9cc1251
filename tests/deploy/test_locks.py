"""The locks of requirements/locks agree with the requirements, with constraints.txt and with what is installed."""

from __future__ import annotations

import re
from importlib.metadata import distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.locks import LEVELS, LOCKS, REQUIREMENTS, UNLOCKED, name_of, packages


def entries(level: str) -> list[str]:
    """Return the entries of a lock."""
    return packages((LOCKS / f"{level}.txt").read_text(encoding="utf-8"))


def pins(text: str) -> set[str]:
    """Return NAME==VERSION of every line that has one."""
    return set(re.findall(r"(?m)^([A-Za-z0-9][\w.-]*==[^ ;\\\n]+)", text))


@pytest.mark.parametrize("level", LEVELS)
def test_every_requirement_is_locked_in_its_version(level: str) -> None:
    """All but torch, and nothing that constraints.txt has in another version; each with hashes."""
    locked = pins("".join(entries(level)))
    asked = pins((REQUIREMENTS / f"{level}.txt").read_text(encoding="utf-8"))
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
    roots = [
        Requirement(line.partition(" #")[0])
        for line in (REQUIREMENTS / f"{level}.txt").read_text(encoding="utf-8").splitlines()
        if line[:1].isalpha()
    ]
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
