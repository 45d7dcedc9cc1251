"""One page: requests -> responses.

    preprocess    bytes -> parsed bodies -> queries -> encodings    (request_parser: protocol, task.parse; tokenization)
    inference     encodings -> outputs, in one plan of batches      (batching, engine, task.pool)
                  and attributions, for requests to explain         (explain, task.attribution_targets)
    postprocess   outputs -> answers -> bytes                       (response_writer: task.decode, protocol)

A request that cannot be answered fails alone: each step stores an error in the state of its item or request, and works
on what is still pending (`request_state`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

from handler import protocol
from handler.confidence import ScoreCalibration
from handler.engine import Engine
from handler.errors import RequestError, unexpected
from handler.explain import Explainer
from handler.protocol import JSON, Body, ModelId
from handler.request_parser import RequestParser
from handler.request_state import BatchContext, EncodingJob, PendingItem, Request, Response
from handler.response_writer import ResponseWriter, decode, explain_answers
from handler.tasks import Task
from handler.tokenization import Tokenizer


class Predictor:
    """One loaded model that answers requests; `loading.load_predictor` makes it."""

    def __init__(
        self,
        operations: Mapping[str, Task],
        tokenizer: Tokenizer,
        engine: Engine,
        model: ModelId,
        model_hash: str = "",
        timeout_s: float = math.inf,
        max_response_bytes: int | None = None,
    ) -> None:
        """Connect the parts of a loaded model.

        Args:
            operations: tasks by their word in the path, the main one first.
            timeout_s: seconds for one batch; computation that has not begun by then is refused as Overloaded.
            max_response_bytes: of one answer; a longer one is refused as AnswerTooLong.
        """
        self.operations = operations
        self.task = next(iter(operations.values()))
        self.tokenizer = tokenizer
        self.engine = engine
        # Words of the operations whose answers can be explained, which takes gradients.
        self.explainable = [word for word, task in operations.items() if task.explains and not engine.gradient_problem]
        self.explainer = Explainer(engine)
        self.model = model
        self.model_hash = model_hash
        self.timeout_s = timeout_s
        self.max_response_bytes = max_response_bytes
        self.calibration: ScoreCalibration | None = None
        self._parser = RequestParser(operations, self.explainable, gradient_problem=engine.gradient_problem)
        self._writer = ResponseWriter(model, max_response_bytes)

    def calibrate(self, calibration: ScoreCalibration) -> None:
        """Serve calibrated scores from now on where a task has them."""
        self.calibration = calibration
        for task in set(self.operations.values()):
            task.calibrate(calibration)

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Answer a batch of requests, in order."""
        batch = self.preprocess(requests)
        self.inference(batch)
        return self.postprocess(batch)

    def answer_items(
        self,
        items: Sequence[JSON],
        parameters: Mapping[str, JSON] | None = None,
        *,
        explain: bool = False,
        as_arrays: bool = False,
    ) -> list[JSON]:
        """Answer or explain items, each as a request of its own, in one batch; raises the first error.

        Args:
            as_arrays: whether embeddings stay arrays of fp32; otherwise they become lists.
        """
        bodies = [protocol.serialize_value({"instances": [item], "parameters": parameters or {}}) for item in items]
        batch = self.preprocess([Request(Body(body, "application/json"), explain=explain) for body in bodies])
        self.inference(batch)
        values: list[JSON] = []
        for request in batch.requests:
            answers = decode(request)
            if request.error:
                raise request.error
            if explain:
                values += explain_answers(request, answers)
            else:
                values += answers if as_arrays else map(protocol.as_lists, answers)
        return values

    def preprocess(self, requests: Sequence[Request]) -> BatchContext:
        """Parse every request and encode the texts of all of them in one call."""
        deadline = time.monotonic() + self.timeout_s
        batch = BatchContext([self._parser.parse(request) for request in requests], deadline)
        started = time.perf_counter()
        self._tokenize(batch.pending())
        batch.report.tokenize_s = time.perf_counter() - started
        batch.report.count_tokens(batch.encodings(), self.tokenizer.unknown_id)
        return batch

    def preprocess_each(self, requests: Sequence[Request]) -> list[BatchContext]:
        """Parse requests and encode the texts of all of them in one call; return a batch of each."""
        together = self.preprocess(requests)
        seconds_per_token = together.report.tokenize_s / max(1, together.report.n_tokens)
        batches = [BatchContext([state], together.deadline) for state in together.requests]
        for batch in batches:
            batch.report.count_tokens(batch.encodings(), self.tokenizer.unknown_id)
            batch.report.tokenize_s = seconds_per_token * batch.report.n_tokens
        return batches

    def inference(self, batch: BatchContext) -> None:
        """Compute the output of every encoding in one plan, then the explanations."""
        started = time.perf_counter()
        self.compute(batch.jobs(), batch.deadline)
        batch.report.inference_s = time.perf_counter() - started
        if usage := self.engine.device_usage():
            batch.report.device, batch.report.device_s, batch.report.device_bytes = usage
        self._explain(batch)

    def compute(self, jobs: Sequence[EncodingJob], deadline: float = math.inf) -> None:
        """Compute the outputs of encodings, of one batch or of several, in one plan; an error stays with its item."""
        poolers = [job.item.query.pooler_of(job.text_index) or job.item.task for job in jobs]
        results = self.engine.run([job.encoding for job in jobs], poolers, deadline)
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, RequestError):
                job.item.state.error = result
            else:
                job.item.state.outputs.append(result)

    def postprocess(self, batch: BatchContext) -> list[Response]:
        """Write the response of every request, in order."""
        shared = batch.report.headers() | ({"x-model-hash": self.model_hash[:16]} if self.model_hash else {})
        responses = []
        for request in batch.requests:
            response = self._writer.write(request, batch.report)
            headers = {**shared, **response.headers, **request.headers()}
            responses.append(Response(response.content, response.status, response.phrase, headers))
        return responses

    def _tokenize(self, pending: Sequence[PendingItem]) -> None:
        """Encode the texts of items in one call; if that fails, each item in a call of its own."""
        texts = [text for item in pending for text in item.query.texts]
        options = [item.query.options_of(index) for item in pending for index in range(len(item.query.texts))]
        try:
            results = iter(self.tokenizer.encode(texts, options))
        except Exception as error:  # noqa: BLE001 - one text that the tokenizer cannot read must not fail the batch
            for item in pending:
                if len(pending) > 1:
                    self._tokenize([item])
                else:
                    item.state.error = unexpected("tokenising", error)
            return
        for item in pending:
            for text in range(len(item.query.texts)):
                result = next(results)
                if isinstance(result, RequestError):
                    item.state.error = result
                else:
                    item.state.sequences += [(text, encoding) for encoding in result]

    def _explain(self, batch: BatchContext) -> None:
        """Explain after all predictions, short texts first, for at most `explain_seconds` if there is a deadline."""
        pending = [item for item in batch.pending() if item.state.explain_options]
        if not pending:
            return
        started = time.perf_counter()
        self.explainer.load()  # in time of its own, not in that of the first explanation
        timeout_s = self.task.config.explain_seconds if math.isfinite(batch.deadline) else math.inf
        deadline = min(batch.deadline, time.monotonic() + timeout_s)
        for item in sorted(pending, key=lambda item: max(len(encoding) for _, encoding in item.state.sequences)):
            outputs, options = item.state.sequence_outputs(), item.state.explain_options or {}
            result = self.explainer.explain(item.task, item.query, outputs, options, deadline)
            if isinstance(result, RequestError):
                item.state.error = result
            else:
                item.state.attributions = result
        batch.report.explain_s = time.perf_counter() - started
