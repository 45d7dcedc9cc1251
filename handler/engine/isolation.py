"""Failures of a forward pass: an error stays with the sequences that cause it, and a failed device computes no more."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

from handler.engine import cpu
from handler.engine.device import AnyDevice
from handler.errors import DeviceLost, InternalError, OutOfMemory, RequestError
from handler.sequences import Encoding
from handler.tasks import Output

logger = logging.getLogger(__name__)

Forward: TypeAlias = Callable[[list[Encoding]], Sequence[Output]]
Results: TypeAlias = list[Output | RequestError]  # of each encoding, in order


class FailureIsolation:
    """Runs batches of one device; a batch that fails is split, by halves where memory ran out, otherwise by rows."""

    def __init__(self, device: AnyDevice) -> None:
        self._device = device
        self.device_failed = False  # for good, as a GPU does for a process after some errors

    def attempt(self, forward: Forward, encodings: list[Encoding]) -> Results:
        """Run one batch; return the output of each encoding, or its error."""
        try:
            return [self.mark_device_failed()] * len(encodings) if self.device_failed else list(forward(encodings))
        except Exception as error:  # noqa: BLE001 - whatever fails must not fail the other sequences of the batch
            if is_device_failure(error):
                return [self.mark_device_failed()] * len(encodings)
            if not is_out_of_memory(error):
                return self._by_rows(forward, encodings, error)
        if self._device.type == "cuda":
            sys.modules["torch"].cuda.empty_cache()
        if len(encodings) == 1:
            logger.error("out of memory with one sequence of %d tokens", len(encodings[0]))
            return [OutOfMemory("not enough memory for this text")]
        middle = len(encodings) // 2
        logger.warning("out of memory with %d sequences: halving", len(encodings))
        return [*self.attempt(forward, encodings[:middle]), *self.attempt(forward, encodings[middle:])]

    def mark_device_failed(self) -> DeviceLost:
        """Compute nothing any more, for nothing on the device can be trusted; return the error to answer with."""
        if not self.device_failed:
            logger.error("the device is lost, this worker ends")
        self.device_failed = True
        return DeviceLost("the device failed: ask again, another worker takes over")

    def _by_rows(self, forward: Forward, encodings: list[Encoding], error: Exception) -> Results:
        # The message of an exception may hold a user's text: only its type and source line are logged.
        traceback = error.__traceback__
        while traceback and traceback.tb_next:
            traceback = traceback.tb_next
        where = f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}" if traceback else "?"
        logger.error("%s at %s with %d sequences", type(error).__name__, where, len(encodings))
        if len(encodings) == 1:
            return [InternalError(f"unexpected {type(error).__name__} while computing")]
        return [result for encoding in encodings for result in self.attempt(forward, [encoding])]


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out; on a CPU, PyTorch raises a RuntimeError of its allocator."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return True
    torch = cpu.imported_torch()
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def is_device_failure(error: BaseException) -> bool:
    """Tell whether the device failed, as a GPU does for a process after some errors."""
    torch = cpu.imported_torch()
    return torch is not None and isinstance(error, torch.AcceleratorError)
