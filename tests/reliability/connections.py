"""F10: clients that send nothing, send a byte now and then, or do not read: others are answered as before.

TorchServe has no limit of time or of what a client leaves unread, so that it can stand this behind the gateway alone.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import psutil  # type: ignore[import-untyped]

from scripts.benchmark.servers import all_labels_body
from scripts.client.connection import message
from tests.reliability.load import ScenarioLoad
from tests.reliability.result import ScenarioResult
from tests.reliability.server import ScenarioServer, Target

RATE = 20.0  # requests a second of the clients that behave
N_TEXTS = 500  # of one request of a client that does not read, all the same: computed once, answered 500 times
N_PIPELINED = 20  # such requests on each connection: more than the system's buffers hold
SMALL = 4096  # bytes of the receive buffer of a client that does not read
BYTE_S = 0.5  # between two bytes of a slow client
N_ADDRESSES = 8  # of the clients that do not behave
SPARE_MB = 64  # of memory beside the answers that wait to be read
LET_GO_S = 60.0  # after which the standalone server has ended every such connection
SLOWER, SLACK_MS = 3.0, 100.0  # than without such clients


def hostile(
    server: ScenarioServer,
    seconds: float,
    *,
    n_idle: int,
    n_slow: int,
    n_deaf: int,
    slack_ms: float = SLACK_MS,
    gateway: tuple[Target, str] | None = None,
) -> ScenarioResult:
    """F10: load beside idle, slow and deaf clients: all answered, in the usual time, in bounded memory.

    Args:
        slack_ms: by which answers may take longer than SLOWER times the usual time.
        gateway: what clients connect to instead of the server, and their key.
    """
    server.up()
    pid = server.worker()
    target, key = gateway or (server.target, server.live.key)
    with ScenarioLoad(target, rate=RATE, key=key) as alone:
        time.sleep(seconds / 4)
    before_mb, answer_mb = _memory_mb(server), _answer_mb(server)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(_connected(target, number)) for number in range(n_idle)]
        slow = [stack.enter_context(_connected(target, number)) for number in range(n_slow)]
        stack.enter_context(_sending_slowly(slow, _slow_messages(target, key)))
        for number in range(n_deaf):
            connections.append(stack.enter_context(_connected(target, number, receive_buffer=SMALL)))
            with contextlib.suppress(OSError):  # the server may stop reading, or refuse
                connections[-1].settimeout(1)
                connections[-1].sendall(_large_request(target, key) * N_PIPELINED)
        with ScenarioLoad(target, rate=RATE, key=key) as load:
            time.sleep(seconds)
        growth_mb = _memory_mb(server) - before_mb
        held = _n_connections(server)
    p99_ms, alone_ms = load.times()["p99 ms"], alone.times()["p99 ms"]
    waiting_mb = n_deaf * N_PIPELINED * answer_mb
    must_let_go = server.is_standalone and seconds >= LET_GO_S
    return ScenarioResult(
        "F10",
        f"{n_idle} clients that send nothing, {n_slow} that send a byte each {BYTE_S:g} s, {n_deaf} that do not read "
        f"{waiting_mb:.0f} MB of answers, for {seconds:.0f} s{', behind the gateway' if gateway else ''}: the others "
        "are answered as before, in bounded memory",
        {
            **load.ledger.figures(load.sent),
            "p99 ms alone": alone_ms,
            "p99 ms": p99_ms,
            "MB more": growth_mb,
            "connections at the end": held,
        },
        {
            **load.ledger.invariants(load.sent),
            f"{load.sent} answered": load.ledger.counts["right"] == load.sent,
            "answered in the usual time": p99_ms <= SLOWER * alone_ms + slack_ms,
            "memory is bounded": growth_mb <= waiting_mb + SPARE_MB,
            "every such connection is let go": not must_let_go or held == 0,
            "the same worker": server.worker() == pid,
        },
    )


@contextlib.contextmanager
def _connected(target: Target, number: int, receive_buffer: int = 0) -> Iterator[socket.socket]:
    """Connect from one of several addresses, none of which is that of the clients that behave."""
    connection = socket.socket()
    connection.bind((f"127.0.1.{number % N_ADDRESSES + 1}", 0))
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(20)
    try:
        connection.connect(("127.0.0.1", target.live.ports["inference_address"]))
        yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def _sending_slowly(connections: Sequence[socket.socket], messages: Sequence[bytes]) -> Iterator[None]:
    """Send messages on connections, byte by byte, in a thread."""
    over = threading.Event()

    def send() -> None:
        position = 0
        while not over.wait(BYTE_S):
            for number, connection in enumerate(connections):
                text = messages[number % len(messages)]
                with contextlib.suppress(OSError):
                    connection.send(text[position % len(text) : position % len(text) + 1])
            position += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _slow_messages(target: Target, key: str) -> list[bytes]:
    """Return what slow clients send: a whole request, nothing but line ends, and a header that does not end."""
    return [target.message(0, key), b"\r\n", b"GET /ping HTTP/1.1\r\nx-a: " + b"a" * 10_000]


def _large_request(target: Target, key: str) -> bytes:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    body = all_labels_body([target.oracle.texts[0]] * N_TEXTS)
    return message("POST", f"/predictions/{target.model}", "127.0.0.1", body, headers)


def _answer_mb(server: ScenarioServer) -> float:
    body = all_labels_body([server.target.oracle.texts[0]] * N_TEXTS)
    return len(server.live.post(f"/predictions/{server.target.model}", body).content) / 1e6


def _memory_mb(server: ScenarioServer) -> float:
    return float(sum(process.memory_full_info().pss for process in server.family())) / 1e6


def _n_connections(server: ScenarioServer) -> int:
    """Return how many connections of clients the server holds."""
    port = server.live.ports["inference_address"]
    return sum(
        connection.laddr.port == port and connection.status == psutil.CONN_ESTABLISHED
        for process in server.family()
        for connection in process.net_connections("tcp")
    )
