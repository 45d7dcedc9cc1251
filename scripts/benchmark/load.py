"""Requests at a rate (open loop) or from a number of connections (closed loop), sent by a thread of their own.

In the open loop the times are drawn before the run (Poisson) and kept whatever the server does. Latency counts from the
scheduled time, so that a server that stalls is also charged for the requests that it delays.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from scripts.benchmark.accounting import ExpectedScores, RequestAccounting
from scripts.benchmark.http import Endpoint, LoadClient, LoadResponse

POLL_S = 0.1  # longest sleep before the end of the run is looked for


class LoadGenerator:
    """Send requests to one server as long as the `with` lasts; at its end every request has come to an end.

    Args:
        message: the bytes of request number n.
        record: counts the response to request number n and returns its outcome, e.g. "right".
        rate: requests a second, at Poisson-distributed times.
        connections: connections that each send a request when the last one is answered.
        first: the number of the first request.
    """

    def __init__(
        self,
        host: str,
        port: int,
        message: Callable[[int], bytes],
        record: Callable[[int, LoadResponse], str],
        *,
        rate: float = 0.0,
        connections: int = 0,
        first: int = 0,
    ) -> None:
        self.host, self.port, self.message, self.record = host, port, message, record
        self.rate, self.connections = rate, connections
        self.sent = 0
        self.seconds = 0.0  # from the beginning of the run to its last response, known at the end
        self.surplus = 0  # times that bytes came without a request
        self.latency_s: defaultdict[str, array[float]] = _arrays()  # by outcome, from the scheduled time
        self.response_s: defaultdict[str, array[float]] = _arrays()  # by outcome, from sending
        self.finished_s: defaultdict[str, array[float]] = _arrays()  # by outcome, from the beginning of the run
        self.cpu_s = 0.0  # processor time of the generator's thread, known at the end
        self.late_s = array("d")  # from the scheduled time to sending: the client's own delay
        self._first = first
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def __enter__(self) -> LoadGenerator:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *failure: object) -> None:
        self.end()
        self._thread.join()
        if self._errors:
            raise self._errors[0]

    def end(self) -> None:
        """Send no more; the end of the `with` waits for what was sent."""
        with contextlib.suppress(RuntimeError):  # the loop has ended already: everything was answered
            self._loop.call_soon_threadsafe(self._over.set)

    def send(self, count: int) -> None:
        """Send `count` requests at once."""
        self._loop.call_soon_threadsafe(self._send, count)

    async def _main(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._client = LoadClient(self.host, self.port)
        self._began = time.perf_counter()
        for _ in range(self.connections):
            self._track(self._repeat())
        self._ready.set()
        await (self._poisson() if self.rate else self._over.wait())
        while self._tasks:
            await asyncio.wait({*self._tasks})
        self.surplus = self._client.surplus
        self._client.close()
        self.seconds, self.cpu_s = time.perf_counter() - self._began, time.thread_time()

    async def _poisson(self) -> None:
        generator = random.Random(self._first)  # noqa: S311 - reproducible
        due = time.perf_counter()
        while not self._over.is_set():
            due += generator.expovariate(self.rate)
            while (wait := due - time.perf_counter()) > 0 and not self._over.is_set():
                await asyncio.sleep(min(wait, POLL_S))
            if not self._over.is_set():
                self._launch(due)
            if self.sent % 64 == 0:
                await asyncio.sleep(0)  # responses are read even where the client is late

    async def _repeat(self) -> None:
        while not self._over.is_set():
            await self._ask(self._number(), time.perf_counter())

    def _send(self, count: int) -> None:
        for _ in range(count):
            self._launch(time.perf_counter())

    def _launch(self, due: float) -> None:
        self._track(self._ask(self._number(), due))

    def _track(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
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
        response = await self._client.send(self.message(number))
        now = time.perf_counter()
        outcome = self.record(number, response)
        self.latency_s[outcome].append(now - due)
        self.response_s[outcome].append(now - sent)
        self.finished_s[outcome].append(now - self._began)
        self.late_s.append(sent - due)


def closed_loop(
    endpoint: Endpoint,
    texts: Sequence[str],
    expected: ExpectedScores,
    accounting: RequestAccounting,
    connections: int,
    seconds: float,
) -> tuple[list[float], float]:
    """Let each connection send one text, and the next when the response is there; return latencies and the duration."""

    def record(number: int, response: LoadResponse) -> str:
        outcomes = expected.outcomes([number % len(texts)], response.status, endpoint.answers(response))
        accounting.add(outcomes)
        return next(iter(outcomes))

    began = time.perf_counter()
    with LoadGenerator(
        endpoint.host,
        endpoint.port,
        lambda number: endpoint.message([texts[number % len(texts)]]),
        record,
        connections=connections,
    ) as load:
        time.sleep(seconds)
    return [seconds for times in load.latency_s.values() for seconds in times], time.perf_counter() - began


def _arrays() -> defaultdict[str, array[float]]:
    return defaultdict(lambda: array("d"))
