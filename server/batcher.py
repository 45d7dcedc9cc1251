"""Batches by tokens, without a fixed delay: when the engine is free, it takes what waits, up to its token budget.

While one batch computes in the engine's thread, the event loop reads and tokenises the next requests and writes the
answers of the previous ones. A request of many texts is divided over batches, so that others do not wait for all of it.
A client that left, or whose deadline has passed, is not computed.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

from handler import tracing
from handler.errors import Expired, Overloaded, RequestError, unexpected
from handler.predictor import Predictor
from handler.request_state import BatchContext, EncodingJob, Response
from handler.tracing import RequestTrace
from server.errors import ApiError

MAX_WAIT_S = 1.0  # of a request that is admitted, at the throughput of the last batches
SMOOTHING = 0.2  # weight of the newest batch in the throughput
FIRST_TOKENS_PER_S = 5_000.0  # assumed until the first batch is measured


@dataclass(eq=False)
class Waiting:
    """One request that waits, and the encodings of it that are still to be computed."""

    batch: BatchContext  # of this request alone
    done: asyncio.Future[Response]
    deadline_ms: float | None = None  # since the epoch
    jobs: deque[EncodingJob] = field(default_factory=deque)
    n_tokens: int = 0  # of the jobs
    arrived: float = field(default_factory=time.monotonic)
    started: float | None = None  # when its first encoding was taken
    left: bool = False  # nobody waits for the answer any more
    trace: RequestTrace | None = None

    def __post_init__(self) -> None:
        self.jobs.extend(self.batch.jobs())
        self.n_tokens = sum(len(job.encoding) for job in self.jobs)

    def take(self) -> EncodingJob:
        """Remove the next encoding."""
        job = self.jobs.popleft()
        self.n_tokens -= len(job.encoding)
        if self.started is None:
            self.started = time.monotonic()
        return job

    def begin(self, phase: str, at: float | None = None) -> None:
        """Begin a phase of its trace, now or at a time of time.monotonic."""
        if self.trace:
            self.trace.begin(phase, at)

    def end(self, error: RequestError | None = None) -> None:
        """Compute nothing more of it."""
        self.batch.requests[0].failure = error or self.batch.requests[0].failure
        self.jobs.clear()
        self.n_tokens = 0


@dataclass(frozen=True)
class Turn:
    """One batch: its encodings, the requests that they are of, and those that are complete with it."""

    jobs: Sequence[EncodingJob]
    parts: Sequence[Waiting]
    finished: Sequence[Waiting]

    @property
    def n_tokens(self) -> int:
        """The tokens that are computed."""
        return sum(len(job.encoding) for job in self.jobs)


class TokenQueue:
    """The requests that wait, in the order in which they came. Not safe for threads: its owner has a lock."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.waiting: list[Waiting] = []
        # Computed before a small request that comes now: of each that waits, one batch at most. Requests share the
        # batches, so one of a thousand texts delays others by its share and not by all of it.
        self.tokens_ahead = 0

    def put(self, request: Waiting) -> None:
        """Add a request."""
        self.waiting.append(request)
        self.tokens_ahead += min(request.n_tokens, self.max_tokens)

    def take(self) -> Turn:
        """Remove the encodings of the next batch.

        Each request first gets an equal share of the budget, in order, and one encoding at least; what remains goes to
        the first ones. Requests that nobody waits for and those that are too late are complete without computing.
        """
        now, now_ms = time.monotonic(), time.time() * 1000
        for request in self.waiting:
            if request.left:
                request.end()
            elif request.deadline_ms is not None and request.deadline_ms < now_ms:
                request.end(Expired("x-request-deadline-ms passed while the request waited"))
            elif request.batch.deadline <= now:
                request.end(Overloaded("too much for one batch: send fewer or shorter texts at once"))
        jobs: list[EncodingJob] = []
        parts: dict[Waiting, None] = {}
        room = self.max_tokens
        for share in (self.max_tokens // max(1, len(self.waiting)), self.max_tokens):
            for request in self.waiting:
                n_taken = 0
                while request.jobs and room > 0:
                    size = len(request.jobs[0].encoding)
                    if (jobs and size > room) or (n_taken and n_taken + size > share):
                        break
                    job = request.take()
                    if job.item.state.error:  # another window of the same text failed
                        continue
                    jobs.append(job)
                    parts[request] = None
                    n_taken += size
                    room -= size
        finished = [request for request in self.waiting if not request.jobs]
        self.waiting = [request for request in self.waiting if request.jobs]
        self.tokens_ahead = sum(min(request.n_tokens, self.max_tokens) for request in self.waiting)
        return Turn(jobs, list(parts), finished)


class Batcher:
    """Computes the requests of one predictor, in a thread of its own."""

    def __init__(
        self, load: Callable[[], Predictor], max_requests: int, on_finished: Callable[[Sequence[Waiting]], None]
    ) -> None:
        """Start the thread, which first loads the predictor: `ready` holds it then, or why there is none.

        Args:
            load: called in the thread, because PyTorch's number of threads belongs to a thread.
            max_requests: that may wait.
            on_finished: called in the event loop with the requests that a batch completed; it sets `done` of each.
        """
        self.max_requests = max_requests
        self.n_reading = 0  # requests that were accepted and are parsed and tokenised, before they wait
        self.tokens_per_s = FIRST_TOKENS_PER_S
        self._turn: Turn | None = None  # what the thread has taken and not answered yet
        self._taken = time.monotonic()  # when the thread last took from the queue
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[Predictor] = self._loop.create_future()
        self._load, self._on_finished = load, on_finished
        self._queue = TokenQueue(0)
        self._lock = threading.Lock()  # of the queue and what follows
        self._closed = self._idle = False
        self._n_expected = 0
        self._wake: SimpleQueue[None] = SimpleQueue()  # half of the time that a threading.Condition takes
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def n_waiting(self) -> int:
        """The requests that wait, wholly or in part."""
        return len(self._queue.waiting)

    @property
    def silent_since(self) -> float | None:
        """Since when the thread has neither answered what it took nor taken what waits; None: there is nothing."""
        if self._turn:
            return self._taken
        oldest = next(iter(self._queue.waiting), None)
        return max(oldest.arrived, self._taken) if oldest else None

    @property
    def wait_s(self) -> float:
        """How long a request that comes now would wait."""
        return self._queue.tokens_ahead / self.tokens_per_s

    @property
    def is_full(self) -> bool:
        """Whether a request that comes now would wait too long."""
        n_accepted = self.n_waiting + self.n_reading + self._n_expected
        return n_accepted >= self.max_requests or self.wait_s > MAX_WAIT_S

    @property
    def retry_after_s(self) -> int:
        """The seconds after which a request that is refused now should come again."""
        return max(1, round(self.wait_s))

    def expect(self) -> None:
        """Count a request whose headers have come as one that waits, until the event loop has read all connections."""
        if not self._n_expected:
            self._loop.call_soon(self._expect_none)
        self._n_expected += 1

    def _expect_none(self) -> None:
        self._n_expected = 0

    async def compute(self, batch: BatchContext, deadline_ms: float | None = None) -> Response:
        """Compute the encodings of one request; return what `on_finished` answers it with.

        When the caller is cancelled, nothing more of it is computed.
        """
        request = Waiting(batch, self._loop.create_future(), deadline_ms, trace=tracing.current())
        request.begin("queue", request.arrived)
        with self._lock:
            self._queue.put(request)
            self._wake_up()
        try:
            return await request.done
        except asyncio.CancelledError:
            request.left = True
            raise

    def abandon(self, error: ApiError) -> None:
        """Answer everything that waits or computes with an error: the thread will not."""
        taken = (*self._turn.parts, *self._turn.finished) if self._turn else ()
        for request in (*taken, *self._queue.waiting):
            if not request.done.done():
                request.done.set_exception(error)

    def close(self) -> None:
        """Compute what waits, and then end the thread."""
        with self._lock:
            self._closed = True
            self._wake_up()

    def _run(self) -> None:
        try:
            predictor = self._load()
        except BaseException as error:  # noqa: BLE001 - whoever waits for `ready` gets it
            self._call(_fail, self.ready, error)
            return
        self._queue.max_tokens = predictor.engine.max_batch_tokens
        self._call(_succeed, self.ready, predictor)
        while turn := self._next():
            self._compute(predictor, turn)
            for request in turn.finished:
                request.begin("write")
            self._call(self._on_finished, [request for request in turn.finished if not request.left])
            self._turn = None

    def _next(self) -> Turn | None:
        """Wait for the next batch; None: there will be no more."""
        while True:
            with self._lock:
                if self._queue.waiting:
                    self._taken = time.monotonic()
                    self._turn = self._queue.take()
                    return self._turn
                if self._closed:
                    return None
                self._idle = True
            self._wake.get()

    def _wake_up(self) -> None:
        """Let a thread that waits go on; its caller has the lock."""
        if self._idle:
            self._idle = False
            self._wake.put(None)

    def _compute(self, predictor: Predictor, turn: Turn) -> None:
        if not turn.jobs:
            return
        began = time.monotonic()
        traces = [request.trace for request in turn.parts if request.trace]
        for request in turn.parts:
            request.begin("compute", request.started)
        with tracing.batch(traces, {"bert.texts": len(turn.jobs), "bert.tokens": turn.n_tokens}):
            try:
                predictor.compute(turn.jobs)
            except Exception as error:  # noqa: BLE001 - the thread must go on
                for request in turn.parts:
                    request.end(unexpected("computing", error))
        seconds = time.monotonic() - began
        self._measure(turn.n_tokens, seconds)
        for request in turn.parts:
            request.batch.report.inference_s += seconds

    def _measure(self, n_tokens: int, seconds: float) -> None:
        """Learn the throughput. A small batch shows no less than it: most of its time does not depend on its tokens."""
        newest = n_tokens / max(seconds, 1e-6)
        if newest > self.tokens_per_s or n_tokens > self._queue.max_tokens // 2:
            self.tokens_per_s += SMOOTHING * (newest - self.tokens_per_s)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        """Call in the event loop, unless it has ended."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            return


def _succeed(future: asyncio.Future[Predictor], predictor: Predictor) -> None:
    if not future.done():
        future.set_result(predictor)


def _fail(future: asyncio.Future[Predictor], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
