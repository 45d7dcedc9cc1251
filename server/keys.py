"""Keys: key_file.json in the run folder, with TorchServe's names, lifetimes and rules.

Three random keys: `inference` and `management` open their ports, `API` renews one of them. They die with the process.
"""

from __future__ import annotations

import datetime
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from handler.errors import ConfigError

KEY_FILE = "key_file.json"
KEY_BYTES = 24
EXPIRING = ("management", "inference")
KEY_FORM = '{"inference": {"key": "..."}}, with 32 to 128 letters, digits and . _ ~ + / - ='
SHARED_KEY = re.compile(r"[A-Za-z0-9._~+/-]{32,128}=*")  # as the gateway's: an empty key would open to everybody

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """One key, and when it expires, in seconds since the epoch; None: never."""

    text: str
    expires: float | None = None

    @classmethod
    def of(cls, entry: Mapping[str, str]) -> Key:
        """Return the key of an entry of the file."""
        at = entry.get("expiration time")
        return cls(entry["key"], datetime.datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp() if at else None)

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


class Keys(Protocol):
    """The keys of a server."""

    def allows(self, kind: str, authorization: str) -> bool:
        """Tell whether a header opens a port: `inference`, `management`, or `API` to renew a key."""

    def renew(self, kind: str) -> bool:
        """Replace a key; False for one that cannot be replaced here."""


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


class SharedKeys:
    """The keys in a file that an operator wrote, of the same form; read again when it changes."""

    def __init__(self, file: Path) -> None:
        """Read the file.

        Raises:
            ConfigError: it holds no keys.
        """
        self._file, self._changed_ns = file, 0
        self._keys: dict[str, Key] = {}
        self._problem = ""  # that was logged last
        self._read()

    def allows(self, kind: str, authorization: str) -> bool:
        """Tell whether a header opens a port. A file that cannot be read any more leaves the keys as they were."""
        try:
            self._read()
            self._problem = ""
        except ConfigError as error:  # each request would say so
            if str(error) != self._problem:
                self._problem = str(error)
                logger.error("%s; the key before stays in force", error)
        return kind in self._keys and self._keys[kind].opens(authorization)

    def renew(self, kind: str) -> bool:
        """Return False: the operator replaces them."""
        return False

    def _read(self) -> None:
        try:
            changed_ns = self._file.stat().st_mtime_ns
            if changed_ns != self._changed_ns:
                key = Key.of(json.loads(self._file.read_text(encoding="utf-8"))["inference"])
                if not SHARED_KEY.fullmatch(key.text):
                    raise ValueError("no key")
                self._keys, self._changed_ns = {"inference": key}, changed_ns
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{self._file} holds no keys ({type(error).__name__}): {KEY_FORM}") from error
