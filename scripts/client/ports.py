"""The ports of a TorchServe: the settings that name them, and free ones for another server on this machine."""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import socket
import tempfile
from pathlib import Path

from scripts.cli.console import ScriptError

PORTS = ("inference_address", "management_address", "metrics_address", "grpc_inference_port", "grpc_management_port")
HTTP_PORTS = PORTS[:3]  # which the standalone server has too
RANGE = range(20000, 32000)  # above the usual servers, below what Linux gives to connections (32768 to 60999)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now, and that no other call on this machine gets before all others are used.

    They lie below the ports that Linux gives to connections: one of those may be taken between this call and the start
    of the server. A locked file holds the port of the last call, so that two programs do not get the same one.

    Raises:
        ScriptError: fewer than `count` ports are free.
    """
    path = Path(tempfile.gettempdir()) / f"next-port-{os.getuid()}"
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        last = file.read().strip()
        start = int(last) + 1 if last.isdecimal() else os.getpid() % len(RANGE)
        candidates = (RANGE[(start + step) % len(RANGE)] for step in range(len(RANGE)))
        ports = list(itertools.islice(filter(_is_free, candidates), count))
        if len(ports) < count:
            raise ScriptError(
                f"{count} ports are needed, {len(ports)} of {RANGE[0]} to {RANGE[-1]} are free: end servers"
            )
        file.seek(0)
        file.write(f"{RANGE.index(ports[-1]):>5}")
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def with_free_ports(settings: str) -> tuple[str, dict[str, int]]:
    """Return the text of a settings file with ports that nobody listens on now, and the port of each setting.

    Raises:
        ScriptError: a setting of PORTS is not there, or not on 127.0.0.1.
    """
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    for name, port in ports.items():
        settings, changed = re.subn(rf"(?m)^({name}=(?:http://127\.0\.0\.1:)?)\d+", rf"\g<1>{port}", settings)
        if changed != 1:
            raise ScriptError(f"config.properties has no {name} on 127.0.0.1 to put another port in")
    return settings, ports
