"""The ports of a TorchServe: the settings that name them, and free ones for another server on this machine."""

from __future__ import annotations

import contextlib
import re
import socket

from scripts.cli.console import ScriptError

PORTS = ("inference_address", "management_address", "metrics_address", "grpc_inference_port", "grpc_management_port")
HTTP_PORTS = PORTS[:3]  # which the standalone server has too


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


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
