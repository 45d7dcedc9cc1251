"""Requests at a rate (open loop) or so many at once (closed loop), in a thread of their own.

In the open loop the times are drawn beforehand (Poisson) and kept whatever the server does; latency counts from the
time that was drawn, so that a server that stands still is not spared the requests it would have got.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from array import array
from collections.abc import Coroutine
from typing import Any

from scripts.benchmark.arithmetic import quantile
from tests.reliability.accounting import Account
from tests.reliability.client import Client
from tests.reliability.stage import LOOK_S, Target


class Load:
    """Asks one model as long as the `with` lasts; at its end every request has come to an end.

    Args:
        rate: requests a second, at Poisson-distributed times.
        connections: clients that each send a request when the last one is answered.
        first: the number of the first request.
    """

    def __init__(self, target: Target, *, rate: float = 0.0, connections: int = 0, first: int = 0) -> None:
        self.target, self.rate, self.connections = target, rate, connections
        self.account = Account(target.exam)
        self.sent = 0
        self.right_s = array("d")  # from the time drawn to the answer
        self.finished_s = array("d")  # of right answers, from the beginning
        self.refused_s = array("d")  # from sending to the refusal
        self.late_s = array("d")  # from the time drawn to sending: what the client itself was late
        self._first = first
        self._key = target.live.key
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *failure: object) -> None:
        self.end()
        self._thread.join()
        if self._errors:
            raise self._errors[0]

    def end(self) -> None:
        """Send no more; what was sent is waited for at the end of the `with`."""
        with contextlib.suppress(RuntimeError):  # everything has been answered since it was told before
            self._loop.call_soon_threadsafe(self._over.set)

    def send(self, count: int) -> None:
        """Send so many requests at once."""
        self._loop.call_soon_threadsafe(self._send, count)

    def wait_for(self, kind: str, count: int, within: float = 30) -> bool:
        """Wait until so many requests came to such an end."""
        deadline = time.monotonic() + within
        while self.account.counts[kind] < count and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.account.counts[kind] >= count

    @property
    def seconds(self) -> float:
        """How long it took from the first request to the last answer."""
        return max(self.finished_s, default=0.0)

    def times(self) -> dict[str, float]:
        """Return latencies of right answers, and the lateness of the client, in milliseconds."""
        told = {f"p{part} ms": quantile(self.right_s, part / 100) * 1e3 for part in (50, 99) if self.right_s}
        return told | ({"client late p99 ms": quantile(self.late_s, 0.99) * 1e3} if self.rate else {})

    async def _main(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._client = Client("127.0.0.1", self.target.live.ports["inference_address"])
        self._began = time.perf_counter()
        for _ in range(self.connections):
            self._track(self._repeat())
        self._ready.set()
        await (self._poisson() if self.rate else self._over.wait())
        while self._tasks:
            await asyncio.wait({*self._tasks})
        self.account.duplicated = self._client.surplus
        self._client.close()

    async def _poisson(self) -> None:
        chance = random.Random(self._first)  # noqa: S311 - reproducible
        due = time.perf_counter()
        while not self._over.is_set():
            due += chance.expovariate(self.rate)
            while (wait := due - time.perf_counter()) > 0 and not self._over.is_set():
                await asyncio.sleep(min(wait, LOOK_S))
            if not self._over.is_set():
                self._launch(due)
            if self.sent % 64 == 0:
                await asyncio.sleep(0)  # answers are read even where the client is late

    async def _repeat(self) -> None:
        while not self._over.is_set():
            await self._ask(self._number(), time.perf_counter())

    def _send(self, count: int) -> None:
        for _ in range(count):
            self._launch(time.perf_counter())

    def _launch(self, due: float) -> None:
        self._track(self._ask(self._number(), due))

    def _track(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if error := task.exception():
            self._errors.append(error)

    def _number(self) -> int:
        self.sent += 1
        return self._first + self.sent - 1

    async def _ask(self, number: int, due: float) -> None:
        sent = time.perf_counter()
        answer = await self._client.send(self.target.message(number, self._key))
        now = time.perf_counter()
        kind = self.account.note(number, answer)
        if kind == "right":
            self.right_s.append(now - due)
            self.finished_s.append(now - self._began)
        elif kind == "refused":
            self.refused_s.append(now - sent)
        self.late_s.append(sent - due)


def capacity(target: Target, seconds: float, connections: int) -> float:
    """Measure C: right answers a second with more clients than one batch holds."""
    with Load(target, connections=connections) as load:
        time.sleep(seconds)
    return load.account.counts["right"] / load.seconds
