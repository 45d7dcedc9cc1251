"""Several processes that train one model together, as torchrun and accelerate launch start them.

Each reads the data, computes its part of every batch and holds the whole model; the Trainer adds up the gradients. The
first one alone talks, logs and writes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from scripts.cli.console import ScriptError
from scripts.training.settings import TrainingSettings

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """How many processes train together, and which of them this is, from 0."""

    count: int = 1
    rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process talks, logs and writes."""
        return self.rank == 0

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Drop what this process prints, unless it is the first; an error that ends it is printed by who called."""
        with contextlib.ExitStack() as stack:
            if not self.is_first:
                nowhere = stack.enter_context(open(os.devnull, "w"))  # noqa: PTH123 not a file of ours
                stack.enter_context(contextlib.redirect_stdout(nowhere))
                stack.enter_context(contextlib.redirect_stderr(nowhere))
            yield

    def connect(self, on_cpu: bool) -> None:
        """Wait for the others to start."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState(cpu=on_cpu)

    def of_first(self, make: Callable[[], T]) -> T:
        """Call a function in the first process only, and return in each what it returned there."""
        if self.count == 1:
            return make()
        from accelerate.utils import broadcast_object_list

        values = [make() if self.is_first else None]
        broadcast_object_list(values)
        return values[0]  # type: ignore[return-value]

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.of_first(lambda: None)


def join(settings: TrainingSettings) -> Processes:
    """Return the processes that the environment names, and note their number in the settings.

    Raises:
        ScriptError: the variables do not belong together, or the settings are not for several processes.
    """
    try:
        count = int(os.environ.get("WORLD_SIZE", "1"))
        rank = int(os.environ.get("RANK", "0"))
    except ValueError:
        raise ScriptError("WORLD_SIZE and RANK must be numbers: torchrun and accelerate launch set them") from None
    if count == 1:
        return Processes()
    if "RANK" not in os.environ or "LOCAL_RANK" not in os.environ or not 0 <= rank < count:
        raise ScriptError(
            f"WORLD_SIZE={count} without RANK and LOCAL_RANK: unset it, or start with torchrun or accelerate launch"
        )
    if settings.search:
        raise ScriptError("--search tries its settings in one process: start scripts/train.py itself")
    if settings.batch_size % count:
        raise ScriptError(
            f"--batch-size {settings.batch_size}: {count} processes share each batch: take a multiple of {count}"
        )
    settings.processes = count
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read at import: each process warns of unused parameters
    return Processes(count, rank)
