"""One version of one model: loads its archive, answers its requests, and says how it is."""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from handler import tracing
from handler.config import DEFAULT_RESPONSE_TIMEOUT_S
from handler.description import describe
from handler.engine.device import place
from handler.engine.lean_import import import_transformers
from handler.errors import ConfigError
from handler.gpu_presence import has_gpu
from handler.loading import is_native, load_predictor
from handler.predictor import Predictor
from handler.protocol import JSON
from handler.request_state import BatchContext, Request, Response
from handler.telemetry import reference_measurements
from handler.torch_presence import has_torch
from server import log
from server.archives import UnpackedArchive
from server.batcher import Batcher, Waiting
from server.errors import engine_failed, overloaded, queue_full
from server.explanations import Explanations
from server.metrics import MetricsRegistry
from server.reading import Preprocessor, is_long
from server.settings import ServerSettings

INLINE_ITEMS = 128  # more answers are written beside the event loop
MS_PER_S, US_PER_S = 1e3, 1e6

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ArchiveLoader:
    """Loads the predictor of an unpacked archive; picklable, for the process of the explanations."""

    archive: UnpackedArchive
    max_response_bytes: int

    def __call__(self) -> Predictor:
        """Load and self-test the model, with the threads and the device that its settings say."""
        config = self.archive.config
        return load_predictor(
            self.archive.folder,
            config.handler,
            place(self.gpu_id, config.handler, n_workers=1),
            name=self.archive.name,
            version=self.archive.version,
            timeout_s=config.frontend.deadline_s,
            max_response_bytes=self.max_response_bytes,
            serving=True,
            shared=True,
        )

    @property
    def is_native(self) -> bool:
        """Whether the model is served without PyTorch and the models of transformers."""
        try:
            return self.gpu_id is None and is_native(self.archive.folder, self.archive.config.handler)
        except ConfigError:  # which loading raises again, for this model alone
            return True

    @property
    def gpu_id(self) -> int | None:
        """The GPU that the archive's settings choose, the first by default; None: the CPU."""
        frontend = self.archive.config.frontend
        if frontend.deviceType == "cpu" or not has_gpu():
            return None
        return (frontend.deviceIds or [0])[0]


def import_for(archives: Sequence[UnpackedArchive]) -> None:
    """Import what these archives need to load, all of it before one of them loads without the models of others."""
    if not archives:
        return
    import_transformers(
        with_models=has_torch() and not all(ArchiveLoader(archive, 0).is_native for archive in archives)
    )


