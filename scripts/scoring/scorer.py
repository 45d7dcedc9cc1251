"""A worker: it loads the model, reads one part after the other, answers it and writes its file.

Its results and errors, which Ray shows in logs and dashboard, hold numbers, never a text.
"""

from __future__ import annotations

import json
import os
import time
import traceback
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handler.protocol import JSON
from scripts.cli.console import ScriptError
from scripts.client.answers import is_error
from scripts.scoring.answer_schema import AnswerSchema
from scripts.scoring.corpus import format_of
from scripts.scoring.job import fingerprint
from scripts.scoring.output import OUTPUTS
from scripts.scoring.rows import CorpusColumns, CorpusPart, CorpusRow, SourceFile

if TYPE_CHECKING:
    from handler.predictor import Predictor

MAX_TRIES = 3  # of a part: a row that ends the process would otherwise end every worker, one after the other


@dataclass(frozen=True)
class ScorerConfig:
    """The configuration of every worker."""

    model: str  # an archive or a model folder, with this path on every node
    fingerprint: str
    settings: dict[str, Any]  # of the handler, which replace the model's own
    parameters: dict[str, JSON]
    columns: CorpusColumns
    sources: tuple[SourceFile, ...]
    output_format: str
    rows_per_batch: int
    threads: int
    gpu: bool
    typed_ids: bool = False  # whether an output in Parquet keeps the type of ids


class Scorer:
    """One model in one process. A failure to load is a result of the first part: Ray would only retry an exception."""

    def __init__(self, config: ScorerConfig) -> None:
        self.config = config
        self.failure = ""
        try:
            self.predictor = load_model(config)
            self.schema, self.served = self._try_out()
        except Exception as error:  # noqa: BLE001 - every reason is reported
            self.failure = reason(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Take a column of parts, each as JSON with its index; return the result of each as JSON."""
        return {"result": [json.dumps(self._take(*json.loads(part))) for part in batch["part"]]}

    def _take(self, index: int, part: Sequence[int], path: str) -> JSON:
        if self.failure:
            return {"failure": self.failure}
        tries = Path(path).with_name(f".tries-{index:06d}")
        with tries.open("ab") as file:
            file.write(b".")
        if tries.stat().st_size > MAX_TRIES:
            return {"part": index, "left_out": True}
        began = time.perf_counter()
        try:
            rows, errors = self._answer(CorpusPart(*part), Path(path))
        except Exception as error:  # noqa: BLE001 - its message may hold a text
            return {"failure": f"part {index}: {reason(error)}"}
        tries.unlink(missing_ok=True)
        seconds = time.perf_counter() - began
        result = {"part": index, "rows": rows, "errors": errors, "seconds": seconds, "serves": self.served}
        return {**result, "process": f"{os.uname().nodename}/{os.getpid()}"}

    def _answer(self, part: CorpusPart, path: Path) -> tuple[int, int]:
        source = self.config.sources[part.source]
        read = format_of(source).read(source, part, self.config.columns)
        rows, ids = read.rows, read.ids if self.config.typed_ids else None
        if len(rows) != part.rows:
            raise ScriptError(f"{source.name} changed while it was read: choose another --output")
        size = self.config.rows_per_batch
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        answers = [answer for batch in batches for answer in self._answers(batch)]
        new = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        OUTPUTS[self.config.output_format].write(new, source.name, rows, answers, self.schema, ids)
        new.replace(path)
        return len(rows), sum(map(is_error, answers))

    def _answers(self, rows: Sequence[CorpusRow]) -> list[JSON]:
        problems = [row.problem or invalid(row.question) for row in rows]
        questions = [row.question for row, problem in zip(rows, problems, strict=True) if not problem]
        answers = iter(self._ask(questions))
        return [row_error(problem) if problem else next(answers) for problem in problems]

    def _ask(self, questions: list[JSON]) -> list[JSON]:
        """Answer questions in one call of the predictor, or one by one where it refuses them all."""
        from handler import protocol
        from handler.errors import InternalError, RequestError

        if not questions:
            return []
        parameters = self.config.parameters | {"on_error": "report"}
        try:
            answers = self.predictor.answer_items(questions, parameters, as_arrays=True)
        except RequestError as error:
            if len(questions) > 1:
                return [answer for question in questions for answer in self._ask([question])]
            answers = [{"error": protocol.PLAIN.serialize_error(error)}]
        if any(is_error(answer) and answer["error"]["type"] == "DeviceLost" for answer in answers):
            os._exit(1)  # this process cannot recover; Ray starts another one and repeats the part
        not_finite = InternalError("the embedding has numbers that are not finite")  # and that JSON does not have
        return [
            {"error": protocol.PLAIN.serialize_error(not_finite)} if is_not_finite(answer) else answer
            for answer in answers
        ]

    def _try_out(self) -> tuple[AnswerSchema, JSON]:
        """Answer the task's self-test inputs with the parameters of the run; return the schema and the served model."""
        predictor, parameters = self.predictor, dict(self.config.parameters)
        operation = str(parameters.get("operation", "predict"))
        task = predictor.operations.get(operation, predictor.task)
        answers = predictor.answer_items(list(task.self_test_items), parameters | {"on_error": "report"})
        valid = [answer for answer in answers if not is_error(answer)]
        if not valid:
            raise ScriptError(answers[0]["error"]["message"])
        schema = AnswerSchema.of(task.schema()["answer"], valid, ids=self.config.columns.id is not None)
        return schema, {
            "task": task.name,
            "precision": predictor.engine.precision.name,
            "device": predictor.engine.device.type,
            "model_hash": predictor.model_hash,
            "answer": schema.answer,
        }


def load_model(config: ScorerConfig) -> Predictor:
    """Load the model, with as many threads as Ray has cores for this worker; it must be the driver's."""
    from handler.config import ServingConfig
    from handler.engine.device import place
    from scripts.client.backends import load

    if fingerprint(Path(config.model)) != config.fingerprint:
        raise ScriptError(f"{config.model} is another model on this node than where the run was started")
    device = place(0 if config.gpu else None, ServingConfig(threads=config.threads), 1)
    with ExitStack() as unpacked:
        return load(Path(config.model), unpacked, device, serving=True, **config.settings)


def reason(error: Exception) -> str:
    """Return the reason of an error without a text: the message of our own errors, else the type and the line."""
    from handler.errors import ServingError

    if isinstance(error, ScriptError | ServingError):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"unexpected {type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"


def invalid(question: JSON) -> str:
    """Return why a question is invalid, e.g. because a column holds dates; empty where it is valid."""
    from handler import protocol

    if question is None:
        return "the row has no text"
    if not isinstance(question, str):
        try:
            protocol.serialize_value(question)
        except (TypeError, ValueError, RecursionError):
            return "the row holds a value that JSON does not have"
    return ""


def is_not_finite(answer: JSON) -> bool:
    """Tell whether an answer is an embedding with NaN or infinite numbers."""
    from handler.protocol import is_array

    return is_array(answer) and not bool((abs(answer) < float("inf")).all())


def row_error(problem: str) -> JSON:
    """Return the answer to a row that could not be read."""
    from handler import protocol
    from handler.errors import InvalidInput

    return {"error": protocol.PLAIN.serialize_error(InvalidInput(problem))}
