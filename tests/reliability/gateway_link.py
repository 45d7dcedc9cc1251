"""F14: the gateway before the server, and between both a network that is slow, loses packets and breaks.

A proxy between them delays every byte, as the kernel's `netem` would; packets of the server's port are lost by the
packet filter of the loopback, which needs root on Linux and raises NotPermitted elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from scripts.client.ports import free_ports
from tests.reliability.load import ScenarioLoad
from tests.reliability.result import ScenarioResult
from tests.reliability.server import ScenarioServer, Target
from tests.reliability.surroundings import dropped
from tests.support.gateway import running

DELAY_S = 0.025  # of each direction
CHUNK = 65536


def slow_link(server: ScenarioServer, rate: float, seconds: float, broken_s: float = 5.0) -> ScenarioResult:
    """F14: each request through the gateway is answered once or refused once, and computed at most once."""
    server.up()
    model, port = {"ModelName": server.target.model}, server.live.ports["inference_address"]
    with delayed(port, DELAY_S) as near, gateway_before(server, near) as (through, key):
        before = server.live.steady_metric("bert_texts_total", **model)
        with ScenarioLoad(through, rate=rate, key=key) as load:
            with dropped(port, 0.01):
                time.sleep(seconds)
            right = load.ledger.counts["right"]
            with dropped(port, 1):
                time.sleep(broken_s)
                during = load.ledger.counts["right"] - right
            time.sleep(broken_s)
        computed = server.live.steady_metric("bert_texts_total", **model) - before
    ledger = load.ledger
    right = ledger.counts["right"]
    return ScenarioResult(
        "F14",
        f"behind the gateway {2000 * DELAY_S:.0f} ms more, 1 % of the packets lost for {seconds:.0f} s, all for "
        f"{broken_s:g} s, at {rate:.3g} requests/s: each is answered and computed once, or refused",
        {**ledger.figures(load.sent), **load.times(), "right while broken": during, "computed": computed},
        {
            **ledger.invariants(load.sent),
            "the others were refused": right + ledger.counts["refused"] == load.sent,
            f"{computed:.0f} texts computed for {right} answers": computed == right,
            "the network was broken": during <= max(2, rate),
        },
    )


@contextlib.contextmanager
def gateway_before(server: ScenarioServer, port: int) -> Iterator[tuple[Target, str]]:
    """Run the gateway before a server, which it finds at a port; yield the target that clients see, and their key."""
    key_file = server.live.run_dir / "key_file.json"
    with (
        tempfile.TemporaryDirectory(prefix="gateway-") as folder,
        running(Path(folder) / "g", port, key_file, tls=False, kind=server.kind) as gateway,
    ):
        live = replace(server.live, ports={**server.live.ports, "inference_address": gateway.port})
        yield Target(live, server.target.model, server.target.oracle), gateway.key


@contextlib.contextmanager
def delayed(port: int, delay_s: float) -> Iterator[int]:
    """Run a proxy to a port of this machine that delays every byte, both ways; yield its own port."""
    (near,) = free_ports(1)
    started, over, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                writer.close()
                return
            await asyncio.gather(_pass(reader, far_writer, delay_s), _pass(far_reader, writer, delay_s))

        async with await asyncio.start_server(connect, "127.0.0.1", near):
            started.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    started.wait()
    try:
        yield near
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    """Pass bytes on, each after the delay, in their order; several pieces are on the way at once."""
    waiting: deque[tuple[float, bytes]] = deque()
    arrived = asyncio.Event()

    async def write() -> None:
        while True:
            while not waiting:
                arrived.clear()
                await arrived.wait()
            due, piece = waiting.popleft()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if not piece:
                writer.close()
                return
            writer.write(piece)
            await writer.drain()

    writing = asyncio.ensure_future(write())
    with contextlib.suppress(OSError):
        while piece := await reader.read(CHUNK):
            waiting.append((time.monotonic() + delay_s, piece))
            arrived.set()
    waiting.append((time.monotonic() + delay_s, b""))
    arrived.set()
    with contextlib.suppress(OSError):
        await writing
