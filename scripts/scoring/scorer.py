"""A worker: it has the model, reads one part after the other, answers it and writes its file.

Ray tells the driver, and whoever looks at its logs and dashboard, no more than this returns and raises: numbers.
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
from scripts.scoring.corpus import Columns, Part, Row, Source
from scripts.scoring.job import fingerprint
from scripts.scoring.output import OUTPUTS, Shape

if TYPE_CHECKING:
    from handler.predictor import Predictor

TRIES = 3  # of a part: a row that ends the process would end every worker, one after the other


@dataclass(frozen=True)
class Setup:
    """What every worker does."""

    model: str  # an archive or a model folder, found under this path on every node
    fingerprint: str
    settings: dict[str, Any]  # of the handler, instead of the model's own
    parameters: dict[str, JSON]
    columns: Columns
    sources: tuple[Source, ...]
    form: str
    rows_per_batch: int
    threads: int
    gpu: bool


class Scorer:
    """One model in one process. A failure to load is told with the first part: Ray would only try again."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.failure = ""
        try:
            self.predictor = loaded(setup)
            self.shape, self.serves = self._tried_out()
        except Exception as error:  # noqa: BLE001 - every reason is told
            self.failure = reason(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Take a column of parts, each as JSON with its number; return what became of each, as JSON."""
        return {"told": [json.dumps(self._take(*json.loads(part))) for part in batch["part"]]}

    def _take(self, index: int, part: Sequence[int], path: str) -> JSON:
        if self.failure:
            return {"failure": self.failure}
        tries = Path(path).with_name(f".tries-{index:06d}")
        with tries.open("ab") as begun:
            begun.write(b".")
        if tries.stat().st_size > TRIES:
            return {"part": index, "left_out": True}
        began = time.perf_counter()
        try:
            rows, errors = self._answer(Part(*part), Path(path))
        except Exception as error:  # noqa: BLE001 - its words may hold a text
            return {"failure": f"part {index}: {reason(error)}"}
        tries.unlink(missing_ok=True)
        seconds = time.perf_counter() - began
        told = {"part": index, "rows": rows, "errors": errors, "seconds": seconds, "serves": self.serves}
        return {**told, "process": f"{os.uname().nodename}/{os.getpid()}"}

    def _answer(self, part: Part, path: Path) -> tuple[int, int]:
        source = self.setup.sources[part.source]
        rows = list(source.form.read(source, part, self.setup.columns))
        if len(rows) != part.rows:
            raise ScriptError(f"{source.name} changed while it was read: choose another --output")
        size = self.setup.rows_per_batch
        answers = [one for start in range(0, len(rows), size) for one in self._answers(rows[start : start + size])]
        new = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        OUTPUTS[self.setup.form].write(new, source.name, rows, answers, self.shape)
        new.replace(path)
        return len(rows), sum(map(is_error, answers))

    def _answers(self, rows: Sequence[Row]) -> list[JSON]:
        problems = [row.problem or unfit(row.question) for row in rows]
        found = iter(self._ask([row.question for row, problem in zip(rows, problems, strict=True) if not problem]))
        return [bad_row(problem) if problem else next(found) for problem in problems]

    def _ask(self, questions: list[JSON]) -> list[JSON]:
        """Answer questions in one plan of the engine, sorted by length; one that breaks it is found out."""
        from handler import protocol
        from handler.errors import RequestError

        if not questions:
            return []
        try:
            answers = self.predictor.answer_items(questions, self.setup.parameters | {"on_error": "report"})
        except RequestError as error:
            if len(questions) > 1:
                return [answer for question in questions for answer in self._ask([question])]
            answers = [{"error": protocol.PLAIN.serialize_error(error)}]
        if any(is_error(answer) and answer["error"]["type"] == "DeviceLost" for answer in answers):
            os._exit(1)  # this process cannot mend it; Ray starts another and hands it the part again
        return answers

    def _tried_out(self) -> tuple[Shape, JSON]:
        """Answer the task's own golden questions with the parameters that all rows get."""
        predictor, parameters = self.predictor, dict(self.setup.parameters)
        operation = str(parameters.get("operation", "predict"))
        task = predictor.operations.get(operation, predictor.task)
        answers = predictor.answer_items(list(task.self_test_items), parameters | {"on_error": "report"})
        good = [answer for answer in answers if not is_error(answer)]
        if not good:
            raise ScriptError(answers[0]["error"]["message"])
        shape = Shape.of(task.schema()["answer"], good, ids=self.setup.columns.id is not None)
        return shape, {
            "task": task.name,
            "precision": predictor.engine.precision.name,
            "device": predictor.engine.device.type,
            "model_hash": predictor.model_hash,
            "answer": shape.answer,
        }


def loaded(setup: Setup) -> Predictor:
    """Load the model that the driver looked at, with as many threads as Ray has cores for this worker."""
    from handler.config import ServingConfig
    from handler.engine.device import place
    from scripts.client.backends import load

    if fingerprint(Path(setup.model)) != setup.fingerprint:
        raise ScriptError(f"{setup.model} is another model on this node than where the run was started")
    device = place(0 if setup.gpu else None, ServingConfig(threads=setup.threads), 1)
    with ExitStack() as unpacked:
        return load(Path(setup.model), unpacked, device, **setup.settings)


def reason(error: Exception) -> str:
    """Say what went wrong without a text: our own words, or the type of an error and its place."""
    from handler.errors import ServingError

    if isinstance(error, ScriptError | ServingError):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"unexpected {type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"


def unfit(question: JSON) -> str:
    """Say why a question cannot be one, e.g. because a column holds dates."""
    from handler import protocol

    if question is None:
        return "the row has no text"
    if not isinstance(question, str):
        try:
            protocol.serialize_value(question)
        except (TypeError, ValueError, RecursionError):
            return "the row holds a value that JSON does not have"
    return ""


def bad_row(problem: str) -> JSON:
    """Return the answer to a row that could not be read."""
    from handler import protocol
    from handler.errors import InvalidInput

    return {"error": protocol.PLAIN.serialize_error(InvalidInput(problem))}
