"""The state of a batch of requests: each request, its items on their way to answers or errors, the response.

Everything here is data with the rules that keep it consistent; `predictor` is the pipeline that works on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from handler.errors import RequestError, merge
from handler.explain import Attribution
from handler.protocol import Body, ParsedBody
from handler.sequences import Encoding
from handler.tasks import Output, Query, SequenceOutput, Task
from handler.telemetry import BatchReport


@dataclass(frozen=True)
class Request:
    """One row of a TorchServe batch, or one question from the command line."""

    body: Body
    operation: str = ""
    explain: bool = False
    kserve: bool = False  # came over one of KServe's routes, whose errors have their own shape
    deadline_ms: float | None = None  # since the epoch
    id: str | None = None  # the client's own


@dataclass(frozen=True)
class Response:
    """What one request gets back."""

    content: bytes
    status: int = 200
    phrase: str = "OK"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class ItemState:
    """One question of a request on its way to an answer, or to an error."""

    query: Query | None = None
    sequences: list[tuple[int, Encoding]] = field(default_factory=list)  # each with the text of the query that it shows
    values: list[Output] = field(default_factory=list)  # of each sequence
    wanted: dict[str, Any] | None = None  # the parameters of an explanation, if one is asked for
    attributions: list[Attribution] = field(default_factory=list)
    error: RequestError | None = None

    def windows(self) -> list[SequenceOutput]:
        """Return what was computed."""
        pairs = zip(self.sequences, self.values, strict=True)
        return [SequenceOutput(text, encoding, values) for (text, encoding), values in pairs]


@dataclass
class RequestState:
    """One request on its way."""

    request: Request
    task: Task
    question: ParsedBody | None = None
    items: list[ItemState] = field(default_factory=list)
    error: RequestError | None = None

    def settle(self) -> None:
        """Turn errors of items into one of the whole request, unless the client wants them reported one by one."""
        errors = {index: item.error for index, item in enumerate(self.items) if item.error}
        if errors and self.question and not (self.question.many and self.question.on_error == "report"):
            self.error = merge(errors) if self.question.many else errors[0]
            self.items = []

    def headers(self) -> dict[str, str]:
        """Headers of this request's own answer: its tokens, and the client's id where that can stand in a header."""
        encodings = [encoding for item in self.items for _, encoding in item.sequences]
        told = {"x-request-tokens": str(sum(map(len, encodings)))} if encodings else {}
        if truncated := sum(encoding.n_truncated for encoding in encodings):
            told["x-truncated-tokens"] = str(truncated)
        name = self.request.id
        if name and name.isascii() and name.isprintable():
            told["x-client-request-id"] = name[:128]
        return told


@dataclass
class BatchContext:
    """One batch of requests on its way, and what it cost."""

    jobs: list[RequestState]
    deadline: float = math.inf  # on the clock of time.monotonic, for beginning further computation
    report: BatchReport = field(default_factory=BatchReport)

    def items(self) -> list[tuple[Task, Query, ItemState]]:
        """List what can still be answered, and for what it is."""
        items = ((job.task, item.query, item) for job in self.jobs for item in job.items if not item.error)
        return [(task, query, item) for task, query, item in items if query]
