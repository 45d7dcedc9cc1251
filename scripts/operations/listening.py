"""Tell whether a process itself listens on ports: that a port answers does not show whose it is."""

from __future__ import annotations

from scripts.cli.command import run

import sys
import time
from collections.abc import Iterable

import psutil  # type: ignore[import-untyped]

from scripts.cli.console import say

ENDED, TIMEOUT = 1, 3  # exit codes; 2 is an error of the command itself


def ports_of(pid: int) -> set[int]:
    """Return the TCP ports on which a process listens.

    Raises:
        psutil.Error: there is no such process, or this one may not look at it.
    """
    connections = psutil.Process(pid).net_connections(kind="tcp")
    return {connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN}


def wait_until_listening(pid: int, ports: Iterable[int], timeout: float) -> set[int]:
    """Wait until a process listens on all of these ports; return those on which it does not when time is over.

    Raises:
        psutil.NoSuchProcess: the process ended.
    """
    missing = set(ports)
    deadline = time.monotonic() + timeout
    while missing and time.monotonic() < deadline:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            raise psutil.NoSuchProcess(pid)
        missing -= ports_of(pid)
        if missing:
            time.sleep(0.2)
    return missing


def main() -> int:
    """Wait until process PID listens on PORT...: `PID SECONDS PORT...` are the words of the command line."""
    pid, timeout, *ports = map(int, sys.argv[1:])
    try:
        missing = wait_until_listening(pid, ports, timeout)
    except psutil.NoSuchProcess:
        return ENDED
    for port in sorted(missing):
        say(f"the server does not listen on port {port} after {timeout} seconds")
    return TIMEOUT if missing else 0


if __name__ == "__main__":
    run(main)