class LoadedModel:
    """One loaded version; it begins to load when it is made."""

    def __init__(
        self,
        archive: UnpackedArchive,
        settings: ServerSettings,
        metrics: MetricsRegistry,
        on_device_failed: Callable[[], None],
        *,
        at_startup: bool = False,
    ) -> None:
        self.archive, self.metrics, self.at_startup = archive, metrics, at_startup
        self.name, self.version = archive.name, archive.version
        self._is_abandoned = False
        self.n_running = 0  # requests that were accepted and are not answered yet
        self.began = time.time()  # a time of day, for people
        self._loading_since = time.monotonic()
        self.loading_s = 0.0
        frontend = archive.config.frontend
        self.queue_requests = frontend.jobQueueSize or settings.queue_requests
        self.response_timeout_s = frontend.responseTimeout or DEFAULT_RESPONSE_TIMEOUT_S
        self._on_device_failed = on_device_failed
        loader = ArchiveLoader(archive, settings.max_response_bytes)
        self.batcher = Batcher(loader, self.queue_requests, self._on_finished)
        self.batcher.ready.add_done_callback(self._on_loaded)
        self.explanations = Explanations(loader)
        self._preprocessor = Preprocessor()

    @property
    def is_ready(self) -> bool:
        """Whether it has loaded."""
        ready = self.batcher.ready
        return ready.done() and not ready.cancelled() and ready.exception() is None

    @property
    def failure(self) -> BaseException | None:
        """Why it did not load."""
        ready = self.batcher.ready
        return ready.exception() if ready.done() and not ready.cancelled() else None

    @property
    def is_hung(self) -> bool:
        """Whether the engine has taken and answered nothing for longer than `responseTimeout`, though requests wait."""
        since = self.batcher.silent_since
        return since is not None and time.monotonic() - since > self.response_timeout_s

    @property
    def predictor(self) -> Predictor:
        """The loaded predictor; while there is none, requests are refused."""
        if self._is_abandoned:
            raise engine_failed(self.name)
        if not self.is_ready:
            raise overloaded(f'Model "{self.name}" version {self.version} is loading: try again later')
        return self.batcher.ready.result()

    async def answer(self, request: Request) -> Response:
        """Answer one request; raises ApiError when it is not accepted."""
        predictor = self.predictor
        if self.batcher.is_full and not request.explain:
            raise queue_full(self.batcher.retry_after_s)
        trace = tracing.current()
        if trace:
            trace.note({"bert.model.name": self.name, "bert.model.version": self.version})
        self.n_running += 1
        batch = None
        try:
            batch = await self._read(predictor, request)
            if not batch.pending():
                return self._write([batch])[0]
            if request.explain:
                if trace:
                    trace.begin("explain")
                response, report = await self.explanations.explain(request)
                self.metrics.record_all(self.name, report.measurements(self.version))
                return response
            if self.batcher.is_full:  # of the tokens of those that were read before it
                raise queue_full(self.batcher.retry_after_s)
            return await self.batcher.compute(batch, request.deadline_ms)
        finally:
            self.n_running -= 1
            if trace and batch:
                trace.note_outcome(batch.requests[0])

    def abandon(self) -> None:
        """Answer every request, those that come too, with an error: the engine does not answer any more."""
        self._is_abandoned = True
        self.batcher.abandon(engine_failed(self.name))

    async def close(self) -> None:
        """Answer what was accepted, then free the model."""
        while self.n_running:
            await asyncio.sleep(0.05)
        self.batcher.close()
        self.explanations.close()
        self.archive.remove()

    async def _read(self, predictor: Predictor, request: Request) -> BatchContext:
        """Parse and tokenise one request; a short one that will wait is counted from now on."""
        n_counted = not request.explain and not is_long(request)
        self.batcher.n_reading += n_counted  # others are accepted before this one waits
        try:
            return await self._preprocessor.preprocess(predictor, request)
        finally:
            self.batcher.n_reading -= n_counted

    def _on_finished(self, finished: Sequence[Waiting]) -> None:
        """Write the answers of the requests that a batch completed."""
        batches = [request.batch for request in finished]
        for request in finished:
            queued_s = (request.started or time.monotonic()) - request.arrived
            self.metrics.record("ts_queue_latency_microseconds", queued_s * US_PER_S, self.name, self.version)
        if sum(len(batch.requests[0].items) for batch in batches) <= INLINE_ITEMS:
            _deliver(finished, self._write(batches))
        else:
            writing = asyncio.get_running_loop().run_in_executor(None, self._write, batches)
            writing.add_done_callback(lambda written: _deliver(finished, written.result()))

    def _write(self, batches: Sequence[BatchContext]) -> list[Response]:
        """Write the responses of requests that were computed together, and record what they cost."""
        predictor = self.predictor
        joined = BatchContext.join(batches)
        if usage := predictor.engine.device_usage():
            joined.report.device, joined.report.device_s, joined.report.device_bytes = usage
        responses = predictor.postprocess(joined)
        self.metrics.record_all(self.name, joined.report.measurements(self.version))
        if predictor.engine.device_failed:
            self._on_device_failed()
        return responses

    def _on_loaded(self, ready: asyncio.Future[Predictor]) -> None:
        error = None if ready.cancelled() else ready.exception()
        self.loading_s = time.monotonic() - self._loading_since
        if isinstance(error, Exception):
            log.loading_failed(self.name, self.version, error)
        else:
            worker = f"W-0-{self.name}_{self.version}"
            self.metrics.record("WorkerLoadTime", self.loading_s * MS_PER_S, worker, "Host")
            calibration = None if ready.cancelled() else ready.result().calibration
            if calibration and calibration.reference:
                self.metrics.record_all(self.name, reference_measurements(calibration.reference, self.version))

    def description(self, *, customized: bool = False) -> dict[str, JSON]:
        """Describe this version in the words of TorchServe's management API."""
        frontend = self.archive.config.frontend
        n_pending = self.n_running
        worker = {
            "id": "0",
            "startTime": datetime.datetime.fromtimestamp(self.began, datetime.timezone.utc).isoformat(),
            "status": "READY" if self.is_ready else "UNLOADED",
            "memoryUsage": 0,
            "pid": os.getpid(),
            "gpu": self.is_ready and self.predictor.engine.device.type == "cuda",
            "gpuUsage": "N/A",
        }
        described: dict[str, JSON] = {
            "modelName": self.name,
            "modelVersion": self.version,
            "modelUrl": self.archive.file,
            "runtime": "python",
            "minWorkers": 1,
            "maxWorkers": 1,
            "batchSize": frontend.batchSize or 1,
            "maxBatchDelay": 0,
            "responseTimeout": self.response_timeout_s,
            "startupTimeout": frontend.startupTimeout or DEFAULT_RESPONSE_TIMEOUT_S,
            "deviceType": "gpu" if worker["gpu"] else "cpu",
            "loadedAtStartup": self.at_startup,
            "workers": [worker],
            "jobQueueStatus": {
                "remainingCapacity": max(0, self.queue_requests - n_pending),
                "pendingRequests": self.batcher.n_waiting,
                "runningRequests": n_pending,
            },
        }
        if customized and self.is_ready:
            described["customizedMetadata"] = describe(self.predictor)
        return described


def _deliver(finished: Sequence[Waiting], responses: Sequence[Response]) -> None:
    for request, response in zip(finished, responses, strict=True):
        if not request.done.done():
            request.done.set_result(response)
