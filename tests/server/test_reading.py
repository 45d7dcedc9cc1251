"""Requests that come together are parsed and tokenised together, and are answered as if each had come alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from handler.errors import InternalError
from handler.predictor import Predictor
from handler.protocol import Body, serialize_value
from handler.request_state import BatchContext, Request, Response
from handler.tracing import current_trace_id, use
from server.errors import ApiError
from server.loaded_model import ArchiveLoader, LoadedModel
from server.metrics import MetricsRegistry
from server.reading import INLINE_BYTES, MAX_TOGETHER, Preprocessor
from server.settings import ServerSettings
from tests.support.samples import JSON_TYPE


def request(*texts: str) -> Request:
    """Return a request of some texts."""
    return Request(Body(serialize_value(list(texts)), JSON_TYPE))


@pytest.fixture
def calls(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the number of texts of each call of the tokenizer, as they come."""
    counts: list[int] = []
    encode = predictor.tokenizer.encode

    def counted(texts: Sequence[Any], options: Sequence[Any]) -> Any:
        counts.append(len(texts))
        return encode(texts, options)

    monkeypatch.setattr(predictor.tokenizer, "encode", counted)
    return counts


def read(predictor: Predictor, *requests: Request) -> list[BatchContext]:
    """Return the batches of requests that come together."""

    async def scenario() -> list[BatchContext]:
        preprocessor = Preprocessor()
        return await asyncio.gather(*(preprocessor.preprocess(predictor, each) for each in requests))

    return asyncio.run(scenario())


def test_what_comes_together_is_tokenised_in_one_call(predictor: Predictor, calls: list[int]) -> None:
    """Each request has the tokens, the report and the answer that it has alone; one that is wrong fails alone."""
    requests = [request("one text"), Request(Body(b"{", JSON_TYPE)), request("two", "more texts"), request()]
    batches = read(predictor, *requests)
    assert calls == [3]
    assert [len(batch.requests) for batch in batches] == [1, 1, 1, 1]
    for each, batch in zip(requests, batches, strict=True):
        alone = predictor.preprocess([each])
        assert batch.encodings() == alone.encodings()
        assert (batch.report.n_texts, batch.report.n_tokens) == (alone.report.n_texts, alone.report.n_tokens)
        for context in (batch, alone):
            predictor.inference(context)
        (answer,), (expected,) = predictor.postprocess(batch), predictor.postprocess(alone)
        assert (answer.status, answer.content) == (expected.status, expected.content)
    assert sum(batch.report.tokenize_s > 0 for batch in batches) == 2


def test_many_are_read_in_parts(predictor: Predictor, calls: list[int]) -> None:
    """So that the event loop does other things in between."""
    batches = read(predictor, *(request(f"text {number}") for number in range(MAX_TOGETHER + 3)))
    assert calls == [MAX_TOGETHER, 3]
    assert all(batch.encodings() for batch in batches)


