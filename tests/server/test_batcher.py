"""What a batch holds: a token budget shared by the requests that wait, and nothing that nobody waits for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from handler.predictor import Predictor
from handler.protocol import Body, serialize_value
from handler.request_state import BatchContext, Request, Response
from server import batcher
from server.batcher import Batcher, TokenQueue, Waiting
from server.errors import ApiError, engine_failed
from tests.support.samples import JSON_TYPE, ask, response_json


def parsed(predictor: Predictor, *texts: str, deadline_ms: float | None = None) -> BatchContext:
    """Return one request of some texts, parsed and tokenised."""
    request = Request(Body(serialize_value(list(texts)), JSON_TYPE), deadline_ms=deadline_ms)
    return predictor.preprocess([request])


class Queue:
    """A queue with a token budget, and requests of it."""

    def __init__(self, predictor: Predictor, max_tokens: int) -> None:
        self.predictor = predictor
        self.queue = TokenQueue(max_tokens)
        self.loop = asyncio.new_event_loop()

    def close(self) -> None:
        """Close the loop of the futures."""
        self.loop.close()

    def put(self, *texts: str) -> Waiting:
        """Let one request wait."""
        request = Waiting(parsed(self.predictor, *texts), self.loop.create_future())
        self.queue.put(request)
        return request


@pytest.fixture
def small(predictor: Predictor) -> Iterator[Queue]:
    """Return a queue whose batches have 30 tokens; a text of one word has 3."""
    with contextlib.closing(Queue(predictor, 30)) as queue:
        yield queue


def test_a_batch_takes_what_waits_up_to_its_budget(small: Queue) -> None:
    """Twelve requests of three tokens: ten, then two."""
    requests = [small.put("word") for _ in range(12)]
    first, second = small.queue.take(), small.queue.take()
    assert (first.n_tokens, first.finished) == (30, requests[:10])
    assert (second.n_tokens, second.finished) == (6, requests[10:])
    assert small.queue.tokens_ahead == 0


def test_a_large_request_does_not_hold_up_small_ones(small: Queue) -> None:
    """The first of a hundred texts and the two small requests behind it share the first batch."""
    large, *others = small.put(*["word"] * 100), small.put("word"), small.put("word")
    assert small.queue.tokens_ahead == 30 + 3 + 3, "of the large one no more than a batch"
    first = small.queue.take()
    assert list(first.finished) == others
    assert first.n_tokens == 30
    assert len(large.jobs) == 92
    sizes = [len(small.queue.take().jobs) for _ in range(10)]
    assert sizes == [10] * 9 + [2]


def test_a_text_longer_than_the_budget_gets_a_batch(small: Queue) -> None:
    """It is not left waiting for ever."""
    long, short = small.put("word " * 100), small.put("word")
    assert list(small.queue.take().finished) == [long]
    assert list(small.queue.take().finished) == [short]


def test_what_nobody_waits_for_is_not_computed(small: Queue) -> None:
    """A client that left, one whose deadline passed while it waited, one that waited for too long."""
    left, late, old, good = (small.put("word") for _ in range(4))
    left.left = True
    late.deadline_ms = time.time() * 1000 - 1
    old.batch.deadline = time.monotonic()
    turn = small.queue.take()
    assert [job.item.state for job in turn.jobs] == good.batch.requests[0].items
    assert list(turn.finished) == [left, late, old, good]
    kinds = [request.batch.requests[0].error for request in (late, old)]
    assert [error.type for error in kinds if error] == ["Expired", "Overloaded"]


class Served:
    """A batcher over a predictor, whose answers are written as the server writes them."""

    def __init__(self, predictor: Predictor, max_requests: int = 100) -> None:
        self.predictor = predictor
        self.batches: list[int] = []
        self.batcher = Batcher(lambda: predictor, max_requests, self.write)

    def write(self, finished: Sequence[Waiting]) -> None:
        """Set the responses."""
        joined = BatchContext.join([request.batch for request in finished])
        self.batches.append(joined.report.n_texts)
        for request, response in zip(finished, self.predictor.postprocess(joined), strict=True):
            if not request.done.done():
                request.done.set_result(response)

    async def ask(self, *texts: str) -> Response:
        """Answer one request."""
        return await self.batcher.compute(parsed(self.predictor, *texts))


def test_requests_that_wait_share_a_batch(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one batch computes, others are read; the next batch has all of them, and each gets its own answer."""
    entered, release = threading.Event(), threading.Event()
    compute = predictor.compute

    def slow(*arguments: object) -> None:
        entered.set()
        assert release.wait(60)
        compute(*arguments)  # type: ignore[arg-type]

    async def scenario() -> None:
        served = Served(predictor)
        await served.batcher.ready
        monkeypatch.setattr(predictor, "compute", slow)
        first = asyncio.ensure_future(served.ask("one"))
        await asyncio.get_running_loop().run_in_executor(None, entered.wait, 60)
        others = [asyncio.ensure_future(served.ask(f"text number {number}")) for number in range(5)]
        gone = asyncio.ensure_future(served.ask("nobody waits for this"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        release.set()
        answers = await asyncio.gather(first, *others)
        monkeypatch.undo()
        assert served.batches == [1, 5]
        for number, answer in enumerate(answers[1:]):
            (expected,) = ask(predictor, [f"text number {number}"])
            assert predictor.task.answers_match(response_json(expected)[0], response_json(answer)[0], 1e-5)
        assert answers[1].headers["x-batch-texts"] == "5"
        served.batcher.close()

    asyncio.run(scenario())


def test_a_full_queue_is_refused_at_once(predictor: Predictor) -> None:
    """By requests, and by the seconds that the tokens in it take; Retry-After says how long."""

    async def scenario() -> None:
        served = Served(predictor, max_requests=2)
        await served.batcher.ready
        assert not served.batcher.is_full
        for _ in range(2):
            served.batcher._queue.put(Waiting(parsed(predictor, "a"), asyncio.Future()))
        assert served.batcher.is_full
        assert served.batcher.retry_after_s == 1
        served.batcher.max_requests = 3
        assert not served.batcher.is_full
        served.batcher.expect()  # the headers of a third one have come
        assert served.batcher.is_full
        await asyncio.sleep(0)
        assert not served.batcher.is_full
        served.batcher.n_reading = 1  # it is being parsed
        assert served.batcher.is_full
        served.batcher.n_reading = 0
        served.batcher.tokens_per_s = 1.2  # the texts that wait have three each
        assert served.batcher.wait_s > batcher.MAX_WAIT_S
        assert served.batcher.is_full
        assert served.batcher.retry_after_s == 5
        served.batcher._queue.waiting.clear()
        served.batcher.close()

    asyncio.run(scenario())


def test_a_failure_ends_its_batch_alone(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that no module expects answers 503; the next request is computed."""

    async def scenario() -> None:
        served = Served(predictor)
        await served.batcher.ready
        with monkeypatch.context() as patched:
            patched.setattr(predictor, "compute", lambda _: 1 / 0)
            failed = await served.ask("one")
        assert failed.status == 503
        assert b"ZeroDivisionError" in failed.content
        assert (await served.ask("one")).status == 200
        served.batcher.close()

    asyncio.run(scenario())


def test_an_engine_that_does_not_answer(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is silent while it computes, and while something waits that it does not take; who waits gets the error."""
    release = threading.Event()

    async def scenario() -> None:
        served = Served(predictor)
        await served.batcher.ready
        assert served.batcher.silent_since is None
        with monkeypatch.context() as patched:
            patched.setattr(predictor, "compute", lambda _: release.wait(60))
            began = time.monotonic()
            taken = asyncio.ensure_future(served.ask("one"))
            while served.batcher._turn is None:
                await asyncio.sleep(0.01)
            waiting = asyncio.ensure_future(served.ask("two"))
            await asyncio.sleep(0)
            since = served.batcher.silent_since
            assert since is not None
            assert since >= began
            served.batcher.abandon(engine_failed("m"))
            for error in await asyncio.gather(taken, waiting, return_exceptions=True):
                assert isinstance(error, ApiError)
                assert error.status == 503
            release.set()
            served.batcher.close()
            served.batcher._thread.join(60)
        served.batcher._queue.put(Waiting(parsed(predictor, "a"), asyncio.Future()))  # nothing takes it
        assert (served.batcher.silent_since or 0) > since

    asyncio.run(scenario())


def test_what_does_not_load_says_why() -> None:
    """The future of the predictor holds the exception."""

    async def scenario() -> None:
        broken = Batcher(lambda: 1 / 0, 1, lambda _: None)  # type: ignore[arg-type,return-value]
        with pytest.raises(ZeroDivisionError):
            await broken.ready

    asyncio.run(scenario())


def test_small_batches_do_not_lower_the_throughput(predictor: Predictor) -> None:
    """A text alone takes as long as many: a server that was idle must not refuse the first burst."""

    async def scenario() -> None:
        served = Served(predictor)
        await served.batcher.ready
        before = served.batcher.tokens_per_s
        served.batcher._measure(10, 1.0)
        assert served.batcher.tokens_per_s == before
        full = predictor.engine.max_batch_tokens
        served.batcher._measure(full, full / before * 2)
        assert served.batcher.tokens_per_s < before
        served.batcher._measure(10, 1e-6)
        assert served.batcher.tokens_per_s > before
        served.batcher.close()

    asyncio.run(scenario())
