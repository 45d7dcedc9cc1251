"""Keys: key_file.json in the run folder, with TorchServe's names, lifetimes and rules.

Three random keys: `inference` and `management` open their ports, `API` renews one of them. They die with the process.
"""

from __future__ import annotations

import datetime
import hmac
import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

KEY_FILE = "key_file.json"
KEY_BYTES = 24
EXPIRING = ("management", "inference")


@dataclass(frozen=True)
class Key:
    """One key, and when it expires, in seconds since the epoch; None: never."""

    text: str
    expires: float | None = None

    def opens(self, authorization: str) -> bool:
        """Tell whether a header holds this key, and it has not expired."""
        presented = authorization.removeprefix("Bearer ") if authorization.startswith("Bearer ") else ""
        is_equal = hmac.compare_digest(presented.encode(), self.text.encode())
        return is_equal and (self.expires is None or time.time() < self.expires)

    def entry(self) -> dict[str, str]:
        """Return its entry in the file."""
        if self.expires is None:
            return {"key": self.text}
        at = datetime.datetime.fromtimestamp(min(self.expires, 253_402_300_799), datetime.timezone.utc)
        return {"key": self.text, "expiration time": at.isoformat().replace("+00:00", "Z")}


class KeyRing:
    """The keys of one server, and the file in which its clients find them."""

    def __init__(self, run_dir: Path, lifetime_s: float) -> None:
        """Make new keys and write the file, which nobody else may read."""
        self.file = run_dir / KEY_FILE
        self.lifetime_s = lifetime_s
        self._keys = {**{kind: self._new() for kind in EXPIRING}, "API": Key(secrets.token_urlsafe(KEY_BYTES))}
        self._write()

    def allows(self, kind: str, authorization: str) -> bool:
        """Tell whether a header opens a port: `inference`, `management`, or `API` to renew a key."""
        return self._keys[kind].opens(authorization)

    def renew(self, kind: str) -> bool:
        """Replace a key; False for a kind that there is not."""
        if kind not in EXPIRING:
            return False
        self._keys[kind] = self._new()
        self._write()
        return True

    def _new(self) -> Key:
        return Key(secrets.token_urlsafe(KEY_BYTES), time.time() + self.lifetime_s)

    def _write(self) -> None:
        partial = self.file.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        partial.touch(0o600)
        entries = {kind: key.entry() for kind, key in self._keys.items()}
        partial.write_text(json.dumps(entries, indent=2), encoding="utf-8")
        partial.replace(self.file)
