"""The system under test of LoadGen, the load generator of MLPerf, which hands over samples that an event loop sends."""

from __future__ import annotations

import asyncio
import importlib
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.benchmark.accounting import ExpectedScores, RequestAccounting
from scripts.benchmark.http import Endpoint, LoadClient

SampleIds = list[tuple[int, int]]  # LoadGen's number of a sample and the index of its text


class SystemUnderTest:
    """One server as LoadGen sees it."""

    def __init__(
        self,
        endpoint: Endpoint,
        texts: Sequence[str],
        expected: ExpectedScores,
        accounting: RequestAccounting,
        texts_per_request: int,
        max_in_flight: int,
    ) -> None:
        self.lg = importlib.import_module("mlperf_loadgen")
        self.endpoint, self.texts, self.expected, self.accounting = endpoint, texts, expected, accounting
        self.texts_per_request, self.max_in_flight = texts_per_request, max_in_flight
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def issue(self, samples: Any) -> None:
        """Take samples from LoadGen."""
        ids = [(sample.id, sample.index) for sample in samples]
        for start in range(0, len(ids), self.texts_per_request):
            self._loop.call_soon_threadsafe(self._waiting.put_nowait, ids[start : start + self.texts_per_request])

    def run(self, **settings: Any) -> dict[str, str]:
        """Run one test and return LoadGen's summary, key by key."""
        test = self.lg.TestSettings()
        test.mode = self.lg.TestMode.PerformanceOnly
        for name, value in settings.items():
            setattr(test, name, value)
        self._thread.start()
        self._ready.wait()
        sut = self.lg.ConstructSUT(self.issue, lambda: None)
        qsl = self.lg.ConstructQSL(len(self.texts), len(self.texts), lambda _: None, lambda _: None)
        with tempfile.TemporaryDirectory(prefix="loadgen-") as folder:
            log = self.lg.LogSettings()
            log.enable_trace = False
            log.log_output.outdir = folder
            log.log_output.copy_summary_to_stdout = False
            try:
                self.lg.StartTestWithLogSettings(sut, qsl, test, log)
            finally:
                for _ in range(self.max_in_flight):
                    self._loop.call_soon_threadsafe(self._waiting.put_nowait, None)
                self._thread.join()
                self.lg.DestroyQSL(qsl)
                self.lg.DestroySUT(sut)
            return summary((Path(folder) / "mlperf_log_summary.txt").read_text(encoding="utf-8"))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Queue[SampleIds | None] = asyncio.Queue()
        client = LoadClient(self.endpoint.host, self.endpoint.port)
        self._ready.set()
        await asyncio.gather(*(self._send(client) for _ in range(self.max_in_flight)))
        client.close()

    async def _send(self, client: LoadClient) -> None:
        while (ids := await self._waiting.get()) is not None:
            indices = [index for _, index in ids]
            response = await client.send(self.endpoint.message([self.texts[index] for index in indices]))
            self.lg.QuerySamplesComplete([self.lg.QuerySampleResponse(number, 0, 0) for number, _ in ids])
            answers = self.endpoint.answers(response)  # after the clock of the request has stopped
            self.accounting.add(self.expected.outcomes(indices, response.status, answers))


def summary(text: str) -> dict[str, str]:
    """Read the `key: value` lines of LoadGen's summary.

    >>> summary("Samples per second: 9\\n99.00 percentile latency (ns)   : 12")
    {'Samples per second': '9', '99.00 percentile latency (ns)': '12'}
    """
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}
