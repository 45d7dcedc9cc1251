"""Explanations, in a process of their own: predictions never wait for one.

The process starts with the first explanation, loads the archive once more and runs at a low priority. One that dies is
replaced; it ends with the server, also when that is killed.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from handler.predictor import Predictor
from handler.request_state import Request, Response
from handler.telemetry import BatchReport
from server.errors import overloaded
from server.parent import end_with_parent

MAX_WAITING = 16  # explanations that may wait or run
NICENESS = 5  # below the predictions


class Explanations:
    """Answers requests for explanations of one model, one at a time."""

    def __init__(self, load: Callable[[], Predictor]) -> None:
        """Keep what loads the predictor; it is sent to the process, so it must be picklable."""
        self._load = load
        self._pool: ProcessPoolExecutor | None = None
        self._n_waiting = 0

    async def explain(self, request: Request) -> tuple[Response, BatchReport]:
        """Answer one request; return the response, and what it cost."""
        if self._n_waiting >= MAX_WAITING:
            raise overloaded("too many explanations wait: try again later")
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, get_context("spawn"), _start, (self._load,))
        self._n_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, _explain, request)
        except BrokenProcessPool:
            self._pool = None
            raise overloaded("the process of the explanations ended, perhaps out of memory: try again") from None
        finally:
            self._n_waiting -= 1

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


_predictors: list[Predictor] = []  # of the process of the explanations: one


def _start(load: Callable[[], Predictor]) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    _predictors.append(load())  # somebody waits for this
    os.nice(NICENESS)


def _explain(request: Request) -> tuple[Response, BatchReport]:
    (predictor,) = _predictors
    batch = predictor.preprocess([request])
    predictor.inference(batch)
    (response,) = predictor.postprocess(batch)
    return response, batch.report