def test_a_long_body_is_read_apart(predictor: Predictor, calls: list[int]) -> None:
    """Beside the event loop."""
    texts = ["word " * 10] * (INLINE_BYTES // 40)
    assert len(read(predictor, request("short"), request(*texts))[1].encodings()) == len(texts)
    assert sorted(calls) == [1, len(texts)]


def test_a_client_that_left_is_not_read(predictor: Predictor, calls: list[int]) -> None:
    """What an exception that no module expects ends is each of the requests, not the next ones."""

    async def scenario() -> None:
        preprocessor = Preprocessor()
        tasks = [asyncio.ensure_future(preprocessor.preprocess(predictor, request(word))) for word in ("one", "two")]
        await asyncio.sleep(0)
        tasks[0].cancel()
        assert (await tasks[1]).encodings()
        assert calls == [1]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(predictor, "preprocess", lambda _: 1 / 0)
            failed = await asyncio.gather(
                *(preprocessor.preprocess(predictor, request("a")) for _ in range(2)), return_exceptions=True
            )
        assert [type(error) for error in failed] == [ZeroDivisionError] * 2
        assert (await preprocessor.preprocess(predictor, request("a"))).encodings()

    asyncio.run(scenario())


def test_what_is_read_together_is_of_no_trace(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of the log would name that of the first request, whichever one it is about."""
    seen: list[str] = []
    each = predictor.preprocess_each

    def note(requests: Sequence[Request]) -> list[BatchContext]:
        seen.append(current_trace_id())
        return each(requests)

    monkeypatch.setattr(predictor, "preprocess_each", note)

    async def traced(preprocessor: Preprocessor, word: str) -> BatchContext:
        with use(SimpleNamespace(trace_id=word)):  # type: ignore[arg-type]
            return await preprocessor.preprocess(predictor, request(word))

    async def scenario() -> None:
        preprocessor = Preprocessor()
        await asyncio.gather(*(traced(preprocessor, f"word {number}") for number in range(MAX_TOGETHER + 1)))

    asyncio.run(scenario())
    assert seen == ["", ""]


class Panic(BaseException):
    """What a panic of the tokenizer's Rust becomes: no `Exception`."""


def test_a_panic_ends_its_request_alone(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that came with it are answered, and nobody waits for ever."""
    encode = predictor.tokenizer.encode

    def encode_or_panic(texts: Sequence[Any], options: Sequence[Any]) -> Any:
        if ("bad", None) in texts:
            raise Panic
        return encode(texts, options)

    monkeypatch.setattr(predictor.tokenizer, "encode", encode_or_panic)

    async def scenario() -> list[BatchContext | BaseException]:
        preprocessor = Preprocessor()
        reads = [preprocessor.preprocess(predictor, request(word)) for word in ("one", "bad", "two")]
        return await asyncio.wait_for(asyncio.gather(*reads, return_exceptions=True), 60)

    one, bad, two = asyncio.run(scenario())
    assert isinstance(one, BatchContext)
    assert isinstance(two, BatchContext)
    assert isinstance(bad, InternalError)


class Served:
    """A loaded model whose queue has room for a few requests."""

    def __init__(self, predictor: Predictor, monkeypatch: pytest.MonkeyPatch, n_requests: int) -> None:
        monkeypatch.setattr(ArchiveLoader, "__call__", lambda _: predictor)
        frontend = SimpleNamespace(jobQueueSize=n_requests, responseTimeout=None)
        archive = SimpleNamespace(name="m", version="1.0", config=SimpleNamespace(frontend=frontend))
        self.model = LoadedModel(archive, ServerSettings({}), MetricsRegistry(), pytest.fail)  # type: ignore[arg-type]

    async def statuses(self, *requests: Request) -> list[int]:
        """Return the status of each of some requests that come in one turn of the event loop."""
        await self.model.batcher.ready
        answers = await asyncio.gather(*map(self.model.answer, requests), return_exceptions=True)
        assert self.model.batcher.n_reading == 0
        assert all(isinstance(answer, Response | ApiError) for answer in answers)
        return [answer.status for answer in answers]  # type: ignore[union-attr]


def test_no_more_are_read_than_may_wait(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many come in one turn; what is not read, or is wrong, leaves its place to others."""

    async def scenario() -> None:
        served = Served(predictor, monkeypatch, n_requests=4)
        assert await served.statuses(*[request("a text")] * 20) == [200] * 4 + [503] * 16
        assert await served.statuses(*[Request(Body(b"{", JSON_TYPE))] * 5) == [400] * 4 + [503]
        left = [asyncio.ensure_future(served.model.answer(request("a text"))) for _ in range(4)]
        await asyncio.sleep(0)
        assert served.model.batcher.is_full
        for each in left:
            each.cancel()
        await asyncio.wait(left)
        assert served.model.batcher.n_reading == 0
        assert await served.statuses(*[request("a text")] * 4) == [200] * 4
        served.model.batcher.close()

    asyncio.run(scenario())


def test_no_more_tokens_wait_than_a_second_computes(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many come in one turn, each of which found an empty queue."""

    async def scenario() -> None:
        served = Served(predictor, monkeypatch, n_requests=100)
        batcher = served.model.batcher
        await batcher.ready
        wrong = Request(Body(b"{", JSON_TYPE))
        with monkeypatch.context() as patched:
            patched.setattr(batcher, "_wake_up", lambda: None)  # nothing is taken
            batcher.tokens_per_s = 1.5 * len(predictor.preprocess([request("a text")]).encodings()[0])
            waiting = [asyncio.ensure_future(served.model.answer(each)) for each in [*[request("a text")] * 20, wrong]]
            for _ in range(10):
                await asyncio.sleep(0)
            assert [task.done() for task in waiting] == [False] * 2 + [True] * 19
        with batcher._lock:
            batcher._wake_up()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert [getattr(answer, "status", answer) for answer in answers] == [200] * 2 + [503] * 18 + [400]
        batcher.close()

    asyncio.run(scenario())
