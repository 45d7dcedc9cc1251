"""Test how the gateway runs: metrics, certificates and keys that change, balancers before it, start and stop."""

from __future__ import annotations

import re
import resource
import socket
import ssl
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from scripts.client.ports import free_ports
from tests.support.gateway import (
    CONFIG,
    GATEWAY_METRICS,
    KEY,
    OTHER,
    START_S,
    Gateway,
    listens,
    recording_gateway,
    running,
    wait_until,
    worker_pids,
)


def test_requests_are_counted_by_client_and_status(tmp_path: Path) -> None:
    """Within ten seconds, with every metric that rules may use, and no key."""
    with recording_gateway(tmp_path) as (server, _):
        for _ in range(3):
            assert server.request("POST", "/predictions/a").status == 200
        server.request("POST", "/predictions/a", Authorization=None)
        wait_until(lambda: 'gateway_requests_total{client="-",status="401"} 1' in server.metrics(), server)
        page = server.metrics()
        assert 'gateway_requests_total{client="shop",status="200"} 3\n' in page
        assert 'gateway_request_seconds_bucket{le="+Inf"} 4\n' in page
        assert "gateway_configuration_valid 1\n" in page
        assert re.search(r'gateway_server_available\{server="127.0.0.1:\d+"\} 1\n', page)
        assert {re.split(r"[{ ]", line)[0] for line in page.splitlines() if line[0] != "#"} == set(GATEWAY_METRICS)
        assert KEY not in page
        (tmp_path / "gateway" / "secrets" / "clients.map").write_text("wrong\n")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "draining").touch()
        wait_until(lambda: "gateway_configuration_valid 0\n" in server.metrics(), server)
        wait_until(lambda: re.search(r"gateway_server_available\{.*\} 0\n", server.metrics()), server)
        assert "theKey" not in server.metrics()


def test_the_log_that_is_counted_stays_small(tmp_path: Path) -> None:
    """It lies in memory; a valid page and right counts after it was emptied. Long lines fill it with few requests."""
    log = tmp_path / "gateway" / "run" / "requests.log"
    name = "desk" * 250
    with recording_gateway(tmp_path) as (server, _):
        with log.open("a") as file:
            file.write(f"{name} 200 0.004\n" * 4_500)
        wait_until(lambda: f'{{client="{name}",status="200"}} 4500\n' in server.metrics(), server)
        assert log.stat().st_size == 0
        assert server.request("POST", "/predictions/a").status == 200
        wait_until(lambda: '{client="shop",status="200"} 1\n' in server.metrics(), server)
        assert f'{{client="{name}",status="200"}} 4500\n' in server.metrics()


def test_behind_a_load_balancer_the_client_has_its_own_address(tmp_path: Path) -> None:
    """By the PROXY protocol, without which nothing is accepted then."""
    (tmp_path / "key_file.json").write_text('{"inference": {"key": "theKey"}}')
    options: Any = {"listen_options": " proxy_protocol", "wait": False}
    with running(tmp_path / "g", 1, tmp_path / "key_file.json", **options) as server:
        pid = server.folder / "run" / "nginx.pid"
        wait_until(lambda: listens(server.port) and pid.exists() and pid.read_text(), server, START_S)
        context = ssl.create_default_context(cafile=str(server.folder / "ca.pem"))
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as plain:
            plain.sendall(b"PROXY TCP4 203.0.113.9 127.0.0.1 1234 8443\r\n")
            with context.wrap_socket(plain, server_hostname="localhost") as connection:
                connection.sendall(b"GET /ping HTTP/1.1\r\nHost: a\r\nX-Request-Id: behind\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 200")
        (line,) = server.access_log("behind")
        assert line["address"] == "203.0.113.9"
        with pytest.raises(OSError):  # noqa: PT011 - closed or reset, in the handshake
            server.request("GET", "/ping", b"")


