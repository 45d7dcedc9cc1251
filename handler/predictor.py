"""The story on one page: requests -> replies.

    read      bytes -> questions -> queries         (wire, task.parse)
    encode    all texts of all rows, in one call    (tokenization)
    run       one plan over all encodings           (batching, engine, task.reduce)
    explain   attributions, for those who ask why   (explain, task.attribution_targets)
    write     values -> answers -> bytes            (task.decode, wire)

A request that cannot be answered harms only itself: at every step it leaves the others with an error of its own.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from handler import archive, explain, openapi, protocol
from handler.config import ServingConfig
from handler.engine import Engine, engine_for
from handler.engine.weights import read_config
from handler.errors import (
    Expired,
    GoldenMismatch,
    InputTooLong,
    InternalError,
    RequestError,
    UnknownOperation,
)
from handler.explain import Explainer
from handler.protocol import JSON, Body, ModelId, ParsedBody
from handler.request_state import BatchContext, ItemState, Request, RequestState, Response
from handler.tasks import Query, Task, auto_class_for, operations_for, parameters
from handler.telemetry import BatchReport
from handler.tokenization import Tokenizer

logger = logging.getLogger(__name__)


class Predictor:
    """One model, ready to answer."""

    def __init__(
        self,
        operations: Mapping[str, Task],
        tokenizer: Tokenizer,
        engine: Engine,
        model: ModelId,
        model_hash: str = "",
        patience_s: float = math.inf,
    ) -> None:
        """Put the rooms together; `operations` maps words of the path to tasks, the main one first."""
        self.operations = operations
        self.task = next(iter(operations.values()))
        self.tokenizer = tokenizer
        self.engine = engine
        # Words of operations whose answers can be explained, which takes gradients.
        self.explained = [word for word, task in operations.items() if task.explains and engine.differentiable]
        self.explainer = Explainer(engine)
        self.model = model
        self.model_hash = model_hash
        self.patience_s = patience_s

    @classmethod
    def load(
        cls,
        folder: Path,
        config: ServingConfig | None = None,
        device: torch.device | None = None,
        *,
        name: str = "model",
        version: str = "1.0",
        packed: bool = True,
        patience_s: float = math.inf,
    ) -> Predictor:
        """Load a model folder, or an unpacked archive, which must then be what was packed.

        Args:
            folder: of a model, or of an unpacked archive.
            packed: False computes as plain transformers does, for a reference.
            patience_s: seconds for one batch; what was not begun by then is refused as Overloaded.

        Raises:
            ModelMismatch: not a model folder, or an archive that changed.
            ConfigError: a setting that this model or this machine cannot obey.
            GoldenMismatch: the model answers differently from when it was packed.
        """
        config = config or ServingConfig()
        is_archive = (folder / archive.MANIFEST).is_file()
        manifest = archive.verify(folder) if is_archive else None
        model_folder = folder / archive.MODEL if is_archive else folder
        model_config = read_config(model_folder)
        tokenizer = Tokenizer(model_folder, model_config, config)
        operations = operations_for(model_config, config, tokenizer)
        main = operations["predict"]
        engine = engine_for(device).load(
            model_folder,
            auto_class_for(type(main), model_config),
            main,
            config,
            device,
            pad_id=tokenizer.pad_id,
            type_ids=tokenizer.has_type_ids,
            packed=packed,
        )
        engine.warm_up(tokenizer.max_length)
        model_hash = manifest.model_hash if manifest else ""
        predictor = cls(operations, tokenizer, engine, ModelId(name, version), model_hash, patience_s)
        if is_archive:
            predictor.check_golden(archive.read_golden(folder, archive.golden_name(engine.precision.name)))
        return predictor

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """Answer a batch of requests, in order."""
        work = self.read(requests)
        self.run(work)
        return self.write(work)

    def answer_items(
        self, items: Sequence[JSON], parameters: Mapping[str, JSON] | None = None, *, explain: bool = False
    ) -> list[JSON]:
        """Answer or explain items, each a request of its own, in one batch; raises the first error."""
        bodies = [protocol.serialize_value({"instances": [item], "parameters": parameters or {}}) for item in items]
        work = self.read([Request(Body(body, "application/json"), explain=explain) for body in bodies])
        self.run(work)
        told = [(job, self._answers(job)) for job in work.jobs]
        answers = [one for job, its in told for one in (self._explanations(job, its) if explain else its)]
        for job in work.jobs:
            if job.error:
                raise job.error
        return answers

    def check_golden(self, golden: archive.Golden) -> None:
        """Answer the golden questions; raises GoldenMismatch where an answer differs beyond the tolerance."""
        tolerance = self.engine.precision.tolerance
        try:
            answers = self.answer_items(golden.items, golden.parameters)
            pairs = zip(golden.answers, answers, strict=True)
            wrong = [index for index, pair in enumerate(pairs) if not self.task.answers_match(*pair, tolerance)]
        except (RequestError, TypeError, KeyError, AttributeError) as error:
            raise GoldenMismatch(f"the golden questions cannot be answered ({error}): pack again") from error
        if wrong:
            raise GoldenMismatch(
                f"golden question {wrong[0]} is answered differently from when the archive was built "
                f"({self.engine.precision.name}, tolerance {tolerance:g}): the weights, a library or the hardware "
                "differ; pack again on this machine and compare, or choose another precision"
            )

    def read(self, requests: Sequence[Request]) -> BatchContext:
        """Read, parse and encode every request."""
        deadline = time.monotonic() + self.patience_s
        work = BatchContext([self._read(request) for request in requests], deadline)
        began = time.perf_counter()
        self._encode(work.items())
        work.report.tokenize_s = time.perf_counter() - began
        for job in work.jobs:
            job.settle()
        encodings = [encoding for *_, item in work.items() for _, encoding in item.sequences]
        work.report.n_texts = len(encodings)
        work.report.n_tokens = sum(map(len, encodings))
        work.report.n_truncated = sum(encoding.n_truncated for encoding in encodings)
        unknown = self.tokenizer.unknown_id
        work.report.n_unknown = 0 if unknown is None else sum(encoding.ids.count(unknown) for encoding in encodings)
        return work

    def run(self, work: BatchContext) -> None:
        """Compute the values of every encoding, all rows in one plan."""
        owners = [
            (query.pooler or task, item, encoding)
            for task, query, item in work.items()
            for _, encoding in item.sequences
        ]
        began = time.perf_counter()
        encodings, uses = [encoding for *_, encoding in owners], [use for use, *_ in owners]
        found = self.engine.run(encodings, uses, work.deadline)
        work.report.inference_s = time.perf_counter() - began
        if usage := self.engine.device_usage():
            work.report.device, work.report.device_s, work.report.device_bytes = usage
        for (_, item, _), values in zip(owners, found, strict=True):
            if isinstance(values, RequestError):
                item.error = values
            else:
                item.values.append(values)
        self._explain(work)

    def write(self, work: BatchContext) -> list[Response]:
        """Decode and write every answer, in the order of the requests."""
        shared = work.report.headers() | ({"x-model-hash": self.model_hash[:16]} if self.model_hash else {})
        replies = []
        for job in work.jobs:
            reply = self._write(job, work.report)
            if job.error:
                work.report.refused[job.error.type] += 1
            headers = {**shared, **reply.headers, **job.headers()}
            replies.append(Response(reply.content, reply.status, reply.phrase, headers))
        return replies

    def describe(self) -> JSON:
        """Tell what is served: task, labels, limits, precision, hash, and an OpenAPI document."""
        config = self.task.config
        return {
            "name": self.model.name,
            "version": self.model.version,
            "task": self.task.name,
            "labels": self.task.labels,
            "problem_type": self.task.model_config.problem_type,
            "architecture": type(self.engine.model).__name__,
            "precision": self.engine.precision.name,
            "device": str(self.engine.device),
            "threads": torch.get_num_threads(),
            "packed": self.engine.packed,
            "limits": {
                "max_length": self.tokenizer.max_length,
                "overflow": self.task.overflow,
                "max_texts": config.max_texts,
                "max_characters": config.max_characters,
                "max_batch_tokens": self.engine.max_batch_tokens,
            },
            "operations": {word: task.name for word, task in self.operations.items()},
            "explained": self.explained,
            "model_hash": self.model_hash,
            "openapi": openapi.document(self.operations, self.explained, self.model, config),
        }

    def _read(self, request: Request) -> RequestState:
        job = RequestState(request, self.task)
        try:
            if request.deadline_ms is not None and request.deadline_ms < time.time() * 1000:
                raise Expired("x-request-deadline-ms had passed when the work began")
            job.question = question = protocol.parse(request.body)
            job.task = self._task(request, question)
            limit = self.task.config.max_texts
            if len(question.items) > limit:
                raise InputTooLong(f"{len(question.items)} texts in one request, accepted: at most {limit}")
            job.items = [self._parse(job, value, question) for value in question.items]
            n_texts = sum(len(item.query.texts) for item in job.items if item.query)
            if n_texts > limit:
                raise InputTooLong(f"{n_texts} texts or pairs to compute for one request, accepted: at most {limit}")
            job.settle()
        except RequestError as error:
            job.error, job.items = error, []
        except Exception as error:  # noqa: BLE001 - one poisonous row must not take the batch along
            job.error, job.items = _unexpected("reading", error), []
        return job

    def _explain(self, work: BatchContext) -> None:
        """Explain, after all predictions and short texts first, as long as the operator lets the others wait."""
        asked = [(item, task, query) for task, query, item in work.items() if item.wanted]
        began = time.perf_counter()
        patience = self.task.config.explain_seconds if math.isfinite(work.deadline) else math.inf  # nobody waits
        deadline = min(work.deadline, time.monotonic() + patience)
        for item, task, query in sorted(asked, key=lambda one: max(len(encoding) for _, encoding in one[0].sequences)):
            found = self.explainer.explain(task, query, item.windows(), item.wanted or {}, deadline)
            if isinstance(found, RequestError):
                item.error = found
            else:
                item.attributions = found
        work.report.explain_s = time.perf_counter() - began if asked else 0.0

    def _task(self, request: Request, question: ParsedBody) -> Task:
        # On KServe's routes TorchServe sets no url_path, so one that names nothing is a stray header of the client's.
        stray = question.codec in (protocol.KSERVE_V1, protocol.OPEN_INFERENCE)
        path = request.operation if not stray or request.operation in self.operations else ""
        operation = question.operation or path or "predict"
        if request.explain and not self.engine.differentiable:
            raise UnknownOperation("explanations need gradients: pack the model with --precision fp32 or bf16")
        if request.explain and operation not in self.explained:
            accepted = ", ".join(self.explained) or "none"
            raise UnknownOperation(f"no explanations of this operation, accepted: {accepted}")
        if operation not in self.operations:
            raise UnknownOperation(f"unknown operation, accepted: {', '.join(self.operations)}")
        return self.operations[operation]

    def _parse(self, job: RequestState, value: JSON, question: ParsedBody) -> ItemState:
        names = explain.PARAMETERS if job.request.explain else ()
        asked = {name: given for name, given in question.parameters.items() if name in names}
        given = {name: given for name, given in question.parameters.items() if name not in names}
        try:
            query = job.task.parse(value, given)
            if not job.request.explain:
                return ItemState(query)
            wanted = parameters.read(explain.PARAMETERS, asked)
            return ItemState(
                replace(query, encoding_options=replace(query.encoding_options, return_spans=True)), wanted=wanted
            )
        except RequestError as error:
            return ItemState(error=error)

    def _encode(self, items: list[tuple[Task, Query, ItemState]]) -> None:
        texts = [text for _, query, _ in items for text in query.texts]
        options = [query.encoding_options for _, query, _ in items for _ in query.texts]
        try:
            found = iter(self.tokenizer.encode(texts, options))
        except Exception as error:  # noqa: BLE001 - find the one that the tokenizer cannot read
            for one in items:
                if len(items) > 1:
                    self._encode([one])
                else:
                    one[-1].error = _unexpected("tokenising", error)
            return
        for _, query, item in items:
            for text, encodings in zip(range(len(query.texts)), found, strict=False):
                if isinstance(encodings, RequestError):
                    item.error = encodings
                else:
                    item.sequences += [(text, encoding) for encoding in encodings]

    def _answers(self, job: RequestState) -> list[JSON]:
        answers: list[JSON] = []
        for item in job.items:
            if item.query and not item.error:
                try:
                    answers.append(job.task.decode(item.query, item.windows()))
                    continue
                except RequestError as error:
                    item.error = error
                except Exception as error:  # noqa: BLE001 - one poisonous row must not take the batch along
                    item.error = _unexpected("decoding", error)
            answers.append({"error": protocol.PLAIN.serialize_error(item.error)} if item.error else None)
        job.settle()
        return answers

    def _write(self, job: RequestState, report: BatchReport) -> Response:
        answers = self._answers(job)
        for item, answer in zip(job.items, answers, strict=False):
            if not item.error and (leading := job.task.top_label(answer)):
                report.labels[leading[0]] += 1
                report.score_sum += leading[1]
        if job.question and not job.error:
            try:
                if job.request.explain:
                    explanations = self._explanations(job, answers)
                    return Response(protocol.serialize_explanations(job.question, answers, explanations, self.model))
                return Response(protocol.serialize(job.question, answers, self.model, job.task.answer_format))
            except RequestError as error:
                job.error = error
            except Exception as error:  # noqa: BLE001 - e.g. a model that answers NaN
                job.error = _unexpected("writing", error)
        failure = job.error or InternalError("no answer was computed")
        dialect = job.question.codec if job.question else protocol.PLAIN
        if job.request.kserve and dialect is not protocol.KSERVE_V1:
            dialect = protocol.OPEN_INFERENCE
        content = protocol.serialize_error(failure, dialect)
        message = str(failure).encode("ascii", "replace").decode()[:200]
        return Response(content, failure.status, failure.phrase, {"x-error-message": message})

    def _explanations(self, job: RequestState, answers: list[JSON]) -> list[JSON]:
        """Return why the answers are as they are; an error of an item stays in its place."""
        return [
            explain.write(job.task, item.query, answer, item.attributions, item.wanted["top_words"])
            if item.query and item.wanted and not item.error
            else answer
            for item, answer in zip(job.items, answers, strict=False)
        ]


def _unexpected(doing: str, error: Exception) -> InternalError:
    # The message of an exception may hold a user's text: only its type is told.
    logger.error("unexpected %s while %s a request", type(error).__name__, doing)
    return InternalError(f"unexpected {type(error).__name__} while {doing} this request")
