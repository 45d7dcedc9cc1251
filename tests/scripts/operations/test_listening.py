"""scripts/operations/listening.py: a port that answers is told from a port of the server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import psutil  # type: ignore[import-untyped]
import pytest

from scripts.client.ports import free_ports
from scripts.operations.listening import ports_of, wait_until_listening

LISTEN = "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); print(flush=True); input()"


def test_ports_of_another_process_do_not_count() -> None:
    """Each process has its own; a port that another one took is still missing."""
    port, free = free_ports(2)
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        other.stdout.readline()
        assert ports_of(other.pid) == {port}
        assert wait_until_listening(other.pid, [port], timeout=5) == set()
        with socket.create_server(("127.0.0.1", free)):
            assert free in ports_of(os.getpid())
            assert wait_until_listening(other.pid, [port, free], timeout=0.5) == {free}
        other.communicate(b"\n")
    with pytest.raises(psutil.NoSuchProcess):
        wait_until_listening(other.pid, [port], timeout=5)
