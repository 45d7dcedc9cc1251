"""A client thin enough not to be what is measured: one kept connection a thread, bytes in and out."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from scripts.benchmark.accounting import Ledger

Write = Callable[[Sequence[str]], bytes]  # texts -> the body of a request
Read = Callable[[Any], Any]  # JSON of an answer -> a list of labels with scores for each text


@dataclass(frozen=True)
class Address:
    """One model on one server, and the form of its questions and answers."""

    url: str
    headers: dict[str, str]
    write: Write
    read: Read


class Client:
    """Asks one address. Threads may share it: each has a connection of its own."""

    def __init__(self, address: Address, timeout: float = 120) -> None:
        parts = urlsplit(address.url)
        self.host, self.port, self.path = parts.hostname or "", parts.port or 80, parts.path
        self.address = address
        self.timeout = timeout
        self._local = threading.local()

    def ask(self, texts: Sequence[str]) -> tuple[int, Any]:
        """Send one request; return status and answers, status 0 where the connection broke."""
        body = self.address.write(texts)
        try:
            if not hasattr(self._local, "connection"):
                self._local.connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
            connection: http.client.HTTPConnection = self._local.connection
            connection.request("POST", self.path, body, self.address.headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            if hasattr(self._local, "connection"):
                self._local.connection.close()
                del self._local.connection
            return 0, None
        try:
            return response.status, self.address.read(json.loads(content)) if response.status == 200 else None
        except (ValueError, KeyError, TypeError):
            return response.status, None


def closed_loop(
    client: Client, texts: Sequence[str], ledger: Ledger, connections: int, seconds: float
) -> tuple[list[float], float]:
    """Let connections each send one text, and the next when the answer is there; return latencies and the time."""
    latencies: list[float] = []
    began = time.perf_counter()

    def ask(first: int) -> None:
        index = first
        while time.perf_counter() - began < seconds:
            place = index % len(texts)
            sent = time.perf_counter()
            status, answers = client.ask([texts[place]])
            latencies.append(time.perf_counter() - sent)
            ledger.record([place], status, answers)
            index += connections

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies, time.perf_counter() - began
