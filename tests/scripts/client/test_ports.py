"""Ports for servers beside others: free, below those of connections, and each given once."""

from __future__ import annotations

import os
import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts.cli.console import ScriptError
from scripts.client import ports
from scripts.client.ports import RANGE, free_ports


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> range:
    """A folder without a last port, and the last 400 ports of the range."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(ports, "RANGE", RANGE[-400:])
    return ports.RANGE


def test_calls_at_once_get_ports_of_their_own(few: range) -> None:
    """Each call takes the file's lock for itself, as the calls of two programs do."""
    with ThreadPoolExecutor(8) as pool:
        given = [port for each in pool.map(free_ports, [5] * 40) for port in each]
    assert len(set(given)) == 200
    assert set(given) <= set(few)


def test_a_port_is_given_again_after_all_others(few: range, tmp_path: Path) -> None:
    (tmp_path / f"next-port-{os.getuid()}").write_text(str(len(few) - 3))
    assert free_ports(4) == [few[-2], few[-1], few[0], few[1]]
    assert free_ports(1) == [few[2]]


def test_a_port_that_listens_is_left_out(few: range, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    assert port in few
    with socket.create_server(("127.0.0.1", port)):
        monkeypatch.setattr(ports, "RANGE", range(port, port + 1))
        with pytest.raises(ScriptError, match=f"1 ports are needed, 0 of {port} to {port} are free"):
            free_ports(1)


def test_no_connection_of_this_machine_takes_one() -> None:
    """Linux gives connections the ports of this range."""
    settings = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if settings.is_file() and (first := int(settings.read_text().split()[0])) > 1024:
        assert RANGE[-1] < first
