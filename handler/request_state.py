"""The state of a batch of requests: each request, its items, and its response.

Everything here is data with the rules that keep it consistent. An error is stored where it happens: of an item in
`ItemState.error`, of a whole request in `RequestState.failure`. `RequestState.error` propagates them: it is the one
place that decides whether an item's error refuses its request.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from handler.errors import RequestError, merge
from handler.explain import Attribution
from handler.protocol import Body, ParsedBody
from handler.sequences import Encoding
from handler.tasks import Output, Query, SequenceOutput, Task
from handler.telemetry import BatchReport


@dataclass(frozen=True)
class Request:
    """One row of a TorchServe batch, or one request from the command line."""

    body: Body
    operation: str = ""
    explain: bool = False
    kserve: bool = False  # sent to one of KServe's routes, whose errors have a shape of their own
    deadline_ms: float | None = None  # since the epoch
    id: str | None = None  # the client's x-request-id
    parsed: ParsedBody | None = None  # the body, where a route has parsed it


@dataclass(frozen=True)
class Response:
    """What one request is answered with."""

    content: bytes
    status: int = 200
    phrase: str = "OK"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class ItemState:
    """One item of a request: its query, what was computed for it, or the error that stopped it."""

    query: Query | None = None
    sequences: list[tuple[int, Encoding]] = field(default_factory=list)  # index of the query's text, and its encoding
    outputs: list[Output] = field(default_factory=list)  # one for each sequence
    explain_options: dict[str, Any] | None = None  # a value of each of explain.PARAMETERS; None: no explanation
    attributions: list[Attribution] = field(default_factory=list)
    error: RequestError | None = None

    def sequence_outputs(self) -> list[SequenceOutput]:
        """Return every sequence with its output."""
        pairs = zip(self.sequences, self.outputs, strict=True)
        return [SequenceOutput(text, encoding, output) for (text, encoding), output in pairs]


@dataclass
class RequestState:
    """One request, the task that answers it, and the state of its items."""

    request: Request
    task: Task
    body: ParsedBody | None = None
    items: list[ItemState] = field(default_factory=list)
    failure: RequestError | None = None  # of the request as a whole
    asks_metadata: bool = False  # of the model; nothing is computed

    @property
    def error(self) -> RequestError | None:
        """The error that refuses the whole request: its own, else those of its items, merged if it has a list."""
        if self.failure or not self.body:
            return self.failure
        errors = self._refusing_errors()
        if not errors:
            return None
        return merge(errors) if self.body.many else errors[0]

    def headers(self) -> dict[str, str]:
        """Return the headers of this request alone: its tokens, and the client's id if it is safe in a header."""
        items = [] if self._refusing_errors() else self.items
        encodings = [encoding for item in items for _, encoding in item.sequences]
        headers = {"x-request-tokens": str(sum(map(len, encodings)))} if encodings else {}
        if truncated := sum(encoding.n_truncated for encoding in encodings):
            headers["x-truncated-tokens"] = str(truncated)
        request_id = self.request.id
        if request_id and request_id.isascii() and request_id.isprintable():
            headers["x-client-request-id"] = request_id[:128]
        return headers

    def _refusing_errors(self) -> dict[int, RequestError]:
        """Return the errors of items by their index, unless the client has them reported one by one."""
        if self.body and self.body.many and self.body.on_error == "report":
            return {}
        return {index: item.error for index, item in enumerate(self.items) if item.error}


class PendingItem(NamedTuple):
    """An item that can still be answered."""

    task: Task
    query: Query
    state: ItemState


class EncodingJob(NamedTuple):
    """One encoding to compute, and the item that its output is for."""

    item: PendingItem
    encoding: Encoding
    text_index: int  # among the texts of the item's query


@dataclass
class BatchContext:
    """One batch of requests, and what it cost."""

    requests: list[RequestState]
    deadline: float = math.inf  # on the clock of time.monotonic; no further computation is begun after it
    report: BatchReport = field(default_factory=BatchReport)

    def pending(self) -> list[PendingItem]:
        """List the items without an error, of the requests without one."""
        return [
            PendingItem(request.task, item.query, item)
            for request in self.requests
            if not request.error
            for item in request.items
            if item.query and not item.error
        ]

    def jobs(self) -> list[EncodingJob]:
        """List the encodings of all pending items, each with its item."""
        return [EncodingJob(item, encoding, text) for item in self.pending() for text, encoding in item.state.sequences]

    def encodings(self) -> list[Encoding]:
        """List the encodings of all pending items."""
        return [job.encoding for job in self.jobs()]

    @classmethod
    def join(cls, batches: Sequence[BatchContext]) -> BatchContext:
        """Return one batch of the requests of several, which were parsed one by one and computed together."""
        requests = [request for batch in batches for request in batch.requests]
        deadline = min((batch.deadline for batch in batches), default=math.inf)
        return cls(requests, deadline, BatchReport.join([batch.report for batch in batches]))
