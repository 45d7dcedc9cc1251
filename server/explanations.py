"""Explanations, in a process of their own: predictions never wait for one.

The process starts with the first explanation, loads the archive once more and runs at a low priority. One that dies, or
cannot load it, is replaced; it ends with the server, also when that is killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from handler.engine import is_out_of_memory
from handler.explain import loading_failure
from handler.predictor import Predictor
from handler.request_state import Request, Response
from handler.telemetry import BatchReport
from server.errors import explanations_failed, overloaded
from server.log import configure_child
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
        pool = self._pool
        self._n_waiting += 1
        try:
            explained = await asyncio.get_running_loop().run_in_executor(pool, _explain, request)
        except BrokenProcessPool:
            self._give_up(pool)
            raise overloaded("the process of the explanations ended, perhaps out of memory: try again") from None
        finally:
            self._n_waiting -= 1
        if isinstance(explained, str):
            self._give_up(pool)  # the next one tries again: what failed may be mended by then
            raise explanations_failed(explained)
        return explained

    def _give_up(self, pool: ProcessPoolExecutor) -> None:
        """End a process when it has answered what waits for it; another one is started for what comes."""
        pool.shutdown(wait=False)
        if self._pool is pool:
            self._pool = None

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


_loaded: list[Predictor | str] = []  # of the process of the explanations: one, or why there is none


def _start(load: Callable[[], Predictor]) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    configure_child()
    try:
        _loaded.append(load())  # somebody waits for this
    except Exception as error:  # an initializer that raises looks like a process that was killed
        if is_out_of_memory(error):
            raise
        logging.getLogger(__name__).error("%s", loading_failure(error, with_message=True))
        _loaded.append(loading_failure(error))
    os.nice(NICENESS)


def _explain(request: Request) -> tuple[Response, BatchReport] | str:
    (loaded,) = _loaded
    if isinstance(loaded, str):
        return loaded
    batch = loaded.preprocess([request])
    loaded.inference(batch)
    (response,) = loaded.postprocess(batch)
    return response, batch.report
