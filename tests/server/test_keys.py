"""Keys of the standalone server: the file of TorchServe, its lifetimes and its rules."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from server.keys import KeyRing


def test_the_file_holds_three_keys_that_nobody_else_may_read(tmp_path: Path) -> None:
    """With the names under which the scripts look for them."""
    ring = KeyRing(tmp_path, 60)
    entries = json.loads(ring.file.read_text())
    assert ring.file.stat().st_mode & 0o777 == 0o600
    assert list(entries) == ["management", "inference", "API"]
    assert len({entry["key"] for entry in entries.values()}) == 3
    assert ring.allows("inference", f"Bearer {entries['inference']['key']}")


@pytest.mark.parametrize(
    "header", ["", "Bearer ", "Bearer wrong", "bearer {key}", "{key}", "Bearer {key}x", "Basic {key}"]
)
def test_another_header_opens_nothing(tmp_path: Path, header: str) -> None:
    """A wrong key, another scheme, no key."""
    ring = KeyRing(tmp_path, 60)
    key = json.loads(ring.file.read_text())["inference"]["key"]
    assert not ring.allows("inference", header.format(key=key))
    assert not ring.allows("management", f"Bearer {key}")


def test_a_key_expires_and_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replaced key opens nothing any more."""
    ring = KeyRing(tmp_path, 60)
    old = f"Bearer {json.loads(ring.file.read_text())['inference']['key']}"
    assert ring.renew("inference")
    assert not ring.renew("API")
    new = f"Bearer {json.loads(ring.file.read_text())['inference']['key']}"
    assert (ring.allows("inference", old), ring.allows("inference", new)) == (False, True)
    in_a_minute = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: in_a_minute)
    assert not ring.allows("inference", new)
