"""Credentials of a registry of OCI artifacts: those that `docker login` and its relatives wrote.

Read is config.json in the folder DOCKER_CONFIG or ~/.docker: inline entries, identity tokens, and credential helpers
(docker-credential-NAME), which are run as Docker runs them.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.cli.console import say

HELPER_S = 60  # a helper may ask a cloud, or a person
IDENTITY = "<token>"  # the user of a helper whose secret is an identity token
HUB_KEY = "https://index.docker.io/v1/"  # under which `docker login` files Docker Hub


@dataclass(frozen=True)
class Credentials:
    """A user with a password, or an identity token that stands for both."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


def read_credentials(host: str) -> Credentials | None:
    """Return the credentials of a registry, or None where there are none."""
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict):
        return None
    helper = _of_host(config.get("credHelpers"), host) or config.get("credsStore")
    if helper and (own := _from_helper(str(helper), HUB_KEY if is_hub(host) else host)) is not None:
        return own
    return _from_entry(_of_host(config.get("auths"), host))


def is_hub(host: str) -> bool:
    """Return whether a host is Docker Hub under one of its names."""
    return host in ("docker.io", "index.docker.io", "registry-1.docker.io")


def hostname(key: str) -> str:
    """Return the host of a key of config.json.

    >>> hostname("https://index.docker.io/v1/"), hostname("registry:5000")
    ('index.docker.io', 'registry:5000')
    """
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _of_host(entries: Any, host: str) -> Any:
    """Return the entry of a host, which is filed as such or as an address."""
    if not isinstance(entries, Mapping):
        return None
    if host in entries:
        return entries[host]
    alike = (
        entry for key, entry in entries.items() if hostname(key) == host or (is_hub(host) and is_hub(hostname(key)))
    )
    return next(alike, None)


def _from_entry(entry: Any) -> Credentials | None:
    """Return the credentials of an inline entry, None for one that is empty or cannot be read."""
    if not isinstance(entry, Mapping):
        return None
    token = entry.get("identitytoken")
    try:
        user, _, password = base64.b64decode(entry.get("auth") or "").decode().partition(":")
    except (TypeError, ValueError):
        user = password = ""
    if isinstance(token, str) and token:
        return Credentials(user, identity_token=token)
    return Credentials(user, password) if user and password else None


def _from_helper(helper: str, server: str) -> Credentials | None:
    """Return what docker-credential-HELPER answers for a server; None, with its reason, where it has nothing."""
    command = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [command, "get"], input=server, capture_output=True, text=True, timeout=HELPER_S, check=True
        )
        answer = json.loads(done.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except subprocess.CalledProcessError as error:
        reason = (error.stdout or error.stderr or "").strip().partition("\n")[0]
        if "not found" not in reason:  # nothing is kept for this server: an inline entry may be
            say(f"{command}: {reason[:300] or f'it ended with status {error.returncode}'}")
        return None
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        say(f"{command}: {str(error)[:300] or type(error).__name__}")
        return None
    return Credentials(identity_token=secret) if user == IDENTITY else Credentials(user, secret)
