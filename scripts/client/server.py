"""One TorchServe as the scripts see it: its addresses, its keys, and the errors of its clients.

Reads what the server reads and writes itself (config.properties, the environment, key_file.json) and sends nothing;
the clients are in scripts/client/http.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.cli.console import ROOT, ScriptError
from scripts.cli.options import path_name
from scripts.client.settings import ADDRESS, DEFAULT_PORTS, effective, is_true


class ServerError(ScriptError):
    """A request had no usable answer."""


class NotRunning(ServerError):
    """Nobody listens at the address."""


class Unavailable(ServerError):
    """No answer now; a later try may succeed: the queue is full, a worker died, the connection broke, time ran out."""


class Unauthorized(ServerError):
    """The key is missing, wrong, of the other port, or expired."""


class Refused(ServerError):
    """The server refuses this request, and would again."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(f"{status} {kind}: {message}")
        self.status = status
        self.kind = kind
        self.message = message


class UnknownModel(Refused):
    """No model of this name, or of this version, is registered."""


@dataclass(frozen=True)
class Server:
    """Where one server listens, and the folder in which it works."""

    inference: str
    management: str
    authorized: bool  # whether it asks for keys
    run_dir: Path
    keys: Mapping[str, str] | None = None  # by port; None: those in the key file

    @property
    def key_file(self) -> Path:
        """Where the server writes its keys when it starts."""
        return self.run_dir / "key_file.json"

    @property
    def log(self) -> Path:
        """Where `scripts/serve.sh start` writes the log."""
        return self.run_dir / "logs" / "server.log"

    def key(self, port: str) -> str:
        """Read the key of a port: anew each time, because a restart and a renewal change it."""
        if self.keys is not None:
            if port not in self.keys:
                raise Unauthorized(f"no {port} key was given for this server")
            return self.keys[port]
        try:
            return str(json.loads(self.key_file.read_text(encoding="utf-8"))[port]["key"])
        except FileNotFoundError:
            raise NotRunning(
                f"no keys at {self.key_file}: start a server with scripts/serve.sh start, or name its folder with "
                "--run-dir"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Unauthorized(f"no {port} key can be read from {self.key_file} ({type(error).__name__})") from error

    def refused_key(self, address: str, port: str) -> str:
        """Return the message for a key that an address does not accept."""
        if not self.authorized:
            return f"{address} asks for a key, and none was given"
        if self.keys is not None:
            return f"{address} does not accept the {port} key that was given: it is wrong, expired, or of another port"
        return (
            f"{address} does not accept the {port} key of {self.key_file}: it expired, or is of another server or an "
            "earlier start; name the server's folder with --run-dir, or restart it"
        )

    @classmethod
    def at(cls, inference: str, management: str | None, keys: Mapping[str, str]) -> Server:
        """Return a server by its addresses and keys; without keys it is asked without one.

        Raises:
            ScriptError: an address is not http://HOST:PORT or https://HOST:PORT, or a key has characters of no key.
        """
        for port, key in keys.items():
            if not re.fullmatch(r"[!-~]+", key):
                raise ScriptError(f"the {port} key has blanks or letters that no key has: copy it anew")
        first = _reachable("inference_address", inference.rstrip("/"))
        second = _reachable("management_address", management.rstrip("/")) if management else ""
        return cls(first, second, bool(keys), Path(), keys)

    @classmethod
    def read(cls, config: Path, run_dir: Path) -> Server:
        """Read the addresses of a server from its settings."""
        settings = {key: setting.value for key, setting in effective(config).items()}
        return cls(
            _reachable("inference_address", settings["inference_address"]),
            _reachable("management_address", settings["management_address"]),
            not is_true(settings["disable_token_authorization"]),
            run_dir,
        )

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Server:
        """Return the server that the options of `add_options` name."""
        return cls.read(arguments.config, arguments.run_dir)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a server."""
    group = parser.add_argument_group("server")
    group.add_argument(
        "--config", type=path_name, metavar="FILE", default=ROOT / "config.properties", help="the server's settings"
    )
    group.add_argument(
        "--run-dir",
        type=path_name,
        metavar="DIR",
        default=Path(os.environ.get("SERVE_RUN_DIR", ROOT)),
        help="the folder it works in, with key_file.json and logs/ (default: SERVE_RUN_DIR, or the repository)",
    )


def _reachable(key: str, address: str) -> str:
    """Turn an address to listen on into one to connect to."""
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise ScriptError(
            f"cannot connect to {key} {address!r}: only http://HOST:PORT and https://HOST:PORT are supported"
        )
    scheme, host, port = match.groups()
    host = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 - not bound, replaced
    return f"{scheme}://{host}:{port or DEFAULT_PORTS[key][scheme == 'https']}"