def test_all_addresses_of_a_network_of_ipv6_have_one_limit(tmp_path: Path) -> None:
    """A host has 2^64 of them. Another network has its own, and so has each address of IPv4 in IPv6 notation."""
    (tmp_path / "key_file.json").write_text('{"inference": {"key": "theKey"}}')
    options: Any = {"listen_options": " proxy_protocol", "wait": False, "tls": False}
    with running(tmp_path / "g", 1, tmp_path / "key_file.json", **options) as server:
        pid = server.folder / "run" / "nginx.pid"
        wait_until(lambda: listens(server.port) and pid.exists() and pid.read_text(), server, START_S)

        def refusals(form: str) -> int:
            """Send sixty pings, each from an address of its own; return how many were too many."""
            n_refused = 0
            for number in range(60):
                with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
                    connection.sendall(f"PROXY TCP6 {form.format(number)} ::1 1234 8443\r\n".encode())
                    connection.sendall(b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n")
                    n_refused += connection.recv(100).startswith(b"HTTP/1.1 429")
            return n_refused

        assert refusals("2001:db8::{:x}") > 0
        assert refusals("2001:db8:1:{:x}::1") == 0
        assert refusals("::ffff:203.0.113.{}") == 0


def test_probes_and_clients_share_no_limit(tmp_path: Path) -> None:
    """Whoever comes by way of a node of Kubernetes has its address, as its probes have: see readinessProbe."""
    with recording_gateway(tmp_path) as (server, _):
        with pytest.raises(AssertionError):  # noqa: PT012 - until one is refused
            for _ in range(200):
                assert server.request("GET", "/ping", b"").status == 200
        for _ in range(60):
            with urlopen(f"http://127.0.0.1:{server.metrics_port}/ping", timeout=10) as response:
                assert response.status == 200


def test_connections_do_not_end_at_the_descriptors_of_a_shell(tmp_path: Path) -> None:
    """1,024 for many; each connection needs three, and the limits of nginx.conf count connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        try:
            server, _ = stack.enter_context(recording_gateway(tmp_path))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(150):
            stack.enter_context(server.connect())
        assert server.request("POST", "/predictions/a").status == 200


def test_an_ingress_may_end_tls(tmp_path: Path) -> None:
    """KServe's: everything else stays as it is."""
    with recording_gateway(tmp_path, tls=False) as (server, _):
        for authorization, status in ((f"Bearer {KEY}", b"200"), ("Bearer none", b"401")):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
                head = f"POST /predictions/a HTTP/1.1\r\nHost: a\r\nAuthorization: {authorization}\r\n"
                connection.sendall(head.encode() + b"Content-Length: 1\r\n\r\na")
                assert connection.recv(100).startswith(b"HTTP/1.1 " + status)


def test_an_unknown_kind_of_server_is_refused(tmp_path: Path) -> None:
    with running(tmp_path, 1, tmp_path / "none", wait=False, kind="triton") as server:
        wait_until(lambda: "GATEWAY_SERVER is triton: torchserve or standalone" in server.log(), server)


def test_without_a_server_it_is_503_with_retry_after(tmp_path: Path) -> None:
    """Before TorchServe has written its key, and when its port is closed."""
    (port,) = free_ports(1)
    with running(tmp_path / "g", port, tmp_path / "key_file.json") as server:
        for _ in range(2):
            response = server.request("POST", "/predictions/a")
            assert (response.status, response.headers["Retry-After"]) == (503, "5")
            assert "not ready" in response.json["message"]
            (tmp_path / "key_file.json").write_text('{"inference": {"key": "late"}}')
            included = tmp_path / "g" / "run" / "conf" / "replicas.conf"
            wait_until(lambda included=included: "late" in included.read_text(), server)


def test_new_keys_apply_without_a_restart(tmp_path: Path) -> None:
    """TorchServe's keys after its restart and the operator's; an unreadable file changes nothing and leaks no key."""
    with recording_gateway(tmp_path) as (server, recorder):
        assert server.request("POST", "/predictions/a").status == 200
        clients = tmp_path / "gateway" / "secrets" / "clients.map"
        clients.write_text(f'"Bearer {OTHER}" desk;\n')
        (tmp_path / "key_file.json").write_text('{"inference": {"key": "newKey"}}')
        other = replace(server, key=OTHER)
        wait_until(lambda: server.request("POST", "/predictions/a").status == 401, server)
        included = tmp_path / "gateway" / "run" / "conf" / "replicas.conf"
        wait_until(lambda: "newKey" in included.read_text(), server)
        wait_until(
            lambda: other.request("POST", "/predictions/a") and b"Bearer newKey" in recorder.received[-1], server
        )


def test_an_invalid_clients_map_is_reported_and_not_loaded(tmp_path: Path) -> None:
    """One key on two lines: nothing is reloaded, the clients stay, and no key is in any log."""
    key = "aBcD" * 16
    with recording_gateway(tmp_path) as (server, _):
        clients = tmp_path / "gateway" / "secrets" / "clients.map"
        clients.write_text(f'"Bearer {key}" shop;\n')
        wait_until(lambda: replace(server, key=key).request("POST", "/predictions/a").status == 200, server)
        workers = worker_pids(server)
        clients.write_text(f'"Bearer {key}" shop;\n"Bearer {key}" desk;\n')
        wait_until(lambda: "nothing is reloaded" in server.log(), server)
        assert "clients.map, line 2: " in server.log()
        assert replace(server, key=key).request("POST", "/predictions/a").status == 200
        assert worker_pids(server) <= workers
        for secret in (key, key.upper(), key.lower()):
            assert secret not in server.log()
        # A change of TorchServe's key is applied nevertheless, with the clients as they were.
        (tmp_path / "key_file.json").write_text('{"inference": {"key": "newKey"}}')
        wait_until(lambda: not worker_pids(server) <= workers, server)
        assert replace(server, key=key).request("POST", "/predictions/a").status == 200


def test_an_invalid_certificate_leaves_the_one_before_in_force(tmp_path: Path) -> None:
    """And a new client is accepted nevertheless."""
    with recording_gateway(tmp_path) as (server, _):
        secrets, workers = tmp_path / "gateway" / "secrets", worker_pids(server)
        (secrets / "tls.crt").write_text("no certificate")
        wait_until(lambda: "nothing is reloaded" in server.log(), server)
        assert worker_pids(server) <= workers
        (secrets / "clients.map").write_text(f'"Bearer {"3" * 64}" new;\n')
        wait_until(lambda: replace(server, key="3" * 64).request("POST", "/predictions/a").status == 200, server)


def test_keys_are_compared_with_regard_to_case(tmp_path: Path) -> None:
    """The scheme is not (RFC 9110)."""
    key = "aBcD" * 16
    with recording_gateway(tmp_path) as (server, _):
        (tmp_path / "gateway" / "secrets" / "clients.map").write_text(f'"Bearer {key}" shop;\n')
        wait_until(lambda: "applied" in server.log(), server)
        wait_until(lambda: server.request("POST", "/predictions/a").status == 401, server)
        wait_until(lambda: len(worker_pids(server)) == 1, server)
        for presented in (key.lower(), key.upper(), key.swapcase(), f"{key[:-1]}d", f"{key} {key}", f" {key}"):
            assert replace(server, key=presented).request("POST", "/predictions/a").status == 401
        for scheme in ("bearer", "BEARER"):
            response = server.request("POST", "/predictions/a", Authorization=f"{scheme} {key}")
            assert response.status == 200
        assert server.request("POST", "/predictions/a", Authorization=f"Basic {key}").status == 401


def test_sigterm_at_any_time_stops_it(tmp_path: Path) -> None:
    """Also before nginx has installed its signal handlers."""
    for pause in (0.0, 0.05, 0.1, 0.2):
        with running(tmp_path / str(pause), 1, tmp_path / "none", wait=False) as server:
            time.sleep(pause)
        assert not listens(server.port)


def test_files_with_keys_are_private(gateway: Gateway) -> None:
    """Only the owner may read generated files."""
    for path in (gateway.folder / "run").glob("*.conf"):
        assert path.stat().st_mode & 0o077 == 0


def test_every_setting_has_its_reason() -> None:
    """In a comment above it, or above the group of settings it belongs to."""
    reason = False
    for line in CONFIG.splitlines():
        bare = line.strip()
        opens = bare.endswith("{") or bare == "}" or not bare
        assert reason or opens or bare.startswith("#") or line[:1] == '"', f"no reason above {line}"
        reason = bare.startswith("#") or (reason and bool(bare))
