"""The result of an examination: facts by section, and findings, each a line that says what to do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, ParamSpec, TypeVar

from handler.errors import ServingError
from handler.protocol import JSON
from scripts.cli.console import ScriptError

P = ParamSpec("P")
T = TypeVar("T")
Level = Literal["error", "note"]


@dataclass(frozen=True)
class Remark:
    """Something odd: an error keeps the model from being packed or served, a note does not."""

    level: Level
    message: str


@dataclass
class Examination:
    """What was found out about one model."""

    name: str  # as the person named it
    kind: Literal["model", "archive"]
    folder: str | None = None  # that is read, which messages call by the name
    sections: dict[str, dict[str, JSON]] = field(default_factory=dict)
    findings: list[Remark] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether the model can be packed, or the archive served."""
        return not any(finding.level == "error" for finding in self.findings)

    def refuse(self, error: Exception) -> None:
        """Add the error that the packer, or a worker, would raise; each line once."""
        message = str(error)
        self._add(Remark("error", message.replace(self.folder, self.name) if self.folder else message))

    def note(self, message: str) -> None:
        """Add what a person should know although it hinders nothing."""
        self._add(Remark("note", message))

    def attempt(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T | None:
        """Return what a reader of the packer returns; None where it refuses, which is a finding."""
        try:
            return function(*arguments, **options)
        except (ScriptError, ServingError, OSError) as error:
            self.refuse(error)
            return None

    @contextmanager
    def noting_warnings(self) -> Iterator[None]:
        """Make notes of what the handler logs meanwhile."""
        logger, listener = logging.getLogger("handler"), _Listener(self)
        propagate, logger.propagate = logger.propagate, False
        logger.addHandler(listener)
        try:
            yield
        finally:
            logger.removeHandler(listener)
            logger.propagate = propagate

    def to_json(self) -> JSON:
        """Return everything for --json."""
        return {
            "name": self.name,
            "kind": self.kind,
            "packable" if self.kind == "model" else "sound": self.is_sound,
            **self.sections,
            "findings": [vars(finding) for finding in self.findings],
        }

    def _add(self, finding: Remark) -> None:
        if finding.message not in [other.message for other in self.findings]:
            self.findings.append(finding)


class _Listener(logging.Handler):
    """A handler of log records that makes notes of warnings."""

    def __init__(self, examination: Examination) -> None:
        super().__init__(logging.WARNING)
        self.examination = examination

    def emit(self, record: logging.LogRecord) -> None:
        self.examination.note(record.getMessage())
