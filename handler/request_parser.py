"""Request -> RequestState: chooses the operation, applies the limits, and parses every item into a query."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from handler import explain, protocol
from handler.errors import Expired, InputTooLong, RequestError, UnknownOperation, attempt
from handler.protocol import JSON, ParsedBody
from handler.request_state import ItemState, Request, RequestState
from handler.tasks import Task, parameters

# An operation of every model: its metadata of Open Inference v2, for which TorchServe has no route (deploy/gateway).
METADATA = "metadata"
MAX_CHARACTERS_FACTOR = 20  # characters of all texts and pairs of a request, as a multiple of max_characters


class RequestParser:
    """Parses requests for the operations of one model."""

    def __init__(
        self, operations: Mapping[str, Task], explainable: Sequence[str], *, gradient_problem: str = ""
    ) -> None:
        """Keep the operations by their word in the path.

        Args:
            operations: the main task first.
            explainable: words of the operations whose answers can be explained.
            gradient_problem: why the engine has no gradients, which every explanation needs; "": it has.
        """
        self.operations = operations
        self.explainable = explainable
        self.gradient_problem = gradient_problem
        self.main = next(iter(operations.values()))

    def parse(self, request: Request) -> RequestState:
        """Parse one request; an error stays in its state."""
        state = RequestState(request, self.main)
        failure = attempt("reading", self._parse, state)
        if failure:
            state.failure, state.items = failure, []
        return state

    def _parse(self, state: RequestState) -> None:
        deadline_ms = state.request.deadline_ms
        if deadline_ms is not None and deadline_ms < time.time() * 1000:
            raise Expired("x-request-deadline-ms had passed when the work began")
        state.body = body = state.request.parsed or protocol.parse(state.request.body)
        if body.operation == METADATA and not state.request.explain:
            state.asks_metadata = True
            return
        state.task = self._task(state.request, body)
        limit = state.task.config.max_texts
        if len(body.items) > limit:
            raise InputTooLong(f"{len(body.items)} texts in one request, accepted: at most {limit}")
        most = max(MAX_CHARACTERS_FACTOR * state.task.config.max_characters, len(state.request.body.content or b""))
        n_texts = n_characters = 0
        for value in body.items:  # the limits stop it: a short body can stand for a million pairs
            item = _parse_item(state, body, value)
            state.items.append(item)
            texts = item.query.texts if item.query else ()
            n_texts += len(texts)
            n_characters += sum(len(text) + len(pair or "") for text, pair in texts)
            if n_texts > limit:
                raise InputTooLong(f"more than {limit} texts or pairs to compute for one request: send fewer at once")
            if n_characters > most:
                raise InputTooLong(f"the pairs of one request have more than {most} characters: send fewer at once")

    def _task(self, request: Request, body: ParsedBody) -> Task:
        # TorchServe sets no url_path on KServe's routes: one that names no operation is a header of the client's own.
        from_client = body.codec in (protocol.KSERVE_V1, protocol.OPEN_INFERENCE)
        path = request.operation if not from_client or request.operation in self.operations else ""
        operation = body.operation or path or "predict"
        if request.explain and self.gradient_problem:
            raise UnknownOperation(f"explanations need gradients: {self.gradient_problem}")
        if request.explain and operation not in self.explainable:
            accepted = ", ".join(self.explainable) or "none"
            raise UnknownOperation(f"no explanations of this operation, accepted: {accepted}")
        if operation not in self.operations:
            raise UnknownOperation(f"unknown operation, accepted: {', '.join(self.operations)}")
        return self.operations[operation]


def _parse_item(state: RequestState, body: ParsedBody, item: JSON) -> ItemState:
    """Parse one item; an error that the task or the parameters raise stays with it."""
    names = explain.PARAMETERS if state.request.explain else ()
    explain_parameters = {name: value for name, value in body.parameters.items() if name in names}
    task_parameters = {name: value for name, value in body.parameters.items() if name not in names}
    try:
        query = state.task.parse(item, task_parameters)
        if not state.request.explain:
            return ItemState(query)
        explain_options = parameters.read(explain.PARAMETERS, explain_parameters)
        encoding_options = replace(query.encoding_options, return_spans=True)
        return ItemState(replace(query, encoding_options=encoding_options), explain_options=explain_options)
    except RequestError as error:
        return ItemState(error=error)
